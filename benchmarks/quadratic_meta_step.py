"""Milliseconds of a meta-step on 128 quadratics of 10 dimensions, unroll 20, 2 x 20 LSTM.

python -m benchmarks.quadratic_meta_step
"""

import time
from typing import Any

import keras
import numpy as np

from l2l_tf.problems import Quadratic
from l2l_tf.rules import CoordinatewiseLSTM
from l2l_tf.training import MetaTrainer, MetaTrainingSettings, TruncatedBackpropagation

_NUM_TRAJECTORIES = 80
_NUM_WARM_UP = 20


class _Clock(keras.callbacks.Callback):
    """Records when each meta-step ends."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.times.append(time.perf_counter())


def main() -> None:
    """Prints the median and the quartiles over meta-steps, without the first."""
    for second_derivatives in (False, True):
        settings = MetaTrainingSettings(
            num_meta_epochs=1,
            trajectories_per_meta_epoch=_NUM_TRAJECTORIES,
        )
        estimator = TruncatedBackpropagation(second_derivatives)
        optimizer = keras.optimizers.Adam(1e-3, global_clipnorm=1.0)
        rule = CoordinatewiseLSTM(output_scale=0.1, seed=0)
        clock = _Clock()
        MetaTrainer(rule, Quadratic(), optimizer, settings, estimator=estimator).fit([clock])
        milliseconds = 1e3 * np.diff(clock.times)[_NUM_WARM_UP:]
        low, median, high = np.quantile(milliseconds, [0.25, 0.5, 0.75])
        print(f"{second_derivatives=}: {median:.1f} ms (quartiles {low:.1f} to {high:.1f})")


if __name__ == "__main__":
    main()
