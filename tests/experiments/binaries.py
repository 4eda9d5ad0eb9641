"""Runs experiment binaries in processes of their own, as a user does."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]

# Each case runs in a fork of one process that has imported TensorFlow and not yet used it.
_FORKS = '''
import importlib
import json
import os
import sys
import traceback

from experiments.harness import common

name = sys.argv[1]
binary = importlib.import_module(f"experiments.{name}")
if hasattr(binary, "__path__"):
    binary = importlib.import_module(f"experiments.{name}.__main__")


def interrupted(strategy):
    raise KeyboardInterrupt


def status_of(function):
    """Does what Python does at its end, without the second that TensorFlow takes to close."""
    try:
        common.run(function)
    except SystemExit as end:
        if not isinstance(end.code, str):
            return end.code or 0
        print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    return 1


for case, (arguments, stderr) in json.load(sys.stdin).items():
    child = os.fork()
    if not child:
        os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT), sys.stderr.fileno())
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.argv = [f"{name}.py", *arguments]
        status = status_of(interrupted if case == "interrupted" else binary.main)
        sys.stderr.flush()
        os._exit(status)
    _, status = os.waitpid(child, 0)
    print(json.dumps([case, os.waitstatus_to_exitcode(status)]), flush=True)
'''


class Refusal(NamedTuple):
    """How a process ended that should refuse its arguments.

    Attributes:
        folder: the case's folder.
        status: the exit status.
        errors: what it said on standard error.
        unchanged: whether all files in the folder stayed as they were.
    """

    folder: Path
    status: int
    errors: str
    unchanged: bool


def start(binary: str, *arguments: str, **environment: str) -> subprocess.Popen:
    """Starts `python -m experiments.<binary>`."""
    return subprocess.Popen(
        [sys.executable, "-m", f"experiments.{binary}", *arguments],
        cwd=ROOT,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(binary: str, *arguments: str, **environment: str) -> str:
    """Runs a binary to its end and returns what it printed: nothing on standard error."""
    process = start(binary, *arguments, **environment)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert own_lines(errors) == ""
    return output


def own_lines(errors: str) -> str:
    """Returns standard error without what TensorFlow's C++ says at its start."""
    noise = re.compile(r"WARNING: All log messages|[IWE]0000 ")
    return "\n".join(line for line in errors.splitlines() if not noise.match(line))


def strict_json(path: Path) -> dict:
    """Returns what a file holds, which must be JSON in the strict sense, without NaN."""

    def refuse(constant):
        raise AssertionError(constant)

    return json.loads(path.read_text(), parse_constant=refuse)


def refusals(binary: str, folders: dict[str, Path], arguments: dict[str, list[str]]):
    """Returns, by case, how a binary refused its arguments.

    The case "interrupted" gets Ctrl-C in place of running the experiment.

    Args:
        binary: the binary's name.
        folders: each case's folder, in which nothing should change.
        arguments: each case's arguments, where @ stands for its folder.
    """
    before = {case: _contents(folder) for case, folder in folders.items()}
    files = {case: folder.with_name(f"{folder.name}.stderr") for case, folder in folders.items()}
    cases = {
        case: ([one.replace("@", str(folder)) for one in arguments[case]], str(files[case]))
        for case, folder in folders.items()
    }
    process = subprocess.run(
        [sys.executable, "-c", _FORKS, binary],
        cwd=ROOT,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=False,
    )
    statuses = dict(json.loads(line) for line in process.stdout.splitlines())
    assert statuses.keys() == cases.keys(), process.stderr
    return {
        case: Refusal(
            folder,
            statuses[case],
            own_lines(files[case].read_text()),
            _contents(folder) == before[case],
        )
        for case, folder in folders.items()
    }


def _contents(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }
