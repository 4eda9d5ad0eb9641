"""Runs a rule over known gradients."""

from typing import Any

import numpy as np
import tensorflow as tf

from l2l_tf.rules import BoundRule, Rule


def on_vector(rule: Rule, num_coordinates: int) -> Any:
    """Returns a rule bound to one vector of N coordinates."""
    return rule.bind([tf.TensorSpec([num_coordinates], name="vector")])


def run_rule(rule: Rule, gradients: np.ndarray) -> np.ndarray:
    """Returns the deltas `[T, N]` of a rule run over gradients `[T, N]` from its initial state.

    Args:
        rule: a bound rule of N coordinates, or a rule, which is then bound to one vector of N.
        gradients: float `[T, N]`.
    """
    bound = rule if isinstance(rule, BoundRule) else on_vector(rule, gradients.shape[1])
    state = bound.initial_state()
    deltas = []
    for gradient in tf.unstack(tf.constant(gradients)):
        delta, state = bound(gradient, state)
        deltas.append(delta)
    return np.stack(deltas)
