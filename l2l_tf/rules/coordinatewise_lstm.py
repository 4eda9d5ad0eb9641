"""The paper's rule: one small LSTM, shared by all coordinates."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from l2l_tf.checks import check_one_of
from l2l_tf.rules.lstm import LSTMRule, LSTMState
from l2l_tf.rules.preprocess import MAX_P, PREPROCESSORS


@keras.saving.register_keras_serializable(package="l2l_tf")
class CoordinatewiseLSTM(LSTMRule):
    """An LSTM that reads each coordinate's gradient and proposes its delta.

    Source: Andrychowicz et al. 2016, section 2.1 (arXiv 1606.04474).

    Two things depart from the paper's code: the output weights start at `output_stddev`, by default
    zero, so that an untrained rule stands still instead of walking off; and gates are in Keras's
    order (`LSTMRule` says more of the weights).

    Args:
        units: H of each LSTM layer.
        preprocessing: a key of `PREPROCESSORS`: what the first layer sees of a gradient.
        p: the constant of log-and-sign preprocessing.
        output_scale: what the last layer's output is multiplied by to give the delta.
        output_stddev: standard deviation of the initial output weights.
        seed: an integer seeds the initial weights; None draws them from Keras's global seed.
        dtype: dtype of weights, states and deltas. float32 whatever the global dtype policy is;
            float64 serves derivative tests.
        name: the layer's name.
        trainable: whether the weights count as trainable, as in any Keras layer.

    Call arguments:
        gradient: float `[N]`.
        state: what `initial_state` or the previous call returned: a pair (hidden, cell), each
            `[N, H]`, for each LSTM layer.

    Returns:
        The delta, float `[N]`, and the next state.

    Raises:
        ValueError: no units or a count below 1, unknown preprocessing, a `p`, seed, dtype or output
            scale out of range, or, at a call, a gradient that is no vector or a state of another
            number of coordinates or layers.
        TypeError: units that are no sequence of integers or, at a call, a gradient of another
            dtype.
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
        if not 0 < p <= MAX_P:
            raise ValueError(
                f"p must be positive and at most {MAX_P:g}, or e^p overflows float32. "
                f"Received: p={p}. The paper uses 10."
            )
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
