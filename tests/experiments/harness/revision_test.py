import shutil
import subprocess

import pytest

from experiments.harness.revision import find_commit

pytestmark = pytest.mark.skipif(not shutil.which("git"), reason="there is no git")


@pytest.fixture
def checkout(tmp_path):
    """A repository with a file of code and a card, both committed."""
    for name in ("code/module.py", "saved_models/rule/card.json"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("before")
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init"], ["add", "."], [*who, "commit", "--message=first"]):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path


def _head(folder):
    command = ["git", "rev-parse", "HEAD"]
    process = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return process.stdout.strip()


def test_the_commit_is_that_of_the_checkout_from_any_of_its_folders(checkout):
    assert find_commit(checkout / "code") == _head(checkout)


def test_it_is_dirty_where_a_file_differs(checkout):
    (checkout / "code" / "module.py").write_text("after")
    assert find_commit(checkout / "code") == f"{_head(checkout)}-dirty"


def test_a_card_that_differs_and_a_new_file_do_not_make_it_dirty(checkout):
    (checkout / "saved_models" / "rule" / "card.json").write_text("after")
    (checkout / "code" / "new.py").write_text("new")
    assert find_commit(checkout / "code") == _head(checkout)


def test_outside_of_a_repository_there_is_none(tmp_path):
    assert find_commit(tmp_path) is None
