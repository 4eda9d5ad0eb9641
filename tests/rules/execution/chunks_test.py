"""A rule in chunks, against the rule on all coordinates at once."""

from collections.abc import Sequence

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.rules import Adam, CoordinatewiseLSTM, FlatLayout, RNNprop
from tests.reference.truncated_backpropagation import gradient_over
from tests.rules.execution.arrangements import (
    ARRANGEMENTS,
    in_chunks,
    side_by_side_in_chunks,
    whole,
)
from tests.rules.execution.toys import DividesByItsState, ManyForms, Stateless
from tests.rules.run_rule import on_vector, run_rule

NUM_COORDINATES = 23
LAYOUT = FlatLayout([[NUM_COORDINATES]])


def _lstm(units: Sequence[int] = (4, 3)) -> CoordinatewiseLSTM:
    return CoordinatewiseLSTM(units, "log_and_sign", output_stddev=0.3, seed=0, dtype="float64")


def _rnnprop() -> RNNprop:
    return RNNprop((4, 3), output_stddev=1.0, seed=0, dtype="float64")


def _gradients(num_steps: int, num_coordinates: int = NUM_COORDINATES) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((num_steps, num_coordinates))


# Deltas


# One coordinate at a time; chunks that don't divide 23 coordinates; one chunk of all, or more.
@pytest.mark.parametrize("chunk_size", [1, 8, 22, NUM_COORDINATES, 100])
@pytest.mark.parametrize("compiled", [False, True])
def test_deltas_are_those_of_the_rule(chunk_size, compiled):
    gradients, rule = _gradients(4), in_chunks(_lstm(), LAYOUT, chunk_size)
    call = tf.function(rule, autograph=False) if compiled else rule
    state = rule.initial_state()
    for gradient, expected in zip(gradients, run_rule(_lstm(), gradients), strict=True):
        delta, state = call(tf.constant(gradient), state)
        np.testing.assert_allclose(delta, expected, rtol=1e-12)


def test_deltas_are_those_of_the_rule_under_xla():
    gradients, rule = _gradients(4), in_chunks(_lstm((3,)), LAYOUT, 8)
    call, state = tf.function(rule, autograph=False, jit_compile=True), rule.initial_state()
    for gradient, expected in zip(gradients, run_rule(_lstm((3,)), gradients), strict=True):
        delta, state = call(tf.constant(gradient), state)
        # XLA's float64 tanh differs from TensorFlow's by some last bits.
        np.testing.assert_allclose(delta, expected, rtol=1e-9)


def test_a_state_with_scalars_is_kept_for_each_chunk():
    rule = Adam(0.1)
    assert any(leaf.shape == [] for leaf in tf.nest.flatten(rule.initial_state(NUM_COORDINATES)))
    gradients = _gradients(4).astype(np.float32)
    np.testing.assert_allclose(
        run_rule(in_chunks(rule, LAYOUT, 8), gradients), run_rule(rule, gradients), rtol=1e-6
    )


# As many chunks as needed, no larger than each must be.
@pytest.mark.parametrize(
    ("num_coordinates", "num_chunks", "size"), [(1, 1, 1), (8, 1, 8), (9, 2, 5), (24, 3, 8)]
)
def test_chunks_are_as_few_and_as_even_as_can_be(num_coordinates, num_chunks, size):
    rule = in_chunks(_lstm(), FlatLayout([[num_coordinates]]), 8)
    assert rule.num_chunks == num_chunks
    assert rule.chunk.num_coordinates == size
    assert rule.num_coordinates == num_coordinates


def test_an_empty_chunk_is_refused():
    with pytest.raises(ValueError, match=r"^chunk_size must"):
        in_chunks(_lstm(), LAYOUT, 0)


# The gradient of an unroll over stored gradients


# One coordinate at a time; chunks that don't divide 23 coordinates, and larger than all.
@pytest.mark.parametrize("chunk_size", [1, 8, NUM_COORDINATES, 100])
@pytest.mark.parametrize("compiled", [False, True])
def test_chunks_add_up_to_the_gradient_of_all_coordinates(chunk_size, compiled):
    rule, gradients = _lstm(), tf.constant(_gradients(6))
    step_weights = tf.constant([1.0, 0.5, 2.0, 3.0, 1.5], tf.float64)
    cut = in_chunks(rule, LAYOUT, chunk_size)
    # A state in the middle of a trajectory: chunks must take their own part of it.
    _, state = rule(gradients[0] * 3, rule.initial_state(NUM_COORDINATES))
    _, chunk_states = cut(gradients[0] * 3, cut.initial_state())
    pullback = tf.function(cut.pullback, autograph=False) if compiled else cut.pullback
    result = pullback(chunk_states, gradients[0], gradients[1:], step_weights)
    expected = gradient_over(rule, state, gradients, step_weights)
    for actual, wanted in zip(result, expected, strict=True):
        # Float64 sums of some hundred terms in another order.
        np.testing.assert_allclose(actual, wanted, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("make_rule", [_lstm, _rnnprop])
def test_states_are_constants_to_it_every_few_steps(make_rule, every):
    rule, gradients = make_rule(), tf.constant(_gradients(6))
    step_weights = tf.constant([1.0, 0.5, 2.0, 3.0, 1.5], tf.float64)
    cut = in_chunks(rule, LAYOUT, 8)
    result = cut.pullback(cut.initial_state(), gradients[0], gradients[1:], step_weights, every)
    state = rule.initial_state(NUM_COORDINATES)
    expected = gradient_over(rule, state, gradients, step_weights, every)
    for actual, wanted in zip(result, expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-10, atol=1e-13)


def test_chunks_add_up_under_xla_too():
    rule, gradients = _lstm((3,)), tf.constant(_gradients(4))
    step_weights = tf.constant([1.0, 0.5, 2.0], tf.float64)
    cut = in_chunks(rule, LAYOUT, 8)
    pullback = tf.function(cut.pullback, autograph=False, jit_compile=True)
    result = pullback(cut.initial_state(), gradients[0], gradients[1:], step_weights)
    state = rule.initial_state(NUM_COORDINATES)
    expected = gradient_over(rule, state, gradients, step_weights)
    for actual, wanted in zip(result, expected, strict=True):
        # XLA's float64 tanh differs from TensorFlow's by some last bits.
        np.testing.assert_allclose(actual, wanted, rtol=1e-8, atol=1e-12)


def test_parts_within_chunks_add_up_too():
    rule, gradients = _rnnprop(), tf.constant(_gradients(4))
    step_weights = tf.constant([1.0, 0.5, 2.0], tf.float64)
    cut = side_by_side_in_chunks(rule, LAYOUT, 8, 3)
    result = cut.pullback(cut.initial_state(), gradients[0], gradients[1:], step_weights)
    state = rule.initial_state(NUM_COORDINATES)
    expected = gradient_over(rule, state, gradients, step_weights)
    for actual, wanted in zip(result, expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-10, atol=1e-13)


# States in the form of checkpoints


def _after(rule, gradients: np.ndarray):
    """Returns the state of a bound rule after some gradients."""
    state = rule.initial_state()
    for gradient in tf.unstack(tf.constant(gradients)):
        _, state = rule(gradient, state)
    return state


def _assert_same(one, other) -> None:
    tf.nest.assert_same_structure(one, other)
    for ours, theirs in zip(tf.nest.flatten(one), tf.nest.flatten(other), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("make_rule", [_lstm, _rnnprop, Stateless, ManyForms])
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
# Fewer coordinates than a chunk has; just as many; a last chunk that is filled up.
@pytest.mark.parametrize("num_coordinates", [1, 16, 23])
def test_a_whole_state_is_that_of_the_rule_on_all_coordinates(
    make_rule, arrangement, num_coordinates
):
    rule, layout = make_rule(), FlatLayout([[num_coordinates]])
    cut, gradients = ARRANGEMENTS[arrangement](rule, layout), _gradients(3, num_coordinates)
    state = cut.whole_state(_after(cut, gradients))
    _assert_same(state, _after(whole(rule, layout), gradients))
    # Cut and joined again, it is the very same.
    again = cut.whole_state(cut.cut_state(state))
    tf.nest.map_structure(np.testing.assert_array_equal, again, state)


@pytest.mark.parametrize("make_rule", [_lstm, ManyForms])
@pytest.mark.parametrize("before", ["whole", *ARRANGEMENTS])
@pytest.mark.parametrize("after", ARRANGEMENTS)
def test_a_rule_goes_on_in_any_other_form(make_rule, before, after):
    rule, gradients = make_rule(), _gradients(5)
    wanted = run_rule(rule, gradients)
    first = {"whole": whole, **ARRANGEMENTS}[before](rule, LAYOUT)
    second = ARRANGEMENTS[after](rule, LAYOUT)
    state = second.cut_state(first.whole_state(_after(first, gradients[:2])))
    tf.nest.assert_same_structure(state, second.initial_state())
    for gradient, expected in zip(gradients[2:], wanted[2:], strict=True):
        delta, state = second(tf.constant(gradient), state)
        np.testing.assert_allclose(delta, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("make_rule", [_lstm, _rnnprop, DividesByItsState])
@pytest.mark.parametrize("chunk_size", [8, 16])
def test_so_does_its_gradient_whatever_fills_the_last_chunk(make_rule, chunk_size):
    rule, gradients = make_rule(), tf.constant(_gradients(5))
    step_weights = tf.constant([1.0, 0.5, 2.0], tf.float64)
    before = on_vector(rule, NUM_COORDINATES)
    state = _after(before, 3 * _gradients(1))
    cut = in_chunks(rule, LAYOUT, chunk_size)
    result = cut.pullback(
        cut.cut_state(before.whole_state(state)), gradients[0], gradients[1:4], step_weights
    )
    expected = gradient_over(rule, state, gradients, step_weights)
    for actual, wanted in zip(result, expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-10, atol=1e-13)
