"""The paper's LSTM with global averaging cells, by which coordinates know of each other."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from l2l_tf.rules.joint import AveragingLSTM, BoundJointly
from l2l_tf.rules.rule import NO_INFO, StepInfo
from l2l_tf.rules.tensors import TensorState


@keras.saving.register_keras_serializable(package="l2l_tf")
class GlobalAveragingLSTM(AveragingLSTM):
    """An LSTM that maps each coordinate's gradient to its delta, with averages over coordinates.

    It is the `CoordinatewiseLSTM`, except that what goes out of some units of each layer is
    averaged over all coordinates of all tensors at every step: the global averaging cells. Averages
    are of one task. With them, the LSTM can clip gradients by their global norm: `num_averaged` of
    1 and two layers suffice (`tests/rules/global_averaging_lstm_test.py` sets such weights by hand
    and says how they work).
    Source: Andrychowicz et al. 2016, appendix D (arXiv 1606.04474).

    Args:
        units: H of each LSTM layer.
        num_averaged: the number of averaging units of each layer, its last ones. With 0, the rule
            is the `CoordinatewiseLSTM` with the same weights.
        preprocessing: a key of `PREPROCESSORS`, the preprocessing of gradients for the first layer.
        p: the constant of log-and-sign preprocessing.
        output_scale: the factor from the last layer's output to the delta.
        output_stddev: standard deviation of the initial output weights.
        seed: an integer seed for the initial weights. None uses Keras's global seed.
        dtype: dtype of weights, states and deltas, independent of the global dtype policy. float64
            is for derivative tests.
        name: the layer's name.
        trainable: whether the weights are trainable, as in any Keras layer.

    Raises:
        ValueError: `units` is empty or holds a number below 1 or below `num_averaged`, the
            preprocessing is unknown, or `num_averaged`, `p`, seed, dtype or output scale is out of
            range.
        TypeError: `units` is not a sequence of integers.
    """

    def __init__(
        self,
        units: Sequence[int] = (20, 20),
        num_averaged: int = 5,
        preprocessing: str = "none",
        p: float = 10.0,
        output_scale: float = 1.0,
        output_stddev: float = 0.0,
        seed: int | None = None,
        dtype: str = "float32",
        name: str | None = None,
        trainable: bool = True,
    ):
        super().__init__(
            1,
            1,
            units,
            num_averaged,
            preprocessing,
            p,
            output_scale,
            output_stddev,
            seed,
            dtype,
            name,
            trainable,
        )

    def bind(
        self, variables: Sequence[Any], batch_shape: Sequence[int] = ()
    ) -> "BoundGlobalAveraging":
        """Returns the rule for given tensors, whose coordinates share the averages."""
        return BoundGlobalAveraging(self, variables, batch_shape)


class BoundGlobalAveraging(BoundJointly):
    """A `GlobalAveragingLSTM` bound to given tensors."""

    def initial_state(self) -> TensorState:
        return TensorState((), self.initial_lstm_states())

    def update(
        self, gradients: Sequence[tf.Tensor], state: TensorState, info: StepInfo = NO_INFO
    ) -> tuple[list[tf.Tensor], TensorState]:
        outputs, after = self.rule.run(
            self.joined(gradients)[..., tf.newaxis], self.joined_states(state.tensors)
        )
        deltas = self.apart(self.rule.output_scale * tf.squeeze(outputs, axis=-1))
        return deltas, TensorState((), self.states_apart(after))
