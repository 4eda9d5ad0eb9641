"""Records of rules for made-up gradients, and a rule that clips."""

import numpy as np
import tensorflow as tf

from l2l_tf.analysis import Record
from l2l_tf.analysis.stepping import Stepper
from l2l_tf.analysis.trajectory import make_record
from l2l_tf.parameter_spec import ParameterSpec
from l2l_tf.rules import CoordinatewiseRule

VARIABLES = [ParameterSpec("hidden/kernel", (2, 2)), ParameterSpec("hidden/bias", (2,))]
SIZES = [4, 2]


def made_record(rule, num_steps: int = 40, seed: int = 0, scale: float = 1.0) -> Record:
    """Returns the record of a coordinatewise rule for normal gradients, on six coordinates."""
    draw = np.random.default_rng(seed)
    # Coordinates of three sizes.
    gradients = scale * draw.standard_normal((num_steps, 6)) * [1, 1, 3, 3, 0.1, 0.1]
    gradients = gradients.astype(np.float32)
    losses = np.zeros(num_steps, np.float32)
    chosen = np.arange(6)
    unanswered = make_record(rule, VARIABLES, SIZES, chosen, gradients, gradients, losses)
    deltas, _ = Stepper(rule, unanswered.parts).replay(gradients)
    return make_record(rule, VARIABLES, SIZES, chosen, gradients, deltas, losses)


class ClippedSGD(CoordinatewiseRule):
    """SGD of a rate, with gradients clipped to [-limit, limit].

    Args:
        rate: the rate.
        limit: the limit.
    """

    def __init__(self, rate: float, limit: float):
        self.rate = rate
        self.limit = limit

    def initial_state(self, num_coordinates):
        return tf.zeros([num_coordinates])

    def __call__(self, gradient, state):
        return -self.rate * tf.clip_by_value(gradient, -self.limit, self.limit), state
