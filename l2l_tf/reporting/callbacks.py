"""What one sees of meta-training while it runs."""

from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

# Keras's progress bar would average these over the meta-epoch; they are shown as they are.
_LATEST_VALUES = ("skipped_steps", "validation_loss", "best_validation_loss")


class MetaProgressBar(keras.callbacks.Callback):
    """Keras's progress bar over the meta-steps of each meta-epoch."""

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        print(f"Meta-epoch {epoch + 1}/{self.params['epochs']}")
        self._bar = keras.utils.Progbar(
            self.params["steps"], stateful_metrics=_LATEST_VALUES, unit_name="meta-step"
        )

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        # The last update of a meta-epoch waits for its validation.
        if batch + 1 < self.params["steps"]:
            self._bar.update(batch + 1, list((logs or {}).items()))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._bar.update(self.params["steps"], list((logs or {}).items()), finalize=True)


class MetaTensorBoard(keras.callbacks.Callback):
    """Writes the logs of meta-steps and meta-epochs as TensorBoard scalars.

    Tags begin with `meta_step/` and `meta_epoch/`; the step of the first kind counts meta-steps of
    the whole run. Writing needs TensorFlow alone; looking needs the package tensorboard.

    Args:
        folder: where the event files go.
    """

    def __init__(self, folder: str | Path):
        super().__init__()
        self._writer = tf.summary.create_file_writer(str(folder))

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._first_step = epoch * self.params["steps"]

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._write("meta_step", logs or {}, self._first_step + batch)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        validation = {key: value for key, value in (logs or {}).items() if "validation" in key}
        self._write("meta_epoch", validation, epoch)
        self._writer.flush()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._writer.flush()

    def _write(self, prefix: str, scalars: dict[str, Any], step: int) -> None:
        with self._writer.as_default():
            for name, value in scalars.items():
                # `tf.summary.scalar` would need the package tensorboard.
                tf.summary.write(
                    f"{prefix}/{name}",
                    tf.cast(value, tf.float32),
                    step=step,
                    metadata=_scalar_metadata(),
                )


def _scalar_metadata() -> Any:
    metadata = tf.compat.v1.SummaryMetadata()
    metadata.plugin_data.plugin_name = "scalars"
    return metadata
