"""Runs programs in forks of this process, which has imported TensorFlow and never uses it.

It reads orders from standard input, and answers each with one line. An order to start a program is
answered with its process's number; one to look after a process, with the exit status, or null if
it still runs.
"""

import gc
import importlib
import json
import os
import pkgutil
import runpy
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import l2l_tf

# What binaries import besides the package, most of them only once they need it.
IMPORTED = (
    "filelock",
    "matplotlib.backends.backend_agg",
    "PIL.JpegImagePlugin",
    "sklearn.datasets",
)
BINARY = """
import importlib
import sys

from experiments.harness import common

binary = importlib.import_module("experiments.{name}")
if hasattr(binary, "__path__"):
    binary = importlib.import_module("experiments.{name}.__main__")


def interrupted(strategy):
    raise KeyboardInterrupt


sys.argv[0] = "{name}.py"
common.run(interrupted if {is_interrupted} else binary.main)
"""


_RUN = subprocess.run
# What else `Workers.run` may be asked for.
CATCHING = (
    {"stdout": subprocess.PIPE},
    {"stdout": subprocess.PIPE, "text": True},
    {"capture_output": True, "text": True},
)


class Workers:
    """Forks of this process as it is when this is made, which run Python modules.

    A module that starts processes of its own defines flags, which those may not share.
    """

    def __init__(self):
        orders, self._orders = os.pipe()
        self._answers, answers = os.pipe()
        if not os.fork():
            os.close(self._orders)
            with os.fdopen(orders) as lines, os.fdopen(answers, "w") as said:
                for line in lines:
                    print(json.dumps(_ended(json.loads(line))), file=said, flush=True)
            os._exit(0)
        os.close(orders)
        os.close(answers)

    def run(
        self, command: Sequence[str], check: bool = False, **options: object
    ) -> subprocess.CompletedProcess:
        """Does what `subprocess.run` does, in a fork if the command is `python -m`."""
        if command[:2] != [sys.executable, "-m"]:
            return _RUN(command, check=check, **options)
        assert options in CATCHING, options
        os.write(self._orders, f"{json.dumps(command[2:])}\n".encode())
        with open(self._answers, closefd=False) as answers:
            status, output = json.loads(answers.readline())
        if check and status:
            raise subprocess.CalledProcessError(status, command, output)
        text = output if "text" in options else output.encode()
        return subprocess.CompletedProcess(command, status, text)


def _ended(arguments: list[str]) -> tuple[int, str]:
    """Runs a module in a fork, and returns its status and output."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "out")
        pid = os.fork()
        if not pid:
            os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT), 1)
            sys.argv = arguments
            _exec(lambda: runpy.run_module(arguments[0], run_name="__main__", alter_sys=True))
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status), output.read_text()


def main() -> None:
    modules = (module.name for module in pkgutil.walk_packages(l2l_tf.__path__, "l2l_tf."))
    for name in (*IMPORTED, *modules):
        importlib.import_module(name)
    # A fork need not look through what it shares with this process.
    gc.freeze()
    for line in sys.stdin:
        order = json.loads(line)
        if "pid" in order:
            answer = _status(order)
        elif not (answer := os.fork()):
            _run(order)
        print(json.dumps(answer), flush=True)


def _status(order: dict) -> int | None:
    pid, status = os.waitpid(order["pid"], os.WNOHANG)
    if not pid:
        return None
    return os.waitstatus_to_exitcode(status)


def _run(order: dict) -> None:
    """Runs a program as an order says, and ends this process."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, ending in ((1, "out"), (2, "err")):
        file = os.open(f"{order['files']}.{ending}", os.O_WRONLY | os.O_CREAT)
        os.dup2(file, descriptor)
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv = ["-c", *order["arguments"]]
    program = order.get("program") or BINARY.format(**order["binary"])
    _exec(lambda: exec(compile(program, "<program>", "exec"), {"__name__": "__main__"}))


def _exec(run: Callable[[], object]) -> None:
    """Runs something and ends this process as Python would, without TensorFlow's second of it."""
    status = 1
    try:
        run()
        status = 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        else:
            status = end.code or 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
