"""A rule over known gradients, and which parts of it a derivative flows through."""

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.rules import CoordinatewiseLSTM
from l2l_tf.rules.execution.trajectory import answer, cut_off, damped

NUM_COORDINATES = 21


def _lstm() -> CoordinatewiseLSTM:
    return CoordinatewiseLSTM((4, 3), "log_and_sign", output_stddev=0.3, seed=0, dtype="float64")


def _sum_of_gradients(gradient, state):
    """A rule whose deltas are all gradients so far, added up."""
    return state + gradient, state + gradient


@pytest.mark.parametrize("compiled", [False, True])
def test_answering_known_gradients_gives_the_deltas_of_single_calls(compiled):
    rule = _lstm()
    gradients = tf.constant(np.random.default_rng(0).standard_normal((5, NUM_COORDINATES)))
    state = rule.initial_state(NUM_COORDINATES)
    run = tf.function(answer, autograph=False) if compiled else answer
    deltas = run(rule, state, gradients)
    for gradient, delta in zip(gradients, deltas, strict=True):
        expected, state = rule(gradient, state)
        np.testing.assert_allclose(delta, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("every", "expected"),
    # Of five deltas, so many depend on the gradient of step 0, 1, ...
    [(None, [5, 4, 3, 2, 1]), (1, [1] * 5), (2, [2, 1, 2, 1, 1]), (3, [3, 2, 1, 2, 1])],
)
def test_a_state_is_a_constant_before_every_so_manyth_step(every, expected):
    gradients = tf.constant(np.arange(5.0)[:, np.newaxis])
    with tf.GradientTape() as tape:
        tape.watch(gradients)
        deltas = answer(_sum_of_gradients, tf.zeros([1], tf.float64), gradients, every)
    # Cut off or not, the deltas are the same.
    np.testing.assert_array_equal(deltas[:, 0], [0, 1, 3, 6, 10])
    np.testing.assert_array_equal(tape.gradient(deltas, gradients)[:, 0], expected)


@pytest.mark.parametrize("index", [0, 1, 2, 3, 4])
def test_what_is_cut_off_keeps_its_values_and_forms(index):
    state = {"vector": tf.constant([1.0, -2.0]), "count": (tf.constant(3.0),)}
    leaves = tf.nest.flatten(state)
    with tf.GradientTape() as tape:
        tape.watch(leaves)
        passed = cut_off(state, tf.constant(index), 2)
        total = tf.add_n([tf.reduce_sum(leaf) for leaf in tf.nest.flatten(passed)])
    tf.nest.map_structure(np.testing.assert_array_equal, passed, state)
    for slope in tape.gradient(total, leaves):
        np.testing.assert_array_equal(slope, np.full(slope.shape, index % 2))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_of_a_gradient_with_respect_to_damped_values_a_share_passes(share):
    values = tf.constant([1.0, -2.0, 3.0])
    with tf.GradientTape() as tape:
        tape.watch(values)
        passed = damped(values, share)
        total = tf.reduce_sum(tf.square(passed))
    np.testing.assert_array_equal(passed, values)
    np.testing.assert_allclose(tape.gradient(total, values), share * 2 * values)
