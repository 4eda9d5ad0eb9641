"""What happens when TensorFlow and Keras are imported after this package.

TensorFlow is imported without the lines that its C++ libraries print of themselves, on the file
descriptor of standard error: which instructions they use, and that there is no GPU. Nobody can act
on that, and no setting silences all of it. Whatever else is written meanwhile is passed on. With
the environment variable TF_CPP_MIN_LOG_LEVEL set to 0, nothing is held back.

Keras is told of the rules and the optimizer of this package, so that it can load files that hold
them, though nothing else of the package was imported. The subpackages import Keras before all else,
as telling it imports the subpackages.
"""

import contextlib
import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Passes on all lines but those at the level INFO, and the one that TensorFlow writes above the
# first of them. A process of its own, so that it outlives one that TensorFlow aborts.
_FILTER = r"""
import re, sys
information = re.compile(rb"(?:I\d{4} |WARNING: All log messages before absl::InitializeLog\(\))")
for line in sys.stdin.buffer:
    if not information.match(line):
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
"""


def prepare_imports() -> None:
    """Has TensorFlow imported quietly, and Keras told of this package, when they are imported."""
    finders: list[Any] = []
    if "tensorflow" not in sys.modules and os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "0":
        # What TensorFlow would print later at the level INFO.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
        finders.append(_Finder("tensorflow", _execute_quietly))
    if "keras" in sys.modules:
        _register()
    else:
        finders.append(_Finder("keras", _execute_and_register))
    sys.meta_path[:0] = finders


def _register() -> None:
    importlib.import_module("l2l_tf.delivery")


def _execute_and_register(execute: Callable[[], None]) -> None:
    execute()
    _register()


def _execute_quietly(execute: Callable[[], None]) -> None:
    with _without_information():
        execute()


class _Finder:
    """Finds one module where it is, and has it executed by a function of how that is done.

    Args:
        name: of the module.
        around: is given what executes the module.
    """

    def __init__(self, name: str, around: Callable[[Callable[[], None]], None]):
        self._name = name
        self._around = around
        self._is_asked = False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != self._name or self._is_asked:
            return None
        self._is_asked = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._is_asked = False
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_around(module: ModuleType) -> None:
            with contextlib.suppress(ValueError):
                sys.meta_path.remove(self)
            self._around(lambda: execute(module))

        spec.loader.exec_module = execute_around  # type: ignore[method-assign]
        return spec


@contextlib.contextmanager
def _without_information() -> Iterator[None]:
    """Holds back lines of information that are written to the file descriptor of standard error."""
    # The program that a frozen application is can't run the filter.
    command = None if getattr(sys, "frozen", False) else sys.executable
    try:
        descriptor = sys.stderr.fileno()
        kept = os.dup(descriptor)
    except (AttributeError, OSError, ValueError):
        # A notebook's standard error is no file: what the descriptor gets is not shown there.
        command = None
    if not command:
        yield
        return
    try:
        passing_on = subprocess.Popen(
            [command, "-I", "-S", "-c", _FILTER], stdin=subprocess.PIPE, stderr=kept
        )
    except OSError:
        os.close(kept)
        yield
        return
    sys.stderr.flush()
    # Always there, as it was asked for.
    os.dup2(passing_on.stdin.fileno(), descriptor)  # type: ignore[union-attr]
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, descriptor)
        os.close(kept)
        passing_on.communicate()
