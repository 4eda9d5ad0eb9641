"""Checkpoints of a meta-training run: everything that it needs to go on as if never stopped."""

import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf


class MetaCheckpoint:
    """Checkpoints of a run, each whole or absent, with a record of which run they belong to.

    Args:
        folder: where checkpoints are kept, at most two; made if missing.
        fingerprint: what the run is, as JSON values by name. A checkpoint with another one is
            refused, since going on from it would give neither run's result.
        trackables: what TensorFlow saves: layers, optimizers, lists of variables, by name.

    Raises:
        ValueError: the folder's list of checkpoints is damaged.
    """

    def __init__(self, folder: Path, fingerprint: dict[str, Any], **trackables: Any):
        self._fingerprint = json.loads(json.dumps(fingerprint))
        self._record = _Record()
        self._checkpoint = tf.train.Checkpoint(record=self._record, **trackables)
        # Made here by all processes together; TensorFlow would make it when the first one saves.
        _ = self._checkpoint.save_counter
        try:
            self._manager = tf.train.CheckpointManager(self._checkpoint, str(folder), max_to_keep=2)
        except ValueError as error:
            raise _damaged(Path(folder) / "checkpoint", error) from error

    def save(self, progress: dict[str, Any], tensors: Sequence[np.ndarray]) -> None:
        """Saves the trackables with the run's counters and the tensors of its open trajectory.

        Raises:
            OSError: the checkpoint can't be written; the one before it is left as it was.
        """
        self._record.contents = {"fingerprint": self._fingerprint, "progress": progress}
        self._record.tensors = list(tensors)
        try:
            self._manager.save()
        except (tf.errors.OpError, OSError) as error:
            raise OSError(
                "A checkpoint must be writable. "
                f"Received: folder={self._manager.directory!r}, {_first_line(error)} "
                f"Make room or access there; {self._what_is_kept()}"
            ) from error

    def _what_is_kept(self) -> str:
        if self._manager.latest_checkpoint is None:
            return "there is no checkpoint yet, so the same command begins anew."
        return "the checkpoint before this one is whole, and the same command goes on from it."

    def restore(
        self, check: Callable[[dict[str, Any]], None] = lambda progress: None
    ) -> tuple[dict[str, Any], list[np.ndarray]] | None:
        """Restores the latest checkpoint and returns its counters and tensors; None without one.

        Args:
            check: is given the counters, none without a checkpoint, before anything is restored;
                what it raises ends it there.

        Raises:
            ValueError: the checkpoint is damaged or belongs to another run. Nothing was restored.
        """
        path = self._manager.latest_checkpoint
        if path is None:
            # TensorFlow ignores a list of checkpoints that it can't read: a run would be lost.
            listing = Path(self._manager.directory) / "checkpoint"
            if listing.exists():
                raise _damaged(listing, ValueError("it can't be read"))
            check({})
            return None
        record = _Record()
        try:
            # Reading all there is checks all checksums, before anything is restored.
            reader = tf.train.load_checkpoint(path)
            found = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
            record.deserialize(found[_RECORD_KEY])
        except (tf.errors.OpError, RuntimeError, ValueError, LookupError, OSError) as error:
            raise _damaged(path, error) from error
        self._refuse_other_run(path, record.contents["fingerprint"])
        check(record.contents["progress"])
        try:
            self._checkpoint.restore(path).assert_existing_objects_matched()
        except tf.errors.UnavailableError:
            raise  # Workers restore together, and one of them is gone: nothing is damaged.
        except (tf.errors.OpError, RuntimeError, AssertionError) as error:
            raise _damaged(path, error) from error
        return record.contents["progress"], record.tensors

    def _refuse_other_run(self, path: str, found: dict[str, Any]) -> None:
        own, found = _leaves(self._fingerprint), _leaves(found)
        names = [name for name in sorted(own | found) if own.get(name) != found.get(name)]
        if names:
            theirs = {name: found.get(name) for name in names}
            ours = {name: own.get(name) for name in names}
            raise ValueError(
                "A run must be resumed with the settings it was started with. "
                f"Received: checkpoint={path!r} of a run with {theirs}, where this one has {ours}. "
                "Repeat the command that started it, or choose another folder."
            )


class _Record(tf.train.experimental.PythonState):
    """JSON values and arrays that travel in a TensorFlow checkpoint as one string."""

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


def _leaves(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested settings as one level, under names with dots."""
    leaves: dict[str, Any] = {}
    for name, value in config.items():
        nested = isinstance(value, dict)
        leaves |= _leaves(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return leaves


# Where TensorFlow puts the state of the trackable named `record`.
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
