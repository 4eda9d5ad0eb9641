"""Progress bar and TensorBoard callbacks for meta-training."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from l2l_tf.files import checked_path

# Shown as they are. Keras's progress bar would average them over the meta-epoch.
_LATEST_VALUES = (
    "skipped_steps",
    "validation_loss",
    "best_validation_loss",
    "validation_horizon",
)

# Scalars are written in batches, since each write waits for the disk.
_SCALARS_A_WRITE = 300


class MetaProgressBar(keras.callbacks.Callback):
    """Keras's progress bar over the meta-steps of each meta-epoch."""

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        print(f"Meta-epoch {epoch + 1}/{self.params['epochs']}")
        self._bar = keras.utils.Progbar(
            self.params["steps"], stateful_metrics=_LATEST_VALUES, unit_name="meta-step"
        )

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        # The last update of a meta-epoch waits for the validation.
        if batch + 1 < self.params["steps"]:
            self._bar.update(batch + 1, _shown(logs))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        steps, items = self.params["steps"], _shown(logs)
        # The final update shows only the values it receives, so the means must be complete before
        # it.
        self._bar.update(
            steps, [item for item in items if item[0] not in _LATEST_VALUES], finalize=False
        )
        self._bar.update(
            steps, [item for item in items if item[0] in _LATEST_VALUES], finalize=True
        )


def _shown(logs: dict[str, Any] | None) -> list[tuple[str, float]]:
    """Returns the logs, without the count of skipped steps if it is zero."""
    return [(key, value) for key, value in (logs or {}).items() if key != "skipped_steps" or value]


class MetaTensorBoard(keras.callbacks.Callback):
    """Writes the logs of meta-steps and meta-epochs as TensorBoard scalars.

    Tags begin with `meta_step/` and `meta_epoch/`. The step of the first kind counts meta-steps
    over the whole run. Writing needs only TensorFlow; viewing needs the package tensorboard.

    Args:
        folder: the folder for event files.

    Raises:
        TypeError: the folder is not a path.
        ValueError: its path is empty, or not in UTF-8.
    """

    def __init__(self, folder: str | Path):
        super().__init__()
        self._writer = tf.summary.create_file_writer(str(checked_path(folder, "folder")))
        self._waiting: list[tuple[str, float, int]] = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._first_step = epoch * self.params["steps"]

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        for name, value in (logs or {}).items():
            self._waiting.append((f"meta_step/{name}", value, self._first_step + batch))
        if len(self._waiting) >= _SCALARS_A_WRITE:
            self._write()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        for name, value in (logs or {}).items():
            if "validation" in name:
                self._waiting.append((f"meta_epoch/{name}", value, epoch))
        self._write()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._write()

    def _write(self) -> None:
        with self._writer.as_default():
            for tag, value, step in self._waiting:
                # `tf.summary.scalar` would need the package tensorboard.
                tf.summary.write(tag, np.float32(value), step, metadata=_scalar_metadata())
        self._waiting.clear()


def _scalar_metadata() -> Any:
    metadata = tf.compat.v1.SummaryMetadata()
    metadata.plugin_data.plugin_name = "scalars"
    return metadata
