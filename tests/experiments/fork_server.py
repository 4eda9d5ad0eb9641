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
import types
from collections.abc import Iterator
from pathlib import Path

from tensorflow.python.autograph.core import converter
from tensorflow.python.autograph.impl import api

import l2l_tf

# What binaries import besides the package, most of them only once they need it.
IMPORTED = (
    "filelock",
    "matplotlib.backends.backend_agg",
    "PIL.JpegImagePlugin",
    "sklearn.datasets",
)
ROOT = Path(__file__).resolve().parents[2]
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
    converted = Path(f"{order['files']}.converted")
    if converted.exists():
        _convert(converted.read_text())
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
    known = _converted()
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
    Path(f"{order['files']}.converted").write_text(json.dumps(list(_converted() - known)))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


# Before it traces a function, TensorFlow converts it to another one, which takes longer than the
# tracing. What one fork has converted, this process converts for those after it.

_SEEN: set[tuple] = set()


def _converted() -> set[tuple]:
    """Returns by name what the autograph of this process has converted, and how."""
    return {
        (*_name(code), options.user_requested)
        for code, converted in api._TRANSPILER._cache._cache.items()
        for options in converted
    }


def _convert(names: str) -> None:
    wanted = {tuple(name) for name in json.loads(names)} - _SEEN
    if not wanted:
        return
    _SEEN.update(wanted)
    gc.unfreeze()
    for function in [one for one in gc.get_objects() if isinstance(one, types.FunctionType)]:
        if function.__code__.co_filename.startswith(f"{ROOT}/"):
            for inner in _with_inner_ones(function):
                for is_requested in (False, True):
                    if (*_name(inner.__code__), is_requested) in wanted:
                        options = converter.ConversionOptions(
                            recursive=True, user_requested=is_requested, optional_features=None
                        )
                        api._convert_actual(inner, converter.ProgramContext(options))
    gc.freeze()


def _with_inner_ones(function: types.FunctionType) -> Iterator[types.FunctionType]:
    """Yields a function and those that it makes, which need not work to be converted."""
    yield function
    for code in function.__code__.co_consts:
        if isinstance(code, types.CodeType):
            cells = tuple(types.CellType() for _ in code.co_freevars)
            inner = types.FunctionType(code, function.__globals__, closure=cells)
            yield from _with_inner_ones(inner)


def _name(code: types.CodeType) -> tuple[str, str, int]:
    return code.co_filename, code.co_qualname, code.co_firstlineno


if __name__ == "__main__":
    main()
