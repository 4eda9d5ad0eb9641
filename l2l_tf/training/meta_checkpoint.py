"""Checkpoints of a meta-training run, from which it can continue as if never stopped."""

import contextlib
import io
import json
import logging
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import tensorflow as tf

from l2l_tf.files import partial_path, write_text

_LOG = logging.getLogger(__name__)


class MetaCheckpoint:
    """Atomic checkpoints of a run, each with a record of the run that it belongs to.

    Args:
        folder: the folder for checkpoints, of which it keeps at most two. Created if missing.
        fingerprint: identifies the run, as JSON values by name. A checkpoint with another
            fingerprint is rejected, since continuing from it would give neither run's result.
        is_writer: whether this process writes to the folder.
        trackables: objects that TensorFlow saves: layers, optimizers, lists of variables, by name.
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: dict[str, Any],
        *,
        is_writer: bool = True,
        **trackables: Any,
    ):
        self._folder = folder
        self._listing = folder / "checkpoint"
        self._fingerprint = json.loads(json.dumps(fingerprint))
        self._is_writer = is_writer
        self._record = _Record()
        self._checkpoint = tf.train.Checkpoint(record=self._record, **trackables)
        # Created here by all processes together. TensorFlow would create it in the first save.
        _ = self._checkpoint.save_counter
        # Created once the folder is in the state that the manager should take over.
        self._manager: tf.train.CheckpointManager | None = None
        self._has_checkpoint = False

    def save(self, progress: dict[str, Any], tensors: Sequence[np.ndarray]) -> None:
        """Saves the trackables with the run's counters and the tensors of its open trajectory.

        Raises:
            OSError: the checkpoint can't be written. The previous one stays intact.
        """
        self._record.contents = {"fingerprint": self._fingerprint, "progress": progress}
        self._record.tensors = list(tensors)
        try:
            self._make_manager().save()
        except (tf.errors.OpError, OSError) as error:
            raise self._not_writable(error) from error
        self._has_checkpoint = True

    def _make_manager(self) -> tf.train.CheckpointManager:
        if self._manager is None:
            self._manager = tf.train.CheckpointManager(
                self._checkpoint, str(self._folder), max_to_keep=2
            )
        return self._manager

    def _not_writable(self, error: Exception) -> OSError:
        return OSError(
            "A checkpoint must be writable. "
            f"Received: folder={str(self._folder)!r}, {_first_line(error)} "
            f"Make room or access there; {self._what_is_kept()}"
        )

    def _what_is_kept(self) -> str:
        for number in self._numbers():
            with contextlib.suppress(*_DAMAGES):
                _read(self._path(number))
                return (
                    "the checkpoint before this one is whole, and the same command goes on from it."
                )
        if self._has_checkpoint:
            return "the checkpoints that were there are gone, so the same command begins anew."
        return "there is no checkpoint yet, so the same command begins anew."

    def restore(
        self, check: Callable[[dict[str, Any]], None] = lambda progress: None
    ) -> tuple[dict[str, Any], list[np.ndarray]] | None:
        """Restores the latest intact checkpoint, and returns its counters and tensors.

        If a later checkpoint or the list of checkpoints is damaged, a log message says where the
        run continues from. Leftovers of killed processes in the folder are removed.

        Args:
            check: is called with the counters, which are empty without a checkpoint, before
                anything is restored. If it raises, nothing is restored.

        Returns:
            The counters and tensors, or None if there is no checkpoint.

        Raises:
            ValueError: no checkpoint is intact, or the latest intact one belongs to another run.
                Nothing is restored, and no file is changed.
            OSError: the folder can't be written to.
        """
        number, record, lost = self._latest_whole()
        if number is not None:
            self._refuse_other_run(self._path(number), record.contents["fingerprint"])
        check(record.contents.get("progress", {}))
        if self._is_writer:
            self._log_what_is_lost(number, lost)
            try:
                self._tidy(number)
            except (tf.errors.OpError, OSError) as error:
                raise self._not_writable(error) from error
        if number is None:
            return None
        self._has_checkpoint = True
        try:
            self._checkpoint.restore(self._path(number)).assert_existing_objects_matched()
        except tf.errors.UnavailableError:
            raise  # Workers restore together, and one has gone: nothing is damaged.
        except (tf.errors.OpError, RuntimeError, AssertionError) as error:
            raise _damaged(self._path(number), error) from error
        return record.contents["progress"], record.tensors

    def _latest_whole(self) -> tuple[int | None, "_Record", tuple[int, Exception] | None]:
        """Returns the number and the record of the latest intact checkpoint, and what is lost.

        The number is None if there are no checkpoints. What is lost is given as the number of the
        latest checkpoint and its error, or as None if that checkpoint is intact.
        """
        listed, lost = self._listed(), None
        for number in self._numbers():
            try:
                return number, _read(self._path(number)), lost
            except _DAMAGES as error:
                # The list does not yet name a checkpoint that a killed process was about to write.
                # A readable file with other contents does not come from a killed process.
                is_known = listed is None or number in listed or isinstance(error, LookupError)
                if lost is None and is_known:
                    lost = number, error
        # A process that was killed while writing the first checkpoint has left no list.
        if lost is not None and (
            self._listing.exists() or lost[0] > 1 or isinstance(lost[1], LookupError)
        ):
            raise _damaged(self._path(lost[0]), lost[1]) from lost[1]
        if self._listing.exists():
            raise _damaged(self._listing, ValueError("none of what it should list is there"))
        return None, _Record(), None

    def _log_what_is_lost(self, number: int | None, lost: tuple[int, Exception] | None) -> None:
        if number is None:
            return
        if lost is not None:
            _LOG.warning(
                "The latest checkpoint must be whole. Received: checkpoint=%r, %s The run goes on "
                "from %r, which is whole and was written %.0f seconds before; what it did after "
                "that, it does again.",
                self._path(lost[0]),
                _first_line(lost[1]),
                self._path(number),
                max(0.0, self._time_of(lost[0]) - self._time_of(number)),
            )
        # A process that was killed after writing the first checkpoint has left no list.
        elif self._listed() is None and (self._listing.exists() or number > 1):
            _LOG.warning(
                "The list of checkpoints must be there, and whole. Received: %r, which is not. The "
                "run goes on from %r, the latest that is whole; what it did after that, if it did, "
                "it does again.",
                str(self._listing),
                self._path(number),
            )

    def _tidy(self, latest: int | None) -> None:
        """Removes leftovers of killed processes, and makes the list name the intact checkpoints."""
        self._folder.mkdir(parents=True, exist_ok=True)
        trial = partial_path(self._listing)
        try:
            trial.write_bytes(b"?")
        finally:
            trial.unlink(missing_ok=True)
        kept = [one for one in self._numbers() if latest is not None and one <= latest][:2][::-1]
        for path in list(self._folder.iterdir()):
            found = _OF_CHECKPOINT.fullmatch(path.name)
            is_finished = found and found[2] != "_temp" and not found[3]
            if found and is_finished and int(found[1]) in kept:
                continue
            if found and path.is_dir():
                shutil.rmtree(path)
            elif found or path.name.startswith("checkpoint.tmp"):
                path.unlink()
        if kept and self._listed() != kept:
            times = "".join(
                f"all_model_checkpoint_timestamps: {self._time_of(one)!r}\n" for one in kept
            )
            paths = "".join(f'all_model_checkpoint_paths: "ckpt-{one}"\n' for one in kept)
            write_text(self._listing, f'model_checkpoint_path: "ckpt-{kept[-1]}"\n{paths}{times}')
        self._make_manager()

    def _path(self, number: int) -> str:
        return str(self._folder / f"ckpt-{number}")

    def _time_of(self, number: int) -> float:
        """Returns the time a checkpoint was written. Files that were damaged since may be newer."""
        files = self._folder.glob(f"ckpt-{number}.*")
        return min((file.stat().st_mtime for file in files), default=0.0)

    def _numbers(self) -> list[int]:
        """Returns the numbers of all checkpoints that exist or are listed, latest first."""
        indices = self._folder.glob("ckpt-*.index")
        found = [_OF_CHECKPOINT.fullmatch(path.name) for path in indices]
        numbers = {int(one[1]) for one in found if one is not None}
        return sorted(numbers | {*(self._listed() or [])}, reverse=True)

    def _listed(self) -> list[int] | None:
        """Returns the listed checkpoint numbers, or None if the list is missing or damaged."""
        try:
            lines = self._listing.read_text().splitlines()
            state = [_LISTED.fullmatch(line) for line in lines]
        except (OSError, ValueError):
            return None
        numbers = sorted({int(one[1]) for one in state if one and one[1]})
        return numbers if numbers and None not in state else None

    def _refuse_other_run(self, path: str, found: dict[str, Any]) -> None:
        own, found = _leaves(self._fingerprint), _leaves(found)
        names = [name for name in sorted(own | found) if own.get(name) != found.get(name)]
        if names:
            shown = names[:_MAX_NAMES]
            theirs, ours = ({name: _short(one.get(name)) for name in shown} for one in (found, own))
            raise ValueError(
                "A run must be resumed with the settings it was started with. "
                f"Received: checkpoint={path!r} of a run with {theirs}, where this one has {ours}. "
                "Repeat the command that started it, or choose another folder."
            )


class _Record(tf.train.experimental.PythonState):
    """JSON values and arrays stored in a TensorFlow checkpoint as one string."""

    def __init__(self) -> None:
        self.contents: dict[str, Any] = {}
        self.tensors: list[np.ndarray] = []

    def serialize(self) -> bytes:
        buffer = io.BytesIO()
        arrays = {f"tensor_{index}": tensor for index, tensor in enumerate(self.tensors)}
        contents = np.array(json.dumps(self.contents))
        np.savez(buffer, allow_pickle=False, contents=contents, **arrays)
        return buffer.getvalue()

    def deserialize(self, string_value: bytes) -> None:
        with np.load(io.BytesIO(string_value)) as archive:
            self.contents = json.loads(str(archive["contents"]))
            self.tensors = [archive[f"tensor_{i}"] for i in range(len(archive.files) - 1)]


def _read(path: str) -> _Record:
    """Reads a whole checkpoint, which verifies all checksums, and returns its record."""
    reader = tf.train.load_checkpoint(path)
    found = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    record = _Record()
    record.deserialize(found[_RECORD_KEY])
    for key in ("fingerprint", "progress"):
        record.contents[key]  # Must be there.
    return record


def _short(value: Any) -> Any:
    """Returns a value for an error: one with a long repr as the start of that."""
    text = repr(value)
    return value if len(text) <= _MAX_LENGTH else f"{text[:_MAX_LENGTH]}..."


def _leaves(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested settings to one level, with dotted names."""
    leaves: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, list) and any(isinstance(one, dict) for one in value):
            value = {str(index): one for index, one in enumerate(value)}
        nested = isinstance(value, dict)
        leaves |= _leaves(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return leaves


# The number of different settings that an error names, and the length of a value there.
_MAX_NAMES = 8
_MAX_LENGTH = 80
# A file or folder of a checkpoint. The last group marks an unfinished file.
_OF_CHECKPOINT = re.compile(r"ckpt-(\d+)(\.index|\.data-\d{5}-of-\d{5}|_temp)(\.tempstate\d+)?")
# A line of the list of checkpoints.
_LISTED = re.compile(
    r'(?:all_)?model_checkpoint_paths?: "(?:.*/)?ckpt-(\d+)"|\w+_timestamps?: [-+.\de]+'
)
# The errors raised on reading a damaged checkpoint.
_DAMAGES = (
    *(tf.errors.OpError, RuntimeError, ValueError, LookupError, TypeError, OSError),
    *(BadZipFile, EOFError),
)
# The key under which TensorFlow stores the state of the trackable named `record`.
_RECORD_KEY = "record/.ATTRIBUTES/py_state"


def _damaged(path: str | Path, error: Exception) -> ValueError:
    return ValueError(
        "The latest checkpoint must be whole. "
        f"Received: checkpoint={str(path)!r}, {_first_line(error)} "
        "Delete the folder to start anew, or choose another."
    )


def _first_line(error: Exception) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    # Without the names of TensorFlow's own operations.
    line = re.sub(r"{{.*?}} *| *\[Op:\w+\].*", "", line)
    return line.rstrip(".") + "."
