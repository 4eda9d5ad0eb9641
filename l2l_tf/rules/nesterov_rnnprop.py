"""Nesterov momentum with a correction by an RNNprop, which fades as gradients shrink."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from l2l_tf.checks import check_positive
from l2l_tf.rules.rnnprop import RNNprop
from l2l_tf.rules.routed import RoutedRule


@keras.saving.register_keras_serializable(package="l2l_tf")
class NesterovRNNprop(RNNprop):
    """A step of Nesterov momentum plus RNNprop's delta, damped as gradients become small.

    RNNprop sees gradients relative to their usual size. It therefore takes steps as large near a
    minimum as far from it. This rule damps RNNprop's delta. For a coordinate, let r be the root
    mean square of its gradients and R the largest r so far, both corrected for their start at zero
    as in RNNprop. RNNprop's delta is multiplied by (r / R)^damping_power. The rule then adds the
    delta of `SGD(nesterov_rate, momentum=beta_1, nesterov=True)`, which is proportional to the
    gradients. An untrained rule is exactly that SGD, and a trained RNNprop corrects it.

    Like SGD's, the deltas depend on the scale of the loss and have no bound. R never falls, so
    after one gradient far above all others, RNNprop's correction has little effect. The rule itself
    accepts such gradients; `l2l_tf.LearnedOptimizer` skips them. The weights are those of an
    RNNprop, and may be trained as such (`NesterovRNNprop.of`, `with_nesterov`). Source: our own.

    Args:
        units: H of each LSTM layer.
        nesterov_rate: learning rate of the Nesterov momentum, whose momentum is `beta_1`.
        damping_power: how fast RNNprop's deltas fall with the gradients: 0 (not at all), or at
            least 1. Between 0 and 1, the derivative at a gradient of zero would be infinite.
        **arguments: the other arguments of `RNNprop`.

    Call arguments:
        gradient: float `[N]`.
        state: the state returned by `initial_state` or by the previous call: the state of an
            RNNprop, and the largest root mean square so far, `[N]`.

    Returns:
        The delta, float `[N]`, and the next state.

    Raises:
        ValueError: the rate is not positive and finite, the power is neither 0 nor finite and at
            least 1, or `RNNprop` raises it.
        TypeError: `RNNprop` raises it.
    """

    _scales = ("output_scale", "nesterov_rate")

    def __init__(
        self,
        units: Sequence[int] = (20, 20),
        *,
        nesterov_rate: float = 0.005,
        damping_power: float = 2.0,
        **arguments: Any,
    ):
        check_positive("nesterov_rate", nesterov_rate, "Give, say, 0.005, or take an RNNprop.")
        if damping_power != 0 and not 1 <= damping_power < math.inf:
            raise ValueError(
                "damping_power must be 0 or a finite number of at least 1. "
                f"Received: damping_power={damping_power}. Give, say, 2."
            )
        super().__init__(units, **arguments)
        self.nesterov_rate = nesterov_rate
        self.damping_power = damping_power

    @classmethod
    def of(
        cls, rule: RNNprop, nesterov_rate: float, damping_power: float = 2.0
    ) -> "NesterovRNNprop":
        """Returns a new rule with the weights and settings of an RNNprop, which is not changed.

        Raises:
            TypeError: the rule is not an RNNprop, or already a `NesterovRNNprop`.
            ValueError: the rate or the power is out of range.
        """
        if type(rule) is not RNNprop:
            raise TypeError(
                "rule must be an RNNprop, to which Nesterov momentum can be added. "
                f"Received: {rule!r}. Learn one with --learned_rule=rnnprop."
            )
        # Not from_config, which would wrap these errors in its own.
        config = rule.get_config() | {"dtype": rule.compute_dtype}
        new = cls(**config, nesterov_rate=nesterov_rate, damping_power=damping_power)
        new.set_weights(rule.get_weights())
        return new

    def initial_state(self, num_coordinates: int | tf.Tensor) -> Any:
        """Returns zeros for the whole state of N coordinates."""
        zeros = tf.zeros([num_coordinates], self.compute_dtype)
        return super().initial_state(num_coordinates), zeros

    def call(self, gradient: tf.Tensor, state: Any) -> tuple[tf.Tensor, Any]:
        self._check_peak(gradient, state)
        rnnprop_state, peak = state
        correction, rnnprop_state = super().call(gradient, rnnprop_state)
        step, mean, root_mean_square, _ = rnnprop_state
        # An average of squared gradients is at most the largest of them, so this does not overflow.
        size = root_mean_square / tf.sqrt(-tf.math.expm1(step * math.log(self.beta_2)))
        peak = tf.maximum(peak, size)
        if self.damping_power:
            correction *= tf.math.divide_no_nan(size, peak) ** self.damping_power
        # The mean is 1 - beta_1 times the sum that momentum uses.
        momentum = gradient + self.beta_1 / (1 - self.beta_1) * mean
        return correction - self.nesterov_rate * momentum, (rnnprop_state, peak)

    def _check_peak(self, gradient: tf.Tensor, state: Any) -> None:
        # Shapes that broadcast would go unnoticed. RNNprop checks its own part of the state.
        if len(state) != 2 or not gradient.shape.is_compatible_with(getattr(state[1], "shape", [])):
            raise ValueError(
                "state must hold that of an RNNprop and the largest root mean square so far, "
                f"[{gradient.shape[0]}]. Received: state with shapes "
                f"{[part.shape for part in tf.nest.flatten(state)]}. Begin with "
                "rule.initial_state(N) for a gradient of N coordinates."
            )

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "nesterov_rate": self.nesterov_rate,
            "damping_power": self.damping_power,
        }


def with_nesterov(
    rule: keras.layers.Layer, nesterov_rate: float, damping_power: float = 2.0
) -> keras.layers.Layer:
    """Converts an RNNprop, or each part of a `RoutedRule` of them, to a `NesterovRNNprop`.

    Raises:
        TypeError: the rule, or a part of it, is not an RNNprop, or already a `NesterovRNNprop`.
        ValueError: the rate or the power is out of range.
    """
    if isinstance(rule, RoutedRule):
        return rule.of_each_part(lambda part: with_nesterov(part, nesterov_rate, damping_power))
    return NesterovRNNprop.of(rule, nesterov_rate, damping_power)
