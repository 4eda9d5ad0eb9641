"""The backward pass in chunks, against one that keeps the tape of the whole unroll."""

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.problems import Quadratic, StackedProblem, task_seeds
from l2l_tf.rules import CoordinatewiseLSTM, RNNprop, Route, RoutedRule
from l2l_tf.rules.chunks import InChunks
from l2l_tf.rules.routed import on_problem
from l2l_tf.rules.side_by_side import PART_SIZE, SideBySide
from l2l_tf.training import meta_gradient, start, unroll
from l2l_tf.training.replay import answer, bound_memory, replay_gradient
from tests.training.toys import LinearRule, NoisyBowls

NUM_COORDINATES = 21


def _lstm(**arguments) -> CoordinatewiseLSTM:
    return CoordinatewiseLSTM(
        (4, 3), "log_and_sign", output_stddev=0.3, seed=0, dtype="float64", **arguments
    )


def _gradients(num_steps: int) -> tf.Tensor:
    numbers = np.random.default_rng(0).standard_normal((num_steps, NUM_COORDINATES))
    return tf.constant(numbers)


def _kept_tape_gradient(rule, state, gradients, step_weights, every=100) -> list[tf.Tensor]:
    """Adds up the formula's terms one by one: <u_t, sum of w_s g_s over the s after t>.

    The state before each step whose index is a multiple of `every` is a constant.
    """
    with tf.GradientTape() as tape:
        product = tf.constant(0.0, tf.float64)
        for step in range(len(step_weights)):
            if step % every == 0:
                state = tf.nest.map_structure(tf.stop_gradient, state)
            delta, state = rule(gradients[step], state)
            for later in range(step, len(step_weights)):
                product += tf.reduce_sum(step_weights[later] * gradients[later + 1] * delta)
    return tape.gradient(product, [weight.value for weight in rule.trainable_variables])


# One coordinate at a time; chunks that divide 21 coordinates, that don't, and larger than all.
@pytest.mark.parametrize("chunk_size", [1, 7, 8, NUM_COORDINATES, 100])
@pytest.mark.parametrize("compiled", [False, True])
def test_chunks_add_up_to_the_gradient_of_all_coordinates(chunk_size, compiled):
    rule, gradients = _lstm(), _gradients(6)
    step_weights = tf.constant([1.0, 0.5, 2.0, 3.0, 1.5], tf.float64)
    in_chunks = InChunks(rule, chunk_size)
    # A state in the middle of a trajectory: chunks must take their own part of it.
    _, state = rule(gradients[0] * 3, rule.initial_state(NUM_COORDINATES))
    _, chunk_states = in_chunks(gradients[0] * 3, in_chunks.initial_state(NUM_COORDINATES))
    replay = tf.function(replay_gradient) if compiled else replay_gradient
    result = replay(in_chunks, chunk_states, gradients[0], gradients[1:], step_weights)
    expected = _kept_tape_gradient(rule, state, gradients, step_weights)
    for actual, wanted in zip(result, expected, strict=True):
        # Float64 sums of some hundred terms in another order.
        np.testing.assert_allclose(actual, wanted, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("chunk_size", [0, 8])
@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("make_rule", [_lstm, lambda: _rnnprop()], ids=["lstm", "rnnprop"])
def test_deltas_get_credit_to_the_end_though_states_are_constants_every_few_steps(
    make_rule, every, chunk_size
):
    problem = Quadratic(num_functions=6, initial_stddev=1.0, dtype="float64")
    seed = task_seeds(0, "train", 0, 1)[0]
    step_weights = tf.constant([1.0, 0.5, 2.0, 3.0, 1.5], tf.float64)
    rule = make_rule()
    begin = start(rule, problem, seed)
    steps, _ = unroll(rule, problem, seed, begin, 5, ["gradients"])
    gradients = tf.concat([begin.gradient[tf.newaxis], steps.gradients], axis=0)
    expected = _kept_tape_gradient(rule, begin.rule_state, gradients, step_weights / 6, every)
    arranged = InChunks(rule, chunk_size) if chunk_size else rule
    result = meta_gradient(
        arranged,
        problem,
        seed,
        start(arranged, problem, seed),
        5,
        step_weights,
        backpropagation_steps=every,
    )
    for actual, wanted in zip(result.gradients, expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-10, atol=1e-13)
    np.testing.assert_array_equal(result.losses, steps.losses)


def test_as_many_steps_of_backpropagation_as_an_unroll_has_are_all():
    rule, problem = _lstm(), NoisyBowls(dtype="float64")
    seed = task_seeds(0, "train", 0, 1)[0]
    begin = start(rule, problem, seed)

    def gradients(every):
        result = meta_gradient(rule, problem, seed, begin, 4, backpropagation_steps=every)
        return np.concatenate([tf.reshape(one, [-1]) for one in result.gradients])

    np.testing.assert_array_equal(gradients(4), gradients(None))
    assert np.abs(gradients(2) - gradients(None)).max() > 1e-3 * np.abs(gradients(None)).max()


def test_chunks_add_up_under_xla_too():
    rule, gradients = _lstm(), _gradients(4)
    step_weights = tf.constant([1.0, 0.5, 2.0], tf.float64)
    in_chunks = InChunks(rule, 8)
    replay = tf.function(replay_gradient, jit_compile=True)
    state = in_chunks.initial_state(NUM_COORDINATES)
    result = replay(in_chunks, state, gradients[0], gradients[1:], step_weights)
    whole = rule.initial_state(NUM_COORDINATES)
    expected = _kept_tape_gradient(rule, whole, gradients, step_weights)
    for actual, wanted in zip(result, expected, strict=True):
        # XLA's float64 tanh differs from TensorFlow's by some last bits.
        np.testing.assert_allclose(actual, wanted, rtol=1e-8, atol=1e-12)


def test_answering_known_gradients_gives_the_deltas_of_single_calls():
    rule, gradients = _lstm(), _gradients(5)
    state = rule.initial_state(NUM_COORDINATES)
    deltas = answer(rule, state, gradients)
    for gradient, delta in zip(gradients, deltas, strict=True):
        expected, state = rule(gradient, state)
        np.testing.assert_allclose(delta, expected, rtol=1e-12)


def _rnnprop() -> RNNprop:
    return RNNprop((4, 3), output_stddev=1.0, seed=0, dtype="float64")


ARRANGEMENTS = {
    "chunks": lambda rule: InChunks(rule, 16),
    "side_by_side": lambda rule: SideBySide(rule, 16),
    "side_by_side_in_chunks": lambda rule: InChunks(SideBySide(rule, 7), 16),
}


# A rule with two tensors of state for each layer, one whose state is empty, and one with a scalar.
@pytest.mark.parametrize("make_rule", [_lstm, lambda: LinearRule(dtype="float64"), _rnnprop])
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_the_meta_gradient_of_a_rule_cut_up_is_that_of_the_whole(make_rule, arrangement):
    rule, problem = make_rule(), Quadratic(num_functions=6, initial_stddev=1.0, dtype="float64")
    seed = task_seeds(0, "train", 0, 1)[0]
    # In the middle of a trajectory, with steps that do not count alike.
    step_weights = tf.constant([1.0, 0.5, 2.0, 3.0], tf.float64)

    def gradient_of(rule):
        _, iterate = unroll(rule, problem, seed, start(rule, problem, seed), 3)
        return meta_gradient(rule, problem, seed, iterate, 4, step_weights)

    whole, cut = gradient_of(rule), gradient_of(ARRANGEMENTS[arrangement](rule))
    np.testing.assert_allclose(cut.meta_loss, whole.meta_loss, rtol=1e-12)
    np.testing.assert_allclose(cut.iterate.parameters, whole.iterate.parameters, rtol=1e-12)
    for actual, wanted in zip(cut.gradients, whole.gradients, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(("chunk_size", "second_derivatives"), [(0, 0.0), (3, 0.0), (0, 1.0)])
def test_two_parts_of_equal_weights_learn_together_what_one_rule_learns(
    chunk_size, second_derivatives
):
    rule = _lstm()
    parts = RoutedRule(_lstm(), [Route(_lstm(), kind="vector"), Route(_lstm(), kind="conv")])
    # Two parameters, of which routes see rank 2 and rank 1, whatever the number of tasks.
    problem = StackedProblem(NoisyBowls(num_functions=2, dtype="float64"), 3)
    seeds = task_seeds(0, "train", 0, 3)
    step_weights = tf.constant([1.0, 0.5, 2.0, 3.0], tf.float64)

    def gradient_of(rule):
        rule = bound_memory(on_problem(rule, problem), problem.num_coordinates, 4, chunk_size)
        _, iterate = unroll(rule, problem, seeds, start(rule, problem, seeds), 3)
        arguments = (problem, seeds, iterate, 4, step_weights, second_derivatives)
        return meta_gradient(rule, *arguments)

    whole, routed = gradient_of(rule), gradient_of(parts)
    np.testing.assert_allclose(routed.losses, whole.losses, rtol=1e-12)
    np.testing.assert_allclose(routed.iterate.parameters, whole.iterate.parameters, rtol=1e-12)
    vector, conv, other = np.split(np.array(routed.gradients, object), 3)
    for wanted, *shares in zip(whole.gradients, vector, conv, other, strict=True):
        np.testing.assert_allclose(sum(shares), wanted, rtol=1e-9, atol=1e-12)
    # Each has a share, but that for which there are no variables.
    assert all(np.abs(gradient).max() > 0 for gradient in [*vector, *other])
    assert all(np.abs(gradient).max() == 0 for gradient in conv)


def test_of_a_rule_with_parts_all_are_replayed_or_none():
    class Large:
        variables = NoisyBowls().variables
        parameter_shapes = ((1000, 500), (1000, 500))

    rule = RoutedRule(CoordinatewiseLSTM(), [Route(CoordinatewiseLSTM(), kind="vector")])
    flat = on_problem(rule, Large)
    replayed = bound_memory(flat, 10**6, 20).arranged
    assert {name: part.chunk_size for name, part in replayed.items()} == {
        "vector": 16384,
        "other": 16384,
    }
    assert bound_memory(flat, 10**6, 1).arranged == rule.parts


def test_second_derivatives_side_by_side_are_those_of_the_whole():
    rule, problem = _lstm(), Quadratic(num_functions=6, initial_stddev=1.0, dtype="float64")
    seed = task_seeds(0, "train", 0, 1)[0]

    def gradients_of(rule):
        iterate = start(rule, problem, seed)
        return meta_gradient(rule, problem, seed, iterate, 4, second_derivatives=True).gradients

    for actual, wanted in zip(gradients_of(SideBySide(rule, 16)), gradients_of(rule), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-10, atol=1e-13)


def test_only_unrolls_whose_tape_would_be_large_are_replayed():
    rule, narrow = CoordinatewiseLSTM(), CoordinatewiseLSTM((2,))
    assert bound_memory(rule, 50_000, 20) is rule
    assert bound_memory(rule, 1_000_000, 20).chunk_size == 16384
    assert bound_memory(narrow, 2_000_000, 20).chunk_size == 16384
    assert bound_memory(narrow, 1_000_000, 20) is narrow


def test_the_size_of_chunks_can_be_set_to_any_and_to_none():
    rule = CoordinatewiseLSTM()
    assert bound_memory(rule, 100, 20, chunk_size=7).chunk_size == 7
    assert bound_memory(rule, 10**9, 20, chunk_size=0) is rule


def test_a_rule_that_is_not_coordinatewise_keeps_its_tape():
    rule = LinearRule()
    rule.is_coordinatewise = False
    assert bound_memory(rule, 10**9, 20) is rule


def test_where_operations_run_on_one_thread_parts_go_side_by_side(one_thread_per_operation):
    rule = CoordinatewiseLSTM()
    assert bound_memory(rule, PART_SIZE, 20) is rule
    kept, replayed = bound_memory(rule, 50_000, 20), bound_memory(rule, 1_000_000, 20)
    assert isinstance(kept, SideBySide)
    assert isinstance(replayed, InChunks)
    assert isinstance(replayed.rule, SideBySide)
    # Chunks no larger than a part.
    assert bound_memory(rule, 1_000_000, 20, chunk_size=100).rule is rule
