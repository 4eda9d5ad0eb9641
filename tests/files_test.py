import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from l2l_tf.files import (
    expanded,
    move_into_place,
    partial_path,
    put_back,
    remove_leftovers,
    strict_json,
    write_json,
    written_whole,
)


def test_a_home_folder_takes_the_place_of_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/results") == tmp_path / "results"
    assert expanded("results/~") == expanded("./results/~")
    assert str(expanded("~no_such_user/results")) == "~no_such_user/results"


def test_numbers_that_are_not_finite_become_null_as_json_has_none():
    contents = {"losses": [1.5, float("inf")], "nested": {"stderr": (float("nan"), 2)}, "n": None}
    assert json.loads(strict_json(contents)) == {
        "losses": [1.5, None],
        "nested": {"stderr": [None, 2]},
        "n": None,
    }


def test_json_comes_back_as_it_was_written(tmp_path):
    path = tmp_path / "made" / "results.json"
    write_json(path, {"experiment": "quadratic", "rows": [{"final_losses": [3.0, 2.0, 1.0]}]})
    assert json.loads(path.read_text()) == {
        "experiment": "quadratic",
        "rows": [{"final_losses": [3.0, 2.0, 1.0]}],
    }
    assert path.read_text().endswith("}\n")
    assert os.listdir(path.parent) == ["results.json"]


def test_what_can_not_be_written_leaves_the_older_file_whole(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, {"seed": 0})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(path, {"seed": object()})
    assert json.loads(path.read_text()) == {"seed": 0}
    assert os.listdir(tmp_path) == ["results.json"]


def test_an_error_on_the_way_leaves_the_older_file_whole_and_nothing_beside_it(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, {"seed": 0})

    def fail_halfway():
        with written_whole(path) as partial:
            partial.write_text("{")
            raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        fail_halfway()
    assert json.loads(path.read_text()) == {"seed": 0}
    assert os.listdir(tmp_path) == ["results.json"]


def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    seen = []

    def look(self, target):
        # At this moment a crash would leave what is seen here.
        seen.append((path.exists(), json.loads(self.read_text()), target))
        os.rename(self, target)

    monkeypatch.setattr("pathlib.Path.replace", look)
    write_json(path, {"seed": 0})
    assert seen == [(False, {"seed": 0}, path)]
    assert json.loads(path.read_text()) == {"seed": 0}


KILLED_WHILE_WRITING = """
import os, signal, sys
from l2l_tf.files import partial_path, written_whole
from pathlib import Path
path = Path(sys.argv[1])
partial_path(path.with_name("folder")).mkdir()
with written_whole(path) as partial:
    partial.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_removed_by_the_next_one(tmp_path):
    path = tmp_path / "results.json"
    killed = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, path], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 2
    write_json(path, {"seed": 0})
    remove_leftovers(tmp_path / "folder")
    assert os.listdir(tmp_path) == ["results.json"]


def test_what_a_running_process_writes_is_left_alone(tmp_path):
    path = tmp_path / "results.json"
    # The parent of this process runs.
    with written_whole(path) as partial:
        partial.write_text("{}")
        other = partial.with_name(partial.name.replace(str(os.getpid()), str(os.getppid())))
        other.write_text("half")
    assert sorted(os.listdir(tmp_path)) == sorted(["results.json", other.name])


# Folders that take the place of others


def _folder(path, text):
    path.mkdir()
    (path / "text").write_text(text)
    return path


def test_a_folder_takes_the_place_of_an_older_one(tmp_path):
    path = _folder(tmp_path / "rule", "older")
    move_into_place(_folder(partial_path(path), "newer"), path)
    assert (path / "text").read_text() == "newer"
    assert os.listdir(tmp_path) == ["rule"]


KILLED_BETWEEN_THE_RENAMES = """
import os, signal, sys
from pathlib import Path
from l2l_tf import files
path = Path(sys.argv[1])
partial = files.partial_path(path)
partial.mkdir()
(partial / "text").write_text("newer")
rename = Path.rename
def kill_at_the_second(self, target):
    if self == partial:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)
Path.rename = kill_at_the_second
files.move_into_place(partial, path)
"""


@pytest.fixture
def killed(tmp_path):
    """A path whose older folder a killed process had moved away."""
    path = _folder(tmp_path / "rule", "older")
    process = subprocess.run([sys.executable, "-c", KILLED_BETWEEN_THE_RENAMES, path], check=False)
    assert process.returncode == -signal.SIGKILL
    assert not path.exists()
    return path


def test_a_folder_that_a_killed_process_had_moved_away_is_put_back(killed):
    put_back(killed)
    assert (killed / "text").read_text() == "older"
    remove_leftovers(killed)
    assert os.listdir(killed.parent) == ["rule"]


def test_a_folder_that_was_moved_away_stays_where_nothing_has_taken_its_place(killed):
    remove_leftovers(killed)
    put_back(killed.with_name("other"))
    assert not killed.exists()
    put_back(killed)
    assert (killed / "text").read_text() == "older"


def test_a_folder_that_was_replaced_does_not_come_back(killed):
    _folder(killed, "newest")
    put_back(killed)
    assert (killed / "text").read_text() == "newest"
    remove_leftovers(killed)
    assert os.listdir(killed.parent) == ["rule"]


def test_what_a_running_process_has_moved_away_is_left_alone(killed):
    (moved,) = (one for one in killed.parent.iterdir() if one.name.startswith(".replaced-"))
    process = moved.name.removesuffix("-rule").rpartition("-")[2]
    # The parent of this process runs.
    moved.rename(moved.with_name(moved.name.replace(process, str(os.getppid()))))
    put_back(killed)
    assert not killed.exists()
    _folder(killed, "newest")
    remove_leftovers(killed)
    assert len(os.listdir(killed.parent)) == 2


def test_threads_that_write_one_file_do_not_disturb_each_other(tmp_path):
    path, barrier = tmp_path / "results.json", threading.Barrier(2)

    def write(seed):
        with written_whole(path) as partial:
            partial.write_text(json.dumps({"seed": seed}))
            barrier.wait(10)
            # The other one has begun, and looked for what may be removed.
            assert json.loads(partial.read_text()) == {"seed": seed}
            barrier.wait(10)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, range(2)))
    assert json.loads(path.read_text())["seed"] in (0, 1)
    assert os.listdir(tmp_path) == ["results.json"]
