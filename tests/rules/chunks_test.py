"""A rule in chunks, against the rule on all coordinates at once."""

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.rules import SGD, Adam, CoordinatewiseLSTM, Rule
from l2l_tf.rules.chunks import InChunks

NUM_COORDINATES = 23


def _lstm() -> CoordinatewiseLSTM:
    return CoordinatewiseLSTM((4, 3), output_stddev=0.3, seed=0, dtype="float64")


def _deltas(rule: Rule, gradients: tf.Tensor) -> list[tf.Tensor]:
    state, deltas = rule.initial_state(gradients.shape[1]), []
    for gradient in tf.unstack(gradients):
        delta, state = rule(gradient, state)
        deltas.append(delta)
    return deltas


# One coordinate at a time; chunks that don't divide 23 coordinates; one chunk of all, or more.
@pytest.mark.parametrize("chunk_size", [1, 8, 22, NUM_COORDINATES, 100])
@pytest.mark.parametrize("compiled", [False, True])
def test_deltas_are_those_of_the_rule(chunk_size, compiled):
    gradients = tf.constant(np.random.default_rng(0).standard_normal((4, NUM_COORDINATES)))
    in_chunks = InChunks(_lstm(), chunk_size)
    run = tf.function(_deltas) if compiled else _deltas
    for actual, wanted in zip(run(in_chunks, gradients), _deltas(_lstm(), gradients), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-12)


def test_deltas_are_those_of_the_rule_under_xla():
    gradients = tf.constant(np.random.default_rng(0).standard_normal((4, NUM_COORDINATES)))
    run = tf.function(_deltas, jit_compile=True)
    compiled = run(InChunks(_lstm(), 8), gradients)
    for actual, wanted in zip(compiled, _deltas(_lstm(), gradients), strict=True):
        # XLA's float64 tanh differs from TensorFlow's by some last bits.
        np.testing.assert_allclose(actual, wanted, rtol=1e-9)


def test_a_state_with_scalars_is_kept_for_each_chunk():
    rule = Adam(0.1)
    assert any(leaf.shape == [] for leaf in tf.nest.flatten(rule.initial_state(NUM_COORDINATES)))
    gradients = tf.random.stateless_normal([4, NUM_COORDINATES], [0, 1])
    for actual, wanted in zip(
        _deltas(InChunks(rule, 8), gradients), _deltas(rule, gradients), strict=True
    ):
        np.testing.assert_allclose(actual, wanted, rtol=1e-6)


# As many chunks as needed, no larger than each must be.
@pytest.mark.parametrize(
    ("num_coordinates", "partition"), [(1, (1, 1)), (8, (1, 8)), (9, (2, 5)), (24, (3, 8))]
)
def test_chunks_are_as_few_and_as_even_as_can_be(num_coordinates, partition):
    assert InChunks(_lstm(), 8).partition(num_coordinates) == partition


def test_a_rule_that_is_not_coordinatewise_is_refused():
    rule = SGD(0.1)
    rule.is_coordinatewise = False
    with pytest.raises(ValueError) as raised:
        InChunks(rule)
    assert str(raised.value) == (
        "rule must be coordinatewise to be applied in chunks. "
        f"Received: rule={rule!r}. Apply it to all coordinates at once."
    )


def test_an_empty_chunk_is_refused():
    with pytest.raises(ValueError) as raised:
        InChunks(_lstm(), 0)
    assert str(raised.value) == (
        "chunk_size must be at least 1. Received: chunk_size=0. Give a number of coordinates."
    )
