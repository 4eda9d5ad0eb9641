"""Programs in forks of a process that has imported TensorFlow, which takes seconds to import."""

import atexit
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
# Of some seconds: who waits for something for ever should fail a test.
TIMEOUT = 600
# Runs a module with processes of its own, which start as forks too.
MODULE = """
import runpy
import subprocess
import sys

from tests.fork_server import Workers

subprocess.run = Workers().run
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


class Ended(NamedTuple):
    """How a process ended, and what it said on standard output and standard error."""

    status: int
    output: str
    errors: str


class Fork:
    """A program that runs in a fork of a process that has imported TensorFlow.

    Args:
        what: the program, or the binary's name and whether it gets Ctrl-C in place of running the
            experiment.
        *arguments: the program's arguments.
        **environment: variables to set.
    """

    def __init__(self, what: str | dict, *arguments: str, **environment: str):
        self._folder = tempfile.TemporaryDirectory()
        self._files = f"{self._folder.name}/said"
        self._status: int | None = None
        self.pid = _answer(
            {
                "program" if isinstance(what, str) else "binary": what,
                "arguments": arguments,
                "environment": os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | environment,
                "files": self._files,
            }
        )

    def has_ended(self) -> bool:
        if self._status is None:
            self._status = _answer({"pid": self.pid, "files": self._files})
        return self._status is not None

    def end(self, timeout: float = TIMEOUT) -> Ended:
        """Waits for the end, and kills what has not ended in some seconds."""
        deadline = time.monotonic() + timeout
        while not self.has_ended():
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.01)
        output, errors = (Path(f"{self._files}.{one}").read_text() for one in ("out", "err"))
        self._folder.cleanup()
        return Ended(self._status, output, errors)


@functools.cache
def _server() -> subprocess.Popen:
    """Returns the process whose forks run programs; it ends with this one."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fork_server"],
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


def _answer(order: dict) -> int | None:
    process = _server()
    print(json.dumps(order), file=process.stdin, flush=True)
    answer = process.stdout.readline()
    assert answer, "the process that forks has ended: see standard error"
    return json.loads(answer)


def run_program(program: str, *arguments: str, **environment: str) -> Ended:
    """Runs a program in a fork and waits for its end."""
    return Fork(program, *arguments, **environment).end()


def run_module(module: str, *arguments: str) -> str:
    """Runs a module as `python -m` does, in forks, and returns what it printed."""
    ended = run_program(MODULE, module, *arguments)
    assert ended.status == 0, ended.errors
    return ended.output
