"""Runs experiment binaries as a user does, or in forks of a process with TensorFlow."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.forks import ROOT, TIMEOUT, Ended, Fork


def start_fork(
    binary: str, *arguments: str, is_interrupted: bool = False, **environment: str
) -> Fork:
    """Starts a binary in a fork; it may get Ctrl-C in place of running the experiment."""
    what = {"name": binary, "is_interrupted": is_interrupted}
    return Fork(what, *arguments, **environment)


def run_fork(
    binary: str, *arguments: str, is_interrupted: bool = False, **environment: str
) -> Ended:
    """Does what `start_fork` does, and waits for the end."""
    return start_fork(binary, *arguments, is_interrupted=is_interrupted, **environment).end()


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


def run(binary: str, *arguments: str, **environment: str) -> str:
    """Runs a binary to its end and returns what it printed: nothing on standard error.

    It runs in a fork, since a process of its own takes seconds to import TensorFlow.
    """
    return _output(run_fork(binary, *arguments, **environment))


def run_as_users_do(binary: str, *arguments: str) -> str:
    """Does what `run` does, in a process of its own."""
    process = subprocess.run(
        [sys.executable, "-m", f"experiments.{binary}", *arguments],
        cwd=ROOT,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    return _output(Ended(process.returncode, process.stdout, process.stderr))


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
