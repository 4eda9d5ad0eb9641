import errno
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.exclusive_lock import exclusive_lock

ROOT = Path(__file__).resolve().parents[2]
ADD_LINES = """
import sys
from pathlib import Path
from experiments.exclusive_lock import exclusive_lock

path = Path(sys.argv[1])
for count in range(100):
    with exclusive_lock(path.parent):
        before = path.read_text()
        path.write_text(before + f"{sys.argv[2]} {count}\\n")
"""


def test_what_processes_change_at_the_same_time_is_not_lost(tmp_path):
    path = tmp_path / "lines"
    path.write_text("")
    names = ["one", "two", "three"]
    processes = [
        subprocess.Popen([sys.executable, "-c", ADD_LINES, str(path), name], cwd=ROOT)
        for name in names
    ]
    assert [process.wait() for process in processes] == [0, 0, 0]
    wanted = [f"{name} {count}" for name in names for count in range(100)]
    assert sorted(path.read_text().splitlines()) == sorted(wanted)


@pytest.mark.timeout(30)
def test_an_error_inside_lets_others_in(tmp_path):
    with pytest.raises(KeyError), exclusive_lock(tmp_path):
        raise KeyError
    with exclusive_lock(tmp_path):
        pass


def test_where_a_file_system_has_no_locks_nobody_waits(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with exclusive_lock(tmp_path), exclusive_lock(tmp_path):
        pass


def test_the_folder_stays_as_it_was(tmp_path):
    with exclusive_lock(tmp_path):
        pass
    assert not list(tmp_path.iterdir())
