"""How tests run a rule over gradients that they know."""

import numpy as np
import tensorflow as tf

from l2l_tf.rules import Rule


def run_rule(rule: Rule, gradients: np.ndarray) -> np.ndarray:
    """Returns the deltas `[T, N]` of a rule run over gradients `[T, N]` from its initial state."""
    state = rule.initial_state(gradients.shape[1])
    deltas = []
    for gradient in tf.unstack(tf.constant(gradients)):
        delta, state = rule(gradient, state)
        deltas.append(delta)
    return np.stack(deltas)
