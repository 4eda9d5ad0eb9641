"""Runs experiment binaries as a user does, or in forks of a process that has imported them."""

import atexit
import functools
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]

# Runs in a fork, for each line that it is given, what has imported TensorFlow and not yet used it.
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


for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if not child:
        for descriptor, ending in ((1, "out"), (2, "err")):
            file = os.open(f"{order['files']}.{ending}", os.O_WRONLY | os.O_CREAT)
            os.dup2(file, descriptor)
        os.environ.update(order["environment"])
        sys.argv = [f"{name}.py", *order["arguments"]]
        status = status_of(interrupted if order["is_interrupted"] else binary.main)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
'''


class Ended(NamedTuple):
    """How a process ended, and what it said on standard output and standard error."""

    status: int
    output: str
    errors: str


@functools.cache
def _forks(binary: str) -> subprocess.Popen:
    """Returns the process whose forks run a binary; it ends with this one."""
    process = subprocess.Popen(
        [sys.executable, "-c", _FORKS, binary],
        cwd=ROOT,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def end():
        process.communicate()

    atexit.register(end)
    return process


def run_fork(
    binary: str, *arguments: str, is_interrupted: bool = False, **environment: str
) -> Ended:
    """Runs a binary to its end in a fork of a process that has imported it.

    Args:
        binary: the binary's name.
        *arguments: its arguments.
        is_interrupted: whether it gets Ctrl-C in place of running the experiment.
        **environment: variables to set.
    """
    process = _forks(binary)
    with tempfile.TemporaryDirectory() as folder:
        order = {
            "arguments": arguments,
            "environment": environment,
            "files": f"{folder}/said",
            "is_interrupted": is_interrupted,
        }
        print(json.dumps(order), file=process.stdin, flush=True)
        status = process.stdout.readline()
        assert status, f"experiments.{binary} can't be imported: see standard error"
        said = (Path(folder, f"said.{ending}").read_text() for ending in ("out", "err"))
        return Ended(int(status), *said)


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
    """Runs a binary to its end and returns what it printed: nothing on standard error.

    It runs in a fork, since a process of its own takes seconds to import TensorFlow.
    """
    return _output(run_fork(binary, *arguments, **environment))


def run_as_users_do(binary: str, *arguments: str) -> str:
    """Does what `run` does, in a process of its own."""
    process = start(binary, *arguments)
    output, errors = process.communicate()
    return _output(Ended(process.returncode, output, errors))


def _output(ended: Ended) -> str:
    assert ended.status == 0, ended.errors
    assert own_lines(ended.errors) == ""
    return ended.output


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
    refused = {}
    for case, folder in folders.items():
        before = _contents(folder)
        own = [one.replace("@", str(folder)) for one in arguments[case]]
        ended = run_fork(binary, *own, is_interrupted=case == "interrupted")
        unchanged = _contents(folder) == before
        refused[case] = Refusal(folder, ended.status, own_lines(ended.errors), unchanged)
    return refused


def _contents(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }
