"""A rule with a few learned numbers, to which a larger one can be distilled."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from l2l_tf.checks import check_count, check_one_of, check_positive
from l2l_tf.rules.coordinatewise import CoordinatewiseRule

# Weights of the untrained rule: momentum of saturated gradients whose steps shrink without
# agreement.
_INPUT_GAIN, _REFERENCE_GAIN, _MOMENTUM, _MEMORY = 3.0, 3.0, 0.7, 0.95
_DIRECTION, _GATE, _THRESHOLD = (0.5, 1.0), (0.01, 2.0), 0.5
FORMS = ("recursive", "taps")


@keras.saving.register_keras_serializable(package="l2l_tf")
class DistilledRule(CoordinatewiseRule, keras.layers.Layer):
    """A learned rule of nine weights that keeps three numbers for each coordinate.

    A coordinate's gradient g is divided by the root of its running mean square, corrected for its
    start at zero, and saturated: u = tanh(input_gain g / root). It depends on the sign of the
    gradient and little on its size. There are two forms.

    "recursive" keeps a momentum p of u and a confidence c. The momentum is a running mean. The
    confidence is a running mean, from 1 on, of

        u tanh(reference_gain p_before) + 1 - u^2:

    it stays where gradients agree with the momentum before them, or are small, and falls where
    large ones disagree. With d = direction_0 u + direction_1 p, the delta is

        -output_scale d (floor + slope max(c - threshold, 0)^2).

    Floor and slope are positive, whatever the weights, so steps never grow where confidence falls.
    It falls below zero where signs alternate.

    "taps" is a finite impulse response: -output_scale times the sum of tap_k times the u of k steps
    ago. It keeps the earlier u.

    Adapting the size of steps to the agreement of signs goes back to Jacobs 1988 (delta-bar-delta)
    and Riedmiller and Braun 1993 (Rprop). The formulas are our own. They describe what
    `mnist_rnnprop` does (`experiments.distil`).

    Args:
        form: "recursive" or "taps".
        num_taps: the number of taps, for that form.
        decay: the decay of the mean square.
        epsilon: added to the root; far smaller gradients count as zero.
        output_scale: the factor of all deltas.
        seed: ignored: initial weights are not random.
        dtype: the dtype of weights, states and deltas, independent of the global dtype policy.
            float64 is for derivative tests.
        name: the layer's name.
        trainable: whether the weights are trainable, as in any Keras layer.

    Call arguments:
        gradient: float `[N]`.
        state: the state returned by `initial_state` or by the previous call: the number of steps
            `[]`, the mean square `[N]`, and a tuple of the momentum and the confidence, `[N]` each,
            or of the earlier u, `[N]` each, the latest first.

    Returns:
        The delta, float `[N]`, and the next state.

    Raises:
        ValueError: the form or the dtype is unknown, a count is not positive, or a number is out of
            range.
    """

    has_small_state = True

    def __init__(
        self,
        form: str = "recursive",
        num_taps: int = 5,
        decay: float = 0.95,
        epsilon: float = 1e-8,
        output_scale: float = 0.1,
        seed: int | None = None,
        dtype: str = "float32",
        name: str | None = None,
        trainable: bool = True,
    ):
        check_one_of("form", form, FORMS)
        check_count("num_taps", num_taps)
        check_positive("epsilon", epsilon, "It keeps zeros from being divided by zero.")
        check_positive("output_scale", output_scale, "Leave it out for 0.1.")
        check_one_of("dtype", dtype, ("float32", "float64"))
        if not 0 < decay < 1:
            raise ValueError(
                f"decay must be between 0 and 1. Received: decay={decay}. Leave it out for 0.95."
            )
        super().__init__(dtype=dtype, name=name, trainable=trainable, autocast=False)
        self.form = form
        self.num_taps = num_taps
        self.decay = decay
        self.epsilon = epsilon
        self.output_scale = output_scale
        self.seed = seed
        # Logarithms and logits, so that any weights make a rule.
        self.log_input_gain = self._add("log_input_gain", np.log(_INPUT_GAIN))
        if form == "taps":
            self.taps = self._add("taps", _DIRECTION[0] * _MOMENTUM ** np.arange(num_taps))
        else:
            self.log_reference_gain = self._add("log_reference_gain", np.log(_REFERENCE_GAIN))
            logits = [np.log(one / (1 - one)) for one in (_MOMENTUM, _MEMORY)]
            self.decay_logits = self._add("decay_logits", logits)
            self.direction = self._add("direction", _DIRECTION)
            self.log_gate = self._add("log_gate", np.log(_GATE))
            self.threshold = self._add("threshold", _THRESHOLD)
        self.built = True

    def _add(self, name: str, value: Any) -> Any:
        initial = np.asarray(value, np.float64)
        return self.add_weight(
            name=name,
            shape=initial.shape,
            initializer=lambda shape, dtype=None: tf.constant(initial, dtype),
        )

    def initial_state(self, num_coordinates: int | tf.Tensor) -> Any:
        """Returns zeros for everything but the confidence, which is 1."""
        zeros = tf.zeros([num_coordinates], self.compute_dtype)
        memory = (zeros, tf.ones_like(zeros))
        if self.form == "taps":
            memory = (zeros,) * (self.num_taps - 1)
        return tf.zeros([], self.compute_dtype), zeros, memory

    def call(self, gradient: tf.Tensor, state: Any) -> tuple[tf.Tensor, Any]:
        step, square, memory = state
        step += 1
        square += (1 - self.decay) * (tf.square(gradient) - square)
        correction = -tf.math.expm1(step * np.log(self.decay))
        # The correction and the gain are single numbers.
        factor = tf.exp(self.log_input_gain.value) * tf.sqrt(correction)
        floor = self.epsilon**2 * correction
        saturated = tf.tanh(factor * gradient * tf.math.rsqrt(square + floor))
        respond = self._respond_taps if self.form == "taps" else self._respond_recursively
        delta, memory = respond(saturated, memory)
        return delta, (step, square, memory)

    def _respond_taps(self, saturated: tf.Tensor, memory: Any) -> tuple[tf.Tensor, Any]:
        recent = (saturated, *memory)
        taps = tf.unstack(-self.output_scale * self.taps.value)
        delta = tf.add_n([tap * one for tap, one in zip(taps, recent, strict=True)])
        return delta, recent[:-1]

    def _respond_recursively(self, saturated: tf.Tensor, memory: Any) -> tuple[tf.Tensor, Any]:
        momentum, confidence = memory
        decay, remembered = tf.unstack(tf.sigmoid(self.decay_logits.value))
        reference = tf.tanh(tf.exp(self.log_reference_gain.value) * momentum)
        # u r + 1 - u^2 = 1 + u (r - u).
        agreement = 1 + saturated * (reference - saturated)
        momentum = saturated + decay * (momentum - saturated)
        confidence = agreement + remembered * (confidence - agreement)
        of_gradient, of_momentum = tf.unstack(-self.output_scale * self.direction.value)
        floor, slope = tf.unstack(tf.exp(self.log_gate.value))
        excess = tf.nn.relu(confidence - self.threshold.value)
        gate = floor + slope * excess * excess
        return (of_gradient * saturated + of_momentum * momentum) * gate, (momentum, confidence)

    def rescaled(self, factor: float) -> "DistilledRule":
        """Returns a copy whose deltas are `factor` times those of this rule.

        Raises:
            ValueError: the factor is not positive and finite.
        """
        check_positive("factor", factor, "Give, say, 2 for steps twice as large.")
        config = self.get_config() | {"dtype": self.compute_dtype}
        copy = DistilledRule(**config | {"output_scale": factor * self.output_scale})
        copy.set_weights(self.get_weights())
        return copy

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "form": self.form,
            "num_taps": self.num_taps,
            "decay": self.decay,
            "epsilon": self.epsilon,
            "output_scale": self.output_scale,
            "seed": self.seed,
        }
