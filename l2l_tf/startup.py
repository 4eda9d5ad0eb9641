"""Imports TensorFlow without the lines that it prints of its own state.

TensorFlow's C++ libraries tell at import, on the file descriptor of standard error, which
instructions they use and that there is no GPU. Nobody can act on that, and no setting silences all
of it. Whatever else is written meanwhile is passed on. With the environment variable
TF_CPP_MIN_LOG_LEVEL set to 0, nothing is held back.
"""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator

# Lines at the level INFO, and the line that TensorFlow writes above the first of them.
_INFORMATION = re.compile(rb"(?:I\d{4} |WARNING: All log messages before absl::InitializeLog\(\))")


def import_tensorflow() -> None:
    """Imports TensorFlow quietly, if it has not been imported yet."""
    if "tensorflow" in sys.modules or os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "0":
        return
    # What TensorFlow would print later at the level INFO.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    with _without_information():
        import tensorflow  # noqa: F401


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
