"""Output paths of a run: tested before it begins, and kept from other runs.

This module does not import TensorFlow, because benchmarks test their paths before they measure its
cost.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from l2l_tf.optional import missing

try:
    from filelock import FileLock, Timeout
except ModuleNotFoundError as error:
    raise missing("filelock", "experiments") from error

# In a run's folder while the run is in progress. The file of a killed run stays, and locks nothing.
RUN_LOCK = ".run.lock"
# Errors of file systems without locks, such as some network file systems.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextlib.contextmanager
def kept_folder(flag: str, folder: Path) -> Iterator[None]:
    """Creates a folder, if need be, and keeps other runs out of it until the context ends.

    On exit, folders that were created are removed if they are still empty. On a file system without
    locks, nobody is kept out.

    Args:
        flag: the flag that names the folder, for errors.
        folder: the folder.

    Raises:
        OSError: another run is in it.
        ValueError: the folder can't be created or written to.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_made(folder))
            try_to_write(folder / RUN_LOCK)
            stack.enter_context(locked(folder / RUN_LOCK, waits=False))
        except Timeout as error:
            raise OSError(
                f"--{flag} must be a folder that no other run is using. "
                f"Received: --{flag}={folder}, in which one is at work. Wait for its end, or "
                "choose another folder."
            ) from error
        except OSError as error:
            raise ValueError(
                f"--{flag} must be a folder that can be written to, or a path where one can be "
                f"made. Received: --{flag}={folder}, where {error.strerror}. Choose another path."
            ) from error
        yield


def check_output(flag: str, path: Path) -> None:
    """Checks that a file can be written; nothing is left behind.

    Args:
        flag: the flag that names the file, for errors.
        path: the file.

    Raises:
        ValueError: it can't.
    """
    try:
        try_to_write(path)
    except OSError as error:
        raise ValueError(
            f"--{flag} must be a path where a file can be written. "
            f"Received: --{flag}={path}, where {error.strerror}. Choose another path."
        ) from error


def try_to_write(path: Path) -> None:
    """Writes a file beside a path, and removes it with the folders that were created for it.

    Raises:
        OSError: it can't be written, or a folder stands at the path.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    # At least as long as the temporary name under which files are written before they are moved.
    trial = path.with_name(f".trial-{socket.gethostname()}-{os.getpid()}-{path.name}")
    with _made(path.parent):
        try:
            trial.write_bytes(b"?")
        finally:
            with contextlib.suppress(OSError):
                trial.unlink()


@contextlib.contextmanager
def locked(path: Path, waits: bool = True) -> Iterator[None]:
    """Keeps other processes out of the same context until it ends.

    On a file system without locks, nobody is kept out.

    Args:
        path: the file of the lock, which exists only within the context.
        waits: whether to wait while another process is in it.

    Raises:
        Timeout: another process is in it, and this one does not wait.
    """
    lock = FileLock(path, timeout=-1 if waits else 0, fallback_to_soft=False)
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    try:
        yield
    finally:
        # Remove it while the lock is held: a process that opened it before sees that it is gone.
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Creates a folder; on exit, what it created is removed if empty."""
    missing = []
    for path in (folder, *folder.parents):
        if path.exists():
            break
        missing.append(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        with contextlib.suppress(OSError):
            for path in missing:
                path.rmdir()
