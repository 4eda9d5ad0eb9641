"""The backward pass in chunks, against one that keeps the tape of the whole unroll."""

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.problems import Quadratic, task_seeds
from l2l_tf.rules import CoordinatewiseLSTM
from l2l_tf.training import meta_gradient, start, unroll
from l2l_tf.training.replay import answer, choose_chunk_size, replay_gradient
from tests.training.toys import LinearRule

NUM_COORDINATES = 21


def _lstm(**arguments) -> CoordinatewiseLSTM:
    return CoordinatewiseLSTM(
        (4, 3), "log_and_sign", output_stddev=0.3, seed=0, dtype="float64", **arguments
    )


def _sequences() -> tuple[tf.Tensor, tf.Tensor]:
    generator = np.random.default_rng(0)
    gradients, cotangents = generator.standard_normal((2, 5, NUM_COORDINATES))
    return tf.constant(gradients), tf.constant(cotangents)


def _kept_tape_gradient(rule, state, gradients, cotangents) -> list[tf.Tensor]:
    with tf.GradientTape() as tape:
        product = tf.constant(0.0, tf.float64)
        for gradient, cotangent in zip(gradients, cotangents, strict=True):
            delta, state = rule(gradient, state)
            product += tf.reduce_sum(delta * cotangent)
    return tape.gradient(product, [weight.value for weight in rule.trainable_variables])


# One coordinate at a time; chunks that divide 21 coordinates, that don't, and larger than all.
@pytest.mark.parametrize("chunk_size", [1, 7, 8, NUM_COORDINATES, 100])
@pytest.mark.parametrize("compiled", [False, True])
def test_chunks_add_up_to_the_gradient_of_all_coordinates(chunk_size, compiled):
    rule, (gradients, cotangents) = _lstm(), _sequences()
    # A state in the middle of a trajectory: chunks must take their own part of it.
    _, state = rule(gradients[0] * 3, rule.initial_state(NUM_COORDINATES))
    replay = tf.function(replay_gradient) if compiled else replay_gradient
    result = replay(rule, state, gradients, cotangents, chunk_size)
    expected = _kept_tape_gradient(rule, state, gradients, cotangents)
    for actual, wanted in zip(result, expected, strict=True):
        # Float64 sums of some hundred terms in another order.
        np.testing.assert_allclose(actual, wanted, rtol=1e-10, atol=1e-13)


def test_answering_known_gradients_gives_the_deltas_of_single_calls():
    rule, (gradients, _) = _lstm(), _sequences()
    state = rule.initial_state(NUM_COORDINATES)
    deltas = answer(rule, state, gradients)
    for gradient, delta in zip(gradients, deltas, strict=True):
        expected, state = rule(gradient, state)
        np.testing.assert_allclose(delta, expected, rtol=1e-12)


def test_the_meta_gradient_in_chunks_is_that_of_the_kept_tape():
    rule, problem = _lstm(), Quadratic(num_functions=6, initial_stddev=1.0, dtype="float64")
    seed = task_seeds(0, "train", 0, 1)[0]
    # In the middle of a trajectory, with steps that do not count alike.
    _, iterate = unroll(rule, problem, seed, start(rule, problem, seed), 3)
    arguments = (rule, problem, seed, iterate, 4, tf.constant([1.0, 0.5, 2.0, 3.0], tf.float64))
    kept = meta_gradient(*arguments)
    replayed = meta_gradient(*arguments, chunk_size=16)
    np.testing.assert_array_equal(replayed.meta_loss, kept.meta_loss)
    np.testing.assert_array_equal(replayed.iterate.parameters, kept.iterate.parameters)
    for actual, wanted in zip(replayed.gradients, kept.gradients, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-10, atol=1e-13)


def test_only_unrolls_whose_tape_would_be_large_are_replayed():
    rule = CoordinatewiseLSTM()
    assert choose_chunk_size(rule, 22_682, 20) is None
    assert choose_chunk_size(rule, 1_000_000, 20) == 16384
    assert choose_chunk_size(CoordinatewiseLSTM((2,)), 1_000_000, 20) == 16384
    assert choose_chunk_size(CoordinatewiseLSTM((2,)), 100_000, 20) is None


def test_a_rule_that_is_not_coordinatewise_is_never_cut_into_chunks():
    rule = LinearRule()
    rule.is_coordinatewise = False
    assert choose_chunk_size(rule, 10**9, 20) is None
    with pytest.raises(ValueError) as raised:
        replay_gradient(rule, (), tf.zeros([2, 4]), tf.zeros([2, 4]), 2)
    assert str(raised.value) == (
        "A backward pass in chunks must be of a coordinatewise rule. "
        f"Received: rule={rule.name!r}. Leave chunk_size out."
    )


def test_an_empty_chunk_is_refused():
    with pytest.raises(ValueError) as raised:
        replay_gradient(LinearRule(), (), tf.zeros([2, 4]), tf.zeros([2, 4]), 0)
    assert str(raised.value) == (
        "chunk_size must be at least 1. Received: chunk_size=0. Leave it out to have it chosen."
    )
