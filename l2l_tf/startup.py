"""Keeps quiet what TensorFlow prints of itself when it is imported.

TensorFlow's C++ libraries tell at import, on the file descriptor of standard error, which
instructions they use and that there is no GPU. Nobody can act on that, and no setting silences all
of it. Whatever else is written meanwhile is passed on. With the environment variable
TF_CPP_MIN_LOG_LEVEL set to 0, nothing is held back.
"""

import contextlib
import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Lines at the level INFO, and the line that TensorFlow writes above the first of them.
_INFORMATION = re.compile(rb"(?:I\d{4} |WARNING: All log messages before absl::InitializeLog\(\))")


def quiet_tensorflow() -> None:
    """Has TensorFlow imported without lines of information, whoever imports it first."""
    is_imported = "tensorflow" in sys.modules or any(
        isinstance(finder, _QuietFinder) for finder in sys.meta_path
    )
    if is_imported or os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "0":
        return
    # What TensorFlow would print later at the level INFO.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    sys.meta_path.insert(0, _QuietFinder())


class _QuietFinder:
    """Finds TensorFlow where it is, once, and has its import held quiet."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_quietly(module: ModuleType) -> None:
            with _without_information():
                execute(module)

        spec.loader.exec_module = execute_quietly  # type: ignore[method-assign]
        return spec


@contextlib.contextmanager
def _without_information() -> Iterator[None]:
    """Holds back lines of information that are written to the file descriptor of standard error."""
    try:
        descriptor = sys.stderr.fileno()
        kept = os.dup(descriptor)
    except (AttributeError, OSError, ValueError):
        # A notebook's standard error is no file: what the descriptor gets is not shown there.
        yield
        return
    with tempfile.TemporaryFile() as written:
        sys.stderr.flush()
        os.dup2(written.fileno(), descriptor)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, descriptor)
            os.close(kept)
            written.seek(0)
            for line in written:
                if not _INFORMATION.match(line):
                    os.write(descriptor, line)
