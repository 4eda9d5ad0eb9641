"""The paper's rule: a small LSTM shared by all coordinates."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from l2l_tf.checks import check_one_of
from l2l_tf.rules.lstm import LSTMRule, LSTMState
from l2l_tf.rules.preprocess import PREPROCESSORS, check_p


@keras.saving.register_keras_serializable(package="l2l_tf")
class CoordinatewiseLSTM(LSTMRule):
    """An LSTM that maps each coordinate's gradient to its delta.

    Source: Andrychowicz et al. 2016, section 2.1 (arXiv 1606.04474).

    There are two differences from the paper's code. The output weights start with standard
    deviation `output_stddev`, zero by default, so that an untrained rule makes no updates. The
    gates are in Keras's order (see `LSTMRule` for the weights).

    Args:
        units: H of each LSTM layer.
        preprocessing: a key of `PREPROCESSORS`, the preprocessing of gradients for the first layer.
        p: the constant of log-and-sign preprocessing.
        output_scale: the factor from the last layer's output to the delta.
        output_stddev: standard deviation of the initial output weights.
        seed: an integer seed for the initial weights. None uses Keras's global seed.
        dtype: dtype of weights, states and deltas, independent of the global dtype policy. float64
            is for derivative tests.
        name: the layer's name.
        trainable: whether the weights are trainable, as in any Keras layer.

    Call arguments:
        gradient: float `[N]`.
        state: the state returned by `initial_state` or by the previous call: a pair (hidden, cell),
            each `[N, H]`, for each LSTM layer.

    Returns:
        The delta, float `[N]`, and the next state.

    Raises:
        ValueError: `units` is empty or holds a number below 1, the preprocessing is unknown, or
            `p`, seed, dtype or output scale is out of range. At a call, the gradient is not a
            vector, or the state is for another number of coordinates or layers.
        TypeError: `units` is not a sequence of integers. At a call, the gradient has another dtype.
    """

    def __init__(
        self,
        units: Sequence[int] = (20, 20),
        preprocessing: str = "none",
        p: float = 10.0,
        output_scale: float = 1.0,
        output_stddev: float = 0.0,
        seed: int | None = None,
        dtype: str = "float32",
        name: str | None = None,
        trainable: bool = True,
    ):
        check_one_of("preprocessing", preprocessing, PREPROCESSORS)
        check_p(p)
        _, num_inputs = PREPROCESSORS[preprocessing]
        super().__init__(
            num_inputs, units, output_scale, output_stddev, seed, dtype, name, trainable
        )
        self.preprocessing = preprocessing
        self.p = p

    def initial_state(self, num_coordinates: int | tf.Tensor) -> LSTMState:
        """Returns zero hidden values and cells for N coordinates."""
        return self._initial_lstm_state(num_coordinates)

    def call(self, gradient: tf.Tensor, state: LSTMState) -> tuple[tf.Tensor, LSTMState]:
        self._check_gradient(gradient)
        self._check_state(gradient, state)
        preprocess, _ = PREPROCESSORS[self.preprocessing]
        output, next_state = self._run_lstm(preprocess(gradient, self.p), state)
        return self.output_scale * output, next_state

    def _check_state(self, gradient: tf.Tensor, state: LSTMState) -> None:
        shapes = [[part.shape for part in layer] for layer in state]
        expected = [(gradient.shape[0], num_units) for num_units in self.units]
        if len(shapes) != len(expected) or not all(
            len(pair) == 2 and all(part.is_compatible_with(want) for part in pair)
            for pair, want in zip(shapes, expected, strict=True)
        ):
            raise ValueError(
                f"state must hold a pair of each of the shapes {expected}. "
                f"Received: state with shapes {shapes}. Begin with rule.initial_state(N) for a "
                "gradient of N coordinates."
            )

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"preprocessing": self.preprocessing, "p": self.p}
