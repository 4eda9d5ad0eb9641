import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import Timeout

from experiments.harness.places import check_output, kept_folder, locked, try_to_write

ROOT = Path(__file__).resolve().parents[3]
ADD_LINES = """
import sys
from pathlib import Path
from experiments.harness.places import locked

path = Path(sys.argv[1])
for count in range(30):
    with locked(path.with_name(".lock")):
        before = path.read_text()
        path.write_text(before + f"{sys.argv[2]} {count}\\n")
"""
WORK_IN_FOLDER = """
import sys, time
from pathlib import Path
from experiments.harness.places import kept_folder

with kept_folder("output_dir", Path(sys.argv[1])):
    print("at work", flush=True)
    time.sleep(600)
"""


def _message(kind, function, *arguments):
    with pytest.raises(kind) as raised:
        function(*arguments)
    return str(raised.value)


def _enter(flag, folder):
    with kept_folder(flag, folder):
        pass


# Locks


def test_what_processes_change_at_the_same_time_is_not_lost(tmp_path):
    path = tmp_path / "lines"
    path.write_text("")
    names = ["one", "two", "three"]
    processes = [
        subprocess.Popen([sys.executable, "-c", ADD_LINES, str(path), name], cwd=ROOT)
        for name in names
    ]
    assert [process.wait() for process in processes] == [0, 0, 0]
    wanted = [f"{name} {count}" for name in names for count in range(30)]
    assert sorted(path.read_text().splitlines()) == sorted(wanted)
    assert os.listdir(tmp_path) == ["lines"]


@pytest.mark.timeout(30)
def test_an_error_inside_lets_others_in(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path / ".lock"):
        raise KeyError
    with locked(tmp_path / ".lock", waits=False):
        pass
    assert not list(tmp_path.iterdir())


def test_who_does_not_wait_is_told(tmp_path):
    with locked(tmp_path / ".lock"), pytest.raises(Timeout), locked(tmp_path / ".lock", False):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_a_file_system_has_no_locks_nobody_waits(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with locked(tmp_path / ".lock"), locked(tmp_path / ".lock"):
        pass
    assert not list(tmp_path.iterdir())


# Folders of runs


@pytest.fixture
def other_run(tmp_path):
    """Another run in the folder `out`."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORK_IN_FOLDER, str(tmp_path / "out")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "at work\n"
    yield process
    process.kill()
    process.communicate()


def test_a_folder_in_which_another_run_is_at_work_is_refused(tmp_path, other_run):
    folder = tmp_path / "out"
    assert _message(OSError, _enter, "output_dir", folder) == (
        "--output_dir must be a folder that no other run is using. Received: "
        f"--output_dir={folder}, in which one is at work. Wait for its end, or choose another "
        "folder."
    )
    # However the path is written; another folder is free.
    (tmp_path / "link").symlink_to(folder)
    assert "in which one is at work" in _message(OSError, _enter, "output_dir", tmp_path / "link")
    _enter("output_dir", tmp_path / "other")


def test_a_folder_of_a_killed_run_is_free(tmp_path, other_run):
    other_run.send_signal(signal.SIGKILL)
    other_run.wait()
    assert os.listdir(tmp_path / "out") == [".run.lock"]
    _enter("output_dir", tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []


def test_a_run_that_writes_nothing_leaves_nothing_behind(tmp_path):
    _enter("output_dir", tmp_path / "new" / "out")
    assert list(tmp_path.iterdir()) == []
    with kept_folder("output_dir", tmp_path / "new" / "out"):
        (tmp_path / "new" / "out" / "results.json").write_text("{}")
    assert [path.name for path in (tmp_path / "new" / "out").iterdir()] == ["results.json"]


def test_a_folder_that_is_removed_while_a_run_goes_on_is_no_error_of_its_own(tmp_path):
    with kept_folder("output_dir", tmp_path / "out"):
        (tmp_path / "out" / ".run.lock").unlink()
        (tmp_path / "out").rmdir()


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("file", "File exists"),
        ("file/out", "Not a directory"),
        ("file/out/more", "Not a directory"),
        ("x" * 300, "File name too long"),
    ],
)
def test_a_folder_that_can_not_be_is_refused(tmp_path, place, reason):
    (tmp_path / "file").write_text("mine")
    folder = tmp_path / place
    assert _message(ValueError, _enter, "output_dir", folder) == (
        "--output_dir must be a folder that can be written to, or a path where one can be made. "
        f"Received: --output_dir={folder}, where {reason}. Choose another path."
    )
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_that_nothing_can_be_written_to_is_refused(tmp_path, monkeypatch):
    def refuse(self, _):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    # Permissions do not bind everyone: only trying tells.
    monkeypatch.setattr(Path, "write_bytes", refuse)
    for folder in (tmp_path, tmp_path / "new" / "out"):
        assert _message(ValueError, _enter, "output_dir", folder) == (
            "--output_dir must be a folder that can be written to, or a path where one can be "
            f"made. Received: --output_dir={folder}, where Read-only file system. Choose another "
            "path."
        )
    assert list(tmp_path.iterdir()) == []


# Files


def test_where_a_file_can_be_written_nothing_is_left_of_the_trial(tmp_path):
    (tmp_path / "old.json").write_text("old")
    try_to_write(tmp_path / "old.json")
    try_to_write(tmp_path / "new" / "folder" / "new.json")
    assert os.listdir(tmp_path) == ["old.json"]
    assert (tmp_path / "old.json").read_text() == "old"


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("folder", "Is a directory"),
        ("file/out.png", "File exists"),
        ("file/more/out.png", "Not a directory"),
        ("y" * 252, "File name too long"),
    ],
)
def test_a_file_that_can_not_be_written_is_refused(tmp_path, place, reason):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    assert _message(ValueError, check_output, "output", tmp_path / place) == (
        "--output must be a path where a file can be written. "
        f"Received: --output={tmp_path / place}, where {reason}. Choose another path."
    )
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
