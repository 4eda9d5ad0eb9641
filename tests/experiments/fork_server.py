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
import sys
import traceback

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
    """Runs a program and does what Python does at its end, without TensorFlow's second of it."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, ending in ((1, "out"), (2, "err")):
        file = os.open(f"{order['files']}.{ending}", os.O_WRONLY | os.O_CREAT)
        os.dup2(file, descriptor)
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv = ["-c", *order["arguments"]]
    status = 1
    try:
        program = order.get("program") or BINARY.format(**order["binary"])
        exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})
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
