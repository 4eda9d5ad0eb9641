"""RNNprop: an LSTM with inputs normalised as in Adam and RMSprop, and bounded deltas."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from l2l_tf.checks import check_count, check_positive
from l2l_tf.rules.lstm import LSTMRule, LSTMState

# The number of steps so far, `[]`; mean and root mean square of the gradients so far, `[N]` each,
# not corrected for their start at zero; and the LSTM's state.
RNNpropState = tuple[tf.Tensor, tf.Tensor, tf.Tensor, LSTMState]


@keras.saving.register_keras_serializable(package="l2l_tf")
class RNNprop(LSTMRule):
    """An LSTM that sees each coordinate's gradient and mean gradient, relative to their usual size.

    Let m be the mean and v the mean square of the gradients so far, both exponentially weighted and
    corrected for their start at zero. A coordinate's inputs are g / (sqrt(v) + epsilon) and
    m / (sqrt(v) + epsilon). They pass through a dense layer with ELU and the LSTM layers to one
    output. The delta is output_scale tanh(output). It therefore does not depend on the scale of the
    loss, and is never larger than `output_scale`.
    Source: Lv, Jiang and Li 2017 (arXiv 1703.03633).

    There are three differences from the paper's code. The delta is added, not subtracted. The
    output weights start with standard deviation `output_stddev`, zero by default, so that an
    untrained rule makes no updates. And v is stored as its square root, since the square of a
    gradient above 2e19 overflows float32.

    In addition to the LSTM's weights (`LSTMRule`), there are `input_kernel` `[2, I]` and
    `input_bias` `[I]`. A gradient that is not finite makes all later deltas of its coordinate NaN.

    Args:
        units: H of each LSTM layer.
        input_units: I, the number of units in the dense layer.
        beta_1: the decay of the mean.
        beta_2: the decay of the mean square.
        epsilon: added to the root mean square. Far smaller gradients count as zero.
        output_scale: the bound of a delta.
        output_stddev: standard deviation of the initial output weights.
        seed: an integer seed for the initial weights. None uses Keras's global seed.
        dtype: dtype of weights, states and deltas, independent of the global dtype policy. float64
            is for derivative tests.
        name: the layer's name.
        trainable: whether the weights are trainable, as in any Keras layer.

    Call arguments:
        gradient: float `[N]`.
        state: the state returned by `initial_state` or by the previous call: the number of steps
            `[]`, mean `[N]`, root mean square `[N]`, and a pair (hidden, cell), each `[N, H]`, for
            each LSTM layer.

    Returns:
        The delta, float `[N]`, and the next state.

    Raises:
        ValueError: `units` is empty or holds a number below 1, `input_units` is not a positive
            integer, or a decay, `epsilon`, seed, dtype or output scale is out of range. At a call,
            the gradient is not a vector, or the state is for another number of coordinates or
            layers.
        TypeError: `units` is not a sequence of integers. At a call, the gradient has another dtype.
    """

    def __init__(
        self,
        units: Sequence[int] = (20, 20),
        input_units: int = 20,
        beta_1: float = 0.95,
        beta_2: float = 0.95,
        epsilon: float = 1e-8,
        output_scale: float = 0.1,
        output_stddev: float = 0.0,
        seed: int | None = None,
        dtype: str = "float32",
        name: str | None = None,
        trainable: bool = True,
    ):
        check_count("input_units", input_units, "The paper has 20.")
        if not (0 < beta_1 < 1 and 0 < beta_2 < 1):
            raise ValueError(
                "beta_1 and beta_2 must be between 0 and 1. "
                f"Received: beta_1={beta_1}, beta_2={beta_2}. The paper has 0.95 for both."
            )
        advice = "It keeps a zero gradient from being divided by zero. The paper has 1e-8."
        check_positive("epsilon", epsilon, advice)
        super().__init__(
            input_units, units, output_scale, output_stddev, seed, dtype, name, trainable
        )
        self.input_units = input_units
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        input_seed = self._matrix_seeds(2 * len(units) + 2)[-1]
        self._add_named_weight(
            "input_kernel", (2, input_units), keras.initializers.GlorotUniform(input_seed)
        )
        self._add_named_weight("input_bias", (input_units,), "zeros")

    def initial_state(self, num_coordinates: int | tf.Tensor) -> RNNpropState:
        """Returns zeros for the number of steps and for the whole state of N coordinates."""
        zeros = tf.zeros([num_coordinates], self.compute_dtype)
        step = tf.zeros([], self.compute_dtype)
        return step, zeros, zeros, self._initial_lstm_state(num_coordinates)

    def call(self, gradient: tf.Tensor, state: RNNpropState) -> tuple[tf.Tensor, RNNpropState]:
        self._check_gradient(gradient)
        self._check_state(gradient, state)
        step, mean, root_mean_square, lstm_state = state
        step += 1
        mean = self.beta_1 * mean + (1 - self.beta_1) * gradient
        root_mean_square = next_root_mean_square(root_mean_square, gradient, self.beta_2)
        mean_correction = -tf.math.expm1(step * math.log(self.beta_1))
        root_correction = tf.sqrt(-tf.math.expm1(step * math.log(self.beta_2)))
        # Both fractions are multiplied by the root's correction, which is at most 1. Dividing the
        # root by it instead could overflow.
        size = root_mean_square + self.epsilon * root_correction
        relative_gradient = root_correction * gradient / size
        relative_mean = root_correction * (mean / mean_correction) / size
        relative = tf.stack([relative_gradient, relative_mean], axis=1)
        inputs = tf.nn.elu(tf.matmul(relative, self._input_kernel) + self._input_bias)
        output, lstm_state = self._run_lstm(inputs, lstm_state)
        delta = self.output_scale * tf.tanh(output)
        return delta, (step, mean, root_mean_square, lstm_state)

    def _check_state(self, gradient: tf.Tensor, state: RNNpropState) -> None:
        count = gradient.shape[0]
        layers = [[(count, num_units)] * 2 for num_units in self.units]
        expected = [(), (count,), (count,), layers]
        # As flat lists, since tf.nest would flatten a nest of shapes down to their numbers.
        wanted = [*expected[:3], *(shape for layer in layers for shape in layer)]
        found = [part.shape for part in tf.nest.flatten(state)]
        if len(found) != len(wanted) or not all(
            part.is_compatible_with(want) for part, want in zip(found, wanted, strict=True)
        ):
            raise ValueError(
                f"state must hold tensors of the shapes {expected}. "
                f"Received: state with shapes {found}. Begin with rule.initial_state(N) for a "
                "gradient of N coordinates."
            )

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "input_units": self.input_units,
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
        }


def next_root_mean_square(root: tf.Tensor, gradient: tf.Tensor, decay: float) -> tf.Tensor:
    """Returns sqrt(decay root^2 + (1 - decay) gradient^2), `[N]`, without squaring large numbers.

    Both are first divided by the larger of the two, and the result is multiplied by it. At two
    zeros, where the derivative is undefined, it is zero.
    """
    # A constant, since the result does not depend on it.
    scale = tf.stop_gradient(tf.maximum(root, tf.abs(gradient)))
    # Below the smallest normal number, some processors flush numbers to zero.
    is_zero = scale < np.finfo(scale.dtype.as_numpy_dtype).tiny
    divisor = tf.where(is_zero, tf.ones_like(scale), scale)
    mean_square = decay * tf.square(root / divisor) + (1 - decay) * tf.square(gradient / divisor)
    # Zeros are kept out of the root: its derivative would be 0 * inf = NaN.
    return scale * tf.sqrt(tf.where(is_zero, tf.ones_like(mean_square), mean_square))
