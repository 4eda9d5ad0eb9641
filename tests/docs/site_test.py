"""The built site: every public name has its entry, and Chromium finds nothing broken in it."""

import importlib
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs.documents import ROOT

PACKAGES = (
    "l2l_tf",
    *("l2l_tf.analysis", "l2l_tf.data", "l2l_tf.delivery", "l2l_tf.evaluation"),
    *("l2l_tf.problems", "l2l_tf.reporting", "l2l_tf.rules", "l2l_tf.training"),
    "l2l_tf.training.estimators",
)
# Beside what packages export: modules that are imported by their own names.
MODULES = (
    "l2l_tf.data.datasets",
    "l2l_tf.data.photos",
    "l2l_tf.reporting.figures",
    "l2l_tf.reporting.line_styles",
)
DESKTOP, PHONE = (1280, 900), (390, 844)


def _build(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={folder}", *arguments],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built as `make docs` does: warnings, such as dead links, are errors."""
    folder = tmp_path_factory.mktemp("site")
    process = _build(folder)
    assert process.returncode == 0, process.stderr
    return folder


@pytest.fixture(scope="module")
def entries(site) -> set[str]:
    """The names that have an entry, as the site's inventory lists them for other sites."""
    contents = (site / "objects.inv").read_bytes()
    # Four lines of text stand before the list.
    lines = zlib.decompress(contents.split(b"\n", 4)[4]).decode().splitlines()
    return {line.split()[0] for line in lines}


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_has_an_entry(package, entries):
    missing = []
    for name in importlib.import_module(package).__all__:
        # A function in a module of the same name has the entry of its own module.
        home = getattr(getattr(importlib.import_module(package), name), "__module__", package)
        if not {f"{package}.{name}", f"{home}.{name}"} & entries:
            missing.append(name)
    assert missing == []


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_every_function_and_class_of_a_public_module_has_an_entry(module, entries):
    contents = vars(importlib.import_module(module))
    names = {
        name
        for name, value in contents.items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module
    }
    assert names
    assert [name for name in names if f"{module}.{name}" not in entries] == []


def test_subpackages_without_public_names_of_their_own_are_left_out():
    folders = {path.parent for path in (ROOT / "l2l_tf").rglob("__init__.py")}
    packages = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert packages - set(PACKAGES) == {"l2l_tf.rules.execution", "l2l_tf.rules.guards"}
    for package in packages - set(PACKAGES):
        assert not hasattr(importlib.import_module(package), "__all__")


@pytest.mark.slow
def test_a_dead_link_fails_the_build(tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text("# Home\n\n[nowhere](nothing.md)\n")
    settings = tmp_path / "mkdocs.yml"
    settings.write_text("site_name: test\n")
    process = _build(tmp_path / "site", f"--config-file={settings}")
    assert process.returncode == 1
    assert "nothing.md" in process.stderr


@pytest.fixture(scope="module")
def browser():
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium on this machine, in which to open the site")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Chromium refuses its sandbox to root, as which CI may run.
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        started = playwright.chromium.launch(executable_path=path, args=options)
        yield started
        started.close()


class Visit:
    """Opens pages, and collects what is wrong with them.

    Args:
        browser: the browser.
        site: the site's folder.

    Attributes:
        faults: sentences.
        links: addresses that pages link to.
        targets: addresses that exist: pages, and headings within them.
    """

    def __init__(self, browser, site):
        self._site = site
        self.faults: list[str] = []
        self.links: set[str] = set()
        self.targets: set[str] = set()
        self.page = browser.new_page()
        self.page.on("console", self._heed)
        self.page.on("pageerror", lambda error: self.faults.append(f"{self.page.url}: {error}"))
        self.page.on("requestfailed", lambda one: self.faults.append(f"no {one.url}"))
        self.page.on("request", self._note)

    def _heed(self, message) -> None:
        if message.type == "error":
            self.faults.append(f"{self.page.url}: {message.text}")

    def _note(self, request) -> None:
        if urlsplit(request.url).scheme not in ("file", "data", "blob", "about"):
            self.faults.append(f"{self.page.url} fetches {request.url}")

    def look_at(self, path: Path) -> None:
        """Opens a page at the widths of a desktop and of a phone."""
        page, address = self.page, path.as_uri()
        page.set_viewport_size({"width": DESKTOP[0], "height": DESKTOP[1]})
        page.goto(address)
        for width, height in (DESKTOP, PHONE):
            page.set_viewport_size({"width": width, "height": height})
            if (wide := page.evaluate("document.documentElement.scrollWidth")) > width:
                self.faults.append(f"{address} is {wide} wide on a screen of {width}")
        broken = "[...document.images].filter(one => !one.naturalWidth).map(one => one.src)"
        self.faults += [f"{address}: no picture {one}" for one in page.evaluate(broken)]
        self.links |= set(page.evaluate("[...document.links].map(one => one.href)"))
        named = page.evaluate("[...document.querySelectorAll('[id]')].map(one => one.id)")
        self.targets |= {address, *(f"{address}#{one}" for one in named)}

    def dead_links(self) -> list[str]:
        """Returns links within the site that lead nowhere."""
        within = [one for one in self.links if urlsplit(one).scheme == "file"]
        return [
            one
            for one in within
            if unquote(one.removesuffix("#")) not in map(unquote, self.targets)
            and ("#" in one or not Path(unquote(urlsplit(one).path)).exists())
        ]


@pytest.mark.slow
def test_chromium_finds_nothing_broken_and_nothing_is_fetched(site, browser):
    visit = Visit(browser, site)
    pages = sorted(path for path in site.rglob("*.html") if path.name != "404.html")
    assert len(pages) > 30
    for path in pages:
        visit.look_at(path)
    assert visit.faults == []
    assert visit.dead_links() == []


@pytest.mark.slow
def test_search_finds_pages_that_are_opened_from_files(site, browser):
    visit = Visit(browser, site)
    visit.page.goto((site / "index.html").as_uri())
    visit.page.locator(".md-search__input").fill("fallback")
    result = visit.page.locator(".md-search-result__link").first
    result.wait_for(state="attached", timeout=30_000)
    assert "html" in result.get_attribute("href")
    assert visit.faults == []


@pytest.mark.slow
def test_what_is_broken_is_found(tmp_path, browser):
    page = tmp_path / "page.html"
    page.write_text(
        "<h1 id='top'>Page</h1><img src='nothing.png'><a href='nothing.html'>a</a>"
        "<a href='#nowhere'>b</a><a href='#top'>c</a><div style='width: 1000px'>wide</div>"
        "<script>console.error('ill'); fetch('https://example.org')</script>"
    )
    visit = Visit(browser, tmp_path)
    visit.look_at(page)
    said = "\n".join(visit.faults)
    for fault in ("no picture", "wide on a screen of 390", "ill", "fetches https://example.org"):
        assert fault in said
    assert set(visit.dead_links()) == {
        f"{page.as_uri()}#nowhere",
        f"{tmp_path.as_uri()}/nothing.html",
    }
