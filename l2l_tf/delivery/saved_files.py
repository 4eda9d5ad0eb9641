"""Safe reading of a saved rule's files, which may come from anyone."""

import errno
import hashlib
import json
import math
import os
import stat
import zipfile
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from l2l_tf.files import expanded, put_back
from l2l_tf.rules.rebuilding import excerpt, nested_dictionaries

CARD_FILE = "card.json"
RULE_FILE = "rule.json"
WEIGHTS_FILE = "weights.npz"

# Far more than any export writes.
_MAX_JSON_BYTES = 2**24
_MAX_BYTES = 2**31
_MAX_NUM_FILES = 1000


def folder_of(path: str | os.PathLike[str]) -> Path:
    """Returns the path of a saved rule given by a user, with `~` expanded.

    A folder that a killed export has moved away is first put back.

    Raises:
        TypeError: it is not a path.
        ValueError: it is empty, which would mean the current folder.
    """
    if path == "":
        raise ValueError(
            "path must not be empty. Received: path=''. Give '.' for the current folder."
        )
    try:
        folder = expanded(path)
    except TypeError as error:
        raise TypeError(
            "path must be a string or a path. "
            f"Received: path={excerpt(path)}. Give the folder of a saved rule."
        ) from error
    put_back(folder)
    return folder


def has_card(folder: Path) -> bool:
    """Returns whether there is a card in a folder, of any kind, damaged or not.

    Raises:
        PermissionError: the folder may not be entered.
    """
    try:
        (folder / CARD_FILE).lstat()
    except PermissionError as error:
        raise _unreadable(folder, CARD_FILE, error) from error
    except (OSError, ValueError):
        # There is nothing, or there can't be: the name is too long, or has a zero byte.
        return False
    return True


def read_file(folder: Path, name: str, max_bytes: int = _MAX_BYTES) -> bytes:
    """Returns the contents of a file in a saved rule's folder.

    Raises:
        ValueError: it is missing, too large, or not a regular file in the folder.
        OSError: it may not be read.
    """
    with _open(folder, name, max_bytes) as file:
        return file.read(max_bytes)


def read_json(folder: Path, name: str) -> Any:
    """Returns the contents of a JSON file in a saved rule's folder.

    Raises:
        ValueError: it is missing, too large, not a regular file, nested too deeply, or not JSON.
        OSError: it may not be read.
    """
    contents = read_file(folder, name, _MAX_JSON_BYTES)
    try:
        values = json.loads(contents)
        for _ in nested_dictionaries(values):
            pass
    except (ValueError, RecursionError) as error:
        raise damaged(folder, f"whose {name} can't be read") from error
    return values


def check_files(folder: Path, checksums: Mapping[str, Any]) -> None:
    """Checks that the files named in a card exist and have its SHA-256 checksums.

    Raises:
        ValueError: a file is missing, is not a regular file in the folder or has another checksum,
            or there are too many files.
        OSError: a file may not be read.
    """
    if len(checksums) > _MAX_NUM_FILES:
        raise damaged(folder, f"whose {CARD_FILE} names {len(checksums)} files")
    num_left = _MAX_BYTES
    for name, checksum in checksums.items():
        with _open(folder, name, num_left) as file:
            num_left -= os.fstat(file.fileno()).st_size
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != checksum:
            what = f"where {_shown(name)} does not have the checksum in {CARD_FILE}"
            raise damaged(folder, what)


def read_weights(
    archive: zipfile.ZipFile, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Returns the weights of a saved rule by name.

    It unpacks no more than arrays of the given shapes can take.

    Args:
        archive: the archive of the weights.
        shapes: the expected shapes, by name.

    Raises:
        ValueError: it holds other weights, or weights that are not finite numbers.
        Exception: NumPy or zipfile can't read the archive.
    """
    names = [name.removesuffix(".npy") for name in archive.namelist()]
    if different := sorted(shapes.keys() ^ set(names)):
        raise ValueError(f"layer and {WEIGHTS_FILE} do not both have {excerpt(different)}")
    return {name: _read_array(archive, name, shape) for name, shape in shapes.items()}


def damaged(folder: Path, what: str) -> ValueError:
    """Returns the error for a saved rule that differs from what was exported."""
    return ValueError(
        f"A saved rule must be whole. Received: path={str(folder)!r}, {what}. "
        "Export or copy the rule again."
    )


def _open(folder: Path, name: str, max_bytes: int) -> BufferedReader:
    """Opens a regular file in a folder for reading.

    It opens nothing else: a pipe would block, and a link may lead anywhere.
    """
    try:
        if not _is_regular(folder, Path(name)):
            raise damaged(folder, f"where {_shown(name)} is no regular file in the folder")
        file = folder / name
        if file.lstat().st_size > max_bytes:
            raise damaged(folder, f"where {_shown(name)} is larger than any that an export writes")
        return file.open("rb")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise damaged(folder, f"where {_shown(name)} is missing") from error
    except OSError as error:
        raise _unreadable(folder, name, error) from error


def _is_regular(folder: Path, relative: Path) -> bool:
    """Returns whether a path within a folder is a regular file, reached without links."""
    is_inside = relative.name and not relative.drive and ".." not in relative.parts
    if not is_inside or relative.is_absolute():
        return False
    try:
        # The last parent is the folder itself, which may be reached through links.
        mode, *modes = [
            (folder / one).lstat().st_mode for one in (relative, *relative.parents)[:-1]
        ]
    except ValueError:  # A zero byte, or invalid Unicode.
        return False
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise
    return stat.S_ISREG(mode) and all(map(stat.S_ISDIR, modes))


def _read_array(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...]) -> np.ndarray:
    with archive.open(f"{name}.npy") as file:
        # Later format versions are for headers of more than 64 KiB.
        if (version := np.lib.format.read_magic(file)) != (1, 0):
            raise ValueError(f"{name} is of the .npy format {version} in {WEIGHTS_FILE}")
        saved_shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
        if saved_shape != shape:
            raise ValueError(
                f"{name} has the shape {excerpt(saved_shape)} in {WEIGHTS_FILE} and {shape} in "
                "the layer"
            )
        if dtype.kind not in "biuf":
            raise ValueError(f"{name} has the dtype {excerpt(dtype.str)} in {WEIGHTS_FILE}")
        flat = np.frombuffer(file.read(math.prod(shape) * dtype.itemsize), dtype)
    array = flat.reshape(shape, order="F" if is_fortran else "C")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} is not finite in {WEIGHTS_FILE}")
    return array


def _unreadable(folder: Path, name: str, error: OSError) -> OSError:
    return type(error)(
        f"The files of a saved rule must be readable. Received: path={str(folder)!r}, whose "
        f"{_shown(name)} can't be read ({error.strerror}). Change its permissions, or copy the "
        "rule again."
    )


def _shown(name: str) -> str:
    """Returns a name from a card in a form suitable for a message."""
    return name if name and name.isprintable() and len(name) <= 100 else excerpt(name)
