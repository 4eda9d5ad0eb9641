import subprocess
import sys
from pathlib import Path

from experiments.exclusive import alone_in

ROOT = Path(__file__).resolve().parents[2]
ADD_LINES = """
import sys
from pathlib import Path
from experiments.exclusive import alone_in

path = Path(sys.argv[1])
for count in range(100):
    with alone_in(path.parent):
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


def test_an_error_inside_lets_others_in(tmp_path):
    try:
        with alone_in(tmp_path):
            raise KeyError
    except KeyError:
        pass
    with alone_in(tmp_path):
        pass


def test_the_folder_stays_as_it_was(tmp_path):
    with alone_in(tmp_path):
        pass
    assert not list(tmp_path.iterdir())
