"""Meta-steps of a whole `MetaTrainer`, all tasks on one device."""

from collections.abc import Callable
from typing import Any

import keras

from benchmarks.contenders.ours import FixedProblem, make_rule
from benchmarks.workloads import META_LEARNING_RATE, MetaStep
from l2l_tf.training import MetaTrainer, MetaTrainingSettings

_UNROLLS_PER_TRAJECTORY = 5


def meta_step(workload: MetaStep) -> Callable[[], float]:
    """Returns a function that does one meta-step and returns its meta-loss."""
    settings = MetaTrainingSettings(
        num_steps=_UNROLLS_PER_TRAJECTORY * workload.num_steps,
        unroll_length=workload.num_steps,
        num_meta_epochs=1,
        trajectories_per_meta_epoch=10**6,
        tasks_per_meta_step=workload.num_tasks,
    )
    optimizer = keras.optimizers.Adam(META_LEARNING_RATE)
    trainer = MetaTrainer(make_rule(), FixedProblem(workload), optimizer, settings)
    stop = _StopAfterMetaStep(trainer)

    def run() -> float:
        trainer.fit([stop])
        return stop.meta_loss

    return run


class _StopAfterMetaStep(keras.callbacks.Callback):
    """Makes `fit` return after each meta-step."""

    def __init__(self, trainer: MetaTrainer):
        super().__init__()
        self.trainer = trainer
        self.meta_loss = float("nan")

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.meta_loss = (logs or {})["meta_loss"]
        self.trainer.request_stop()
