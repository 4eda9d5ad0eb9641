"""Small rules that misbehave, and what guards are tested on."""

import keras
import numpy as np
import tensorflow as tf

from l2l_tf.parameter_spec import ParameterSpec
from l2l_tf.rules import CoordinatewiseRule, StepInfo

VARIABLES = [ParameterSpec("kernel", (3, 2)), ParameterSpec("bias", (2,))]


@keras.saving.register_keras_serializable(package="l2l_tf_tests")
class Times(CoordinatewiseRule):
    """The gradient times a factor. Its state counts steps and keeps a sum of gradients."""

    def __init__(self, factor: float):
        self.factor = factor

    def initial_state(self, num_coordinates):
        return tf.zeros([]), tf.zeros([num_coordinates, 2])

    def __call__(self, gradient, state):
        count, sums = state
        delta = self.factor * gradient + tf.reduce_sum(0 * sums, 1)
        return delta, (count + 1, sums + gradient[:, tf.newaxis])

    def get_config(self):
        return {"factor": self.factor}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def gradients(num_steps=3, batch_shape=(), seed=0):
    """Returns the gradients of each tensor at each step."""
    draw = np.random.default_rng(seed)
    return [
        [
            tf.constant(draw.standard_normal((*batch_shape, *one.shape)), tf.float32)
            for one in VARIABLES
        ]
        for _ in range(num_steps)
    ]


def run(rule, of_steps, batch_shape=(), state=None):
    """Returns the deltas of each tensor at each step, as arrays, and the last state."""
    bound = rule.bind(VARIABLES, batch_shape)
    state, deltas = bound.initial_state() if state is None else state, []
    parameters = [tf.ones_like(one) for one in of_steps[0]]
    for step, of_step in enumerate(of_steps):
        delta, state = bound.update(of_step, state, StepInfo(tf.constant(step), None, parameters))
        deltas.append([one.numpy() for one in delta])
    return deltas, state


def norm(tensors):
    """Returns the norm of all tensors together, in float64."""
    return float(np.sqrt(sum(np.square(np.asarray(one, np.float64)).sum() for one in tensors)))
