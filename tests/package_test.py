"""What is handed out: distributions, and how they describe the project."""

import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

import l2l_tf

ROOT = Path(__file__).resolve().parents[1]


def _setup():
    spec = importlib.util.spec_from_file_location("setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """A source distribution and a wheel made from it, which are built without a warning."""
    folder = tmp_path_factory.mktemp("dist")
    copy = tmp_path_factory.mktemp("copy") / "l2l_tf"
    # What a commit has: what git does not ignore.
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.check_output(listed, cwd=ROOT, text=True).splitlines()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a checkout, of which to build distributions")
    for name in names:
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "build", "--no-isolation", f"--outdir={folder}", str(copy)]
    # Without byte code, setuptools warns.
    environment = {key: os.environ[key] for key in os.environ if key != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.run(build, capture_output=True, text=True, check=False, env=environment)
    said = process.stdout + process.stderr
    assert process.returncode == 0, said
    assert not re.search(r"warning|deprecat", said, re.IGNORECASE), said
    (source,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return source, wheel


@pytest.mark.slow
def test_twine_finds_nothing_to_complain_about(distributions):
    check = [sys.executable, "-m", "twine", "check", "--strict", *map(str, distributions)]
    process = subprocess.run(check, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr


@pytest.mark.slow
def test_a_source_distribution_can_be_tested_and_documented(distributions):
    with tarfile.open(distributions[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder in ("docs", "tests", "experiments", "benchmarks", "saved_models", "l2l_tf"):
        files = {
            path.relative_to(ROOT).as_posix()
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and path.suffix != ".pyc"
        }
        assert files <= names
    assert {"Makefile", "mkdocs.yml", "CHANGELOG.md", "constraints.txt"} <= names


@pytest.mark.slow
def test_a_wheel_holds_the_rules_and_says_what_it_is(distributions):
    with zipfile.ZipFile(distributions[1]) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith("METADATA"))
        described = message_from_bytes(archive.read(metadata))
    assert {"l2l_tf/saved_models/general/card.json", "l2l_tf/py.typed"} <= set(names)
    assert not [name for name in names if name.startswith(("tests", "docs", "experiments"))]
    assert described["Version"] == l2l_tf.__version__
    assert described["Description-Content-Type"] == "text/markdown"
    body = described.get_payload()
    addresses = re.findall(r"\]\((.*?)\)", body)
    assert addresses
    assert all("://" in one for one in addresses)
    assert "<!--" not in body
    assert "| `general` |" in body


def test_one_version_is_everywhere():
    version = l2l_tf.__version__
    assert f'\nversion = "{version}"\n' in (ROOT / "pyproject.toml").read_text()
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    # The newest stands first.
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert re.findall(r"^## (.*)$", changes, re.MULTILINE)[0] == version


def test_links_of_the_description_lead_to_the_repository_where_there_is_one():
    readme = "a [b](docs/b.md) ![c](docs/c.png) [d](https://example.org)<!-- e -->\n"
    describe = _setup().long_description
    assert describe(readme, None) == "a b  [d](https://example.org)"
    assert describe(readme, "https://host/project") == (
        "a [b](https://host/project/blob/main/docs/b.md) "
        "![c](https://host/project/raw/main/docs/c.png) [d](https://example.org)"
    )
