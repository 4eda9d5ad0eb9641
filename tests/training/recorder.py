"""Callbacks that watch a meta-trainer and stop it."""

import shutil
from pathlib import Path

import keras

from l2l_tf.training.meta_trainer import MetaTrainer


class Recorder(keras.callbacks.Callback):
    """Keeps the logs of every meta-step and meta-epoch, and the rule's weights after each."""

    def __init__(self, trainer: MetaTrainer):
        super().__init__()
        self.trainer = trainer
        self.events = []
        self.weights = [trainer.rule.get_weights()]

    def on_train_begin(self, logs=None):
        self.events.append("train begins")

    def on_epoch_begin(self, epoch, logs=None):
        self.events.append(("epoch begins", epoch))

    def on_train_batch_end(self, batch, logs=None):
        self.events.append(("batch", batch, dict(logs)))
        self.weights.append(self.trainer.rule.get_weights())

    def on_epoch_end(self, epoch, logs=None):
        self.events.append(("epoch", epoch, dict(logs)))

    def on_train_end(self, logs=None):
        self.events.append("train ends")

    def logs(self, kind: str) -> list[dict]:
        return [event[2] for event in self.events if event[0] == kind]


class StopAfter(keras.callbacks.Callback):
    """Asks a trainer to stop after a number of its meta-steps."""

    def __init__(self, trainer: MetaTrainer, num_meta_steps: int):
        super().__init__()
        self.trainer = trainer
        self.num_left = num_meta_steps

    def on_train_batch_end(self, batch, logs=None):
        self.num_left -= 1
        if self.num_left == 0:
            self.trainer.request_stop()


class KeepCheckpoints(keras.callbacks.Callback):
    """Copies a run's checkpoints as they are after a number of meta-steps.

    What is copied is what the run would leave if it were killed then. The run must write
    checkpoints after each meta-step, and not end there.
    """

    def __init__(self, folder: Path, copy: Path, num_meta_steps: int):
        super().__init__()
        self.folder, self.copy = folder, copy
        self.num_left = num_meta_steps

    def on_train_batch_end(self, batch, logs=None):
        # Before the checkpoint of this meta-step is written.
        if self.num_left == 0:
            shutil.copytree(self.folder, self.copy)
        self.num_left -= 1


def fit_recorded(trainer: MetaTrainer) -> Recorder:
    recorder = Recorder(trainer)
    trainer.fit([recorder])
    return recorder
