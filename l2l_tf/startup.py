"""Import hooks for TensorFlow and Keras.

TensorFlow's C++ libraries print messages at import, to the file descriptor of standard error: which
CPU instructions they use, and that there is no GPU. Users can do nothing about them, and no setting
silences them all. The hook drops these lines and passes on everything else. If the environment
variable TF_CPP_MIN_LOG_LEVEL is 0, nothing is dropped.

The hook for Keras registers this package's rules and optimizer, so that Keras can load files that
contain them even if nothing else of this package was imported. Registration imports the
subpackages, so each subpackage imports Keras first.
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

# The descriptor that C++ writes to. In a notebook, `sys.stderr` has another one.
_STANDARD_ERROR = 2

# Passes on all lines except those at level INFO and the heading that TensorFlow prints above the
# first of them. Runs as a separate process, to survive if TensorFlow aborts the main one.
_FILTER = r"""
import re, sys
information = re.compile(rb"(?:I\d{4} |WARNING: All log messages before absl::InitializeLog\(\))")
for line in sys.stdin.buffer:
    if not information.match(line):
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
"""


def prepare_imports() -> None:
    """Installs hooks that import TensorFlow quietly and register this package with Keras."""
    finders: list[Any] = []
    if "tensorflow" not in sys.modules and os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "0":
        # TensorFlow's later messages at level INFO. Without a GPU, CUDA's libraries report that as
        # an error at the first operation. Real failures are raised whatever is printed.
        has_gpu = any(map(os.path.exists, ("/dev/nvidiactl", "/dev/dxg")))
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1" if has_gpu else "3")
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
    """A meta-path finder that wraps the execution of one module.

    Args:
        name: the module's name.
        around: is called with the function that executes the module.
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
    """Drops INFO lines written to the file descriptor of standard error."""
    # In a frozen application, the executable is not Python and can't run the filter.
    command = None if getattr(sys, "frozen", False) else sys.executable
    try:
        kept = os.dup(_STANDARD_ERROR)
    except OSError:
        command = None  # It is closed.
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
    _flush()
    # Not None, since a pipe was requested.
    os.dup2(passing_on.stdin.fileno(), _STANDARD_ERROR)  # type: ignore[union-attr]
    try:
        yield
    finally:
        _flush()
        os.dup2(kept, _STANDARD_ERROR)
        os.close(kept)
        passing_on.communicate()


def _flush() -> None:
    """Writes what Python has buffered, before the descriptor leads elsewhere."""
    if sys.stderr is not None:
        sys.stderr.flush()
