"""Atomic writing of files and folders."""

import contextlib
import json
import math
import os
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Held while a folder is briefly moved away, so that no other thread mistakes it for a leftover.
_MOVING = threading.Lock()


def expanded(path: str | os.PathLike[str]) -> Path:
    """Returns a path given by a user, with `~` and `~name` replaced by home folders.

    Returns the path unchanged if the home folder is unknown.
    """
    path = Path(path)
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def checked_path(path: str | os.PathLike[str], name: str) -> Path:
    """Returns a path given by a user, expanded and checked for use by TensorFlow.

    Args:
        path: the path.
        name: the argument's name, for errors.

    Raises:
        TypeError: it is not a path.
        ValueError: it is empty, or not valid UTF-8. TensorFlow accepts no other encoding.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"{name} must be a path. Received: {name}={path!r}. Name a file or folder.")
    if not os.fspath(path):
        raise ValueError(
            f"{name} must not be empty. Received: {name}={path!r}. Give '.' for the current folder."
        )
    whole = expanded(path)
    try:
        is_utf8 = os.fsencode(whole) == str(whole).encode()
    except UnicodeEncodeError:
        is_utf8 = False
    if not is_utf8:
        raise ValueError(
            f"{name} must be in UTF-8, since TensorFlow takes no other paths. "
            f"Received: {name}={os.fsencode(whole)!r}. Rename what is not, or choose another place."
        )
    return whole


@contextlib.contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path next to a file, and moves it into place at the end.

    If the body raises or the process is killed, the old file stays as it was. Leftovers of killed
    processes of this machine are removed. The folder is created if it is missing.

    Args:
        path: the file to write.

    Raises:
        OSError: the file can't be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    partial = partial_path(path)
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file in UTF-8, atomically."""
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], contents: Any, indent: int | None = 1) -> None:
    """Writes JSON atomically, with null for numbers that are not finite."""
    write_text(path, strict_json(contents, indent))


def strict_json(contents: Any, indent: int | None = 1) -> str:
    """Returns strict JSON, with null for each number that is not finite."""
    return json.dumps(_finite_or_none(contents), indent=indent, allow_nan=False) + "\n"


def partial_path(path: Path) -> Path:
    """Returns the path at which this thread writes a file or folder before moving it into place.

    The original name comes last, since some libraries choose a format by the suffix.
    """
    return path.with_name(f"{_prefix('partial')}{_writer()}-{path.name}")


def remove_leftovers(path: Path) -> None:
    """Removes leftovers of dead processes of this machine next to a path.

    A folder that was moved away to be replaced is kept for `put_back` if nothing has taken its
    place.
    """
    with _MOVING:
        leftovers = _leftovers(path, "partial")
        if os.path.lexists(path):
            leftovers += _leftovers(path, "replaced")
        for leftover in leftovers:
            _remove(leftover)


def move_into_place(partial: Path, path: Path) -> None:
    """Moves a completely written folder into place, and removes the old one.

    This takes two renames. If the process is killed between them, `put_back` restores the old
    folder.

    Raises:
        OSError: a folder can't be moved. The old one then stays in place.
    """
    old = path.with_name(f"{_prefix('replaced')}{_writer()}-{path.name}")
    with _MOVING:
        if os.path.lexists(path):
            path.rename(old)
        try:
            partial.rename(path)
        except BaseException:
            if os.path.lexists(old):
                old.rename(path)
            raise
    _remove(old)


def put_back(path: Path) -> None:
    """Restores a folder that a killed process of this machine moved away in order to replace it.

    An existing folder is left alone, and so is one that a running process has moved away.
    """
    with _MOVING, contextlib.suppress(OSError, ValueError):
        if path.name and not os.path.lexists(path):
            replaced = _leftovers(path, "replaced")
            if replaced:
                max(replaced, key=lambda one: one.lstat().st_mtime_ns).rename(path)


def _leftovers(path: Path, kind: str) -> list[Path]:
    """Returns the leftovers of dead processes of this machine next to a path."""
    prefix, suffix = _prefix(kind), f"-{path.name}"
    leftovers = []
    with contextlib.suppress(OSError):
        for one in path.parent.iterdir():
            if one.name.startswith(prefix) and one.name.endswith(suffix):
                writer = one.name.removeprefix(prefix).removesuffix(suffix)
                if re.fullmatch(r"\d+\.\d+", writer) and not _is_at_work(writer):
                    leftovers.append(one)
    return leftovers


def _remove(path: Path) -> None:
    """Removes a file, link or folder, ignoring errors."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _prefix(kind: str) -> str:
    # Includes the host's name, since machines that share a folder may use the same process numbers.
    return f".{kind}-{socket.gethostname()}-"


def _writer() -> str:
    """Returns an identifier of this thread, unique on this machine."""
    return f"{os.getpid()}.{threading.get_ident()}"


def _is_at_work(writer: str) -> bool:
    """Returns whether another process, or another thread of this one, may still be writing."""
    process, thread = map(int, writer.split("."))
    if process == os.getpid():
        others = {one.ident for one in threading.enumerate()} - {threading.get_ident()}
        return thread in others
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _finite_or_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite_or_none(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite_or_none(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
