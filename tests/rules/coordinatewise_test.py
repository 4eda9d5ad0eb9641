"""Coordinatewise rules bound to tensors: their updates, and the form in which they run."""

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.parameter_spec import ParameterSpec
from l2l_tf.rules import SGD, Adam, CoordinatewiseLSTM, StepInfo
from l2l_tf.rules.coordinatewise import OnCoordinates
from l2l_tf.rules.execution.chunks import CHUNK_SIZE, InChunks
from l2l_tf.rules.execution.side_by_side import PART_SIZE, SideBySide
from tests.rules.run_rule import on_vector, run_rule

VARIABLES = [ParameterSpec("kernel", (2, 3)), ParameterSpec("none", (0,)), ParameterSpec("x", ())]
# Of three batch entries.
NUM_COORDINATES = 3 * 7


def _lstm() -> CoordinatewiseLSTM:
    return CoordinatewiseLSTM((4, 3), output_stddev=0.3, seed=0, dtype="float64")


# What it does


def test_a_rule_is_bound_to_all_coordinates_of_all_batch_entries():
    rule = _lstm()
    bound = rule.bind(VARIABLES, [3])
    assert bound.layout.shapes == [(3, 2, 3), (3, 0), (3,)]
    assert bound.num_coordinates == NUM_COORDINATES
    tf.nest.map_structure(
        np.testing.assert_array_equal, bound.initial_state(), rule.initial_state(NUM_COORDINATES)
    )
    assert bound.trainable_variables == rule.trainable_variables
    assert not bound.is_replayed
    assert not bound.needs


def test_a_hand_designed_rule_has_no_weights():
    assert SGD(0.1).bind(VARIABLES).trainable_variables == []


def test_bound_it_answers_as_it_does_by_itself_whatever_is_known_of_the_step():
    rule, bound = _lstm(), _lstm().bind(VARIABLES, [3])
    gradients = tf.constant(np.random.default_rng(0).standard_normal((3, NUM_COORDINATES)))
    state = own_state = rule.initial_state(NUM_COORDINATES)
    info = StepInfo(tf.constant(7), tf.ones([3]), gradients[0])
    for gradient in gradients:
        delta, state = bound(gradient, state, info)
        expected, own_state = rule(gradient, own_state)
        np.testing.assert_array_equal(delta, expected)
    tf.nest.map_structure(np.testing.assert_array_equal, state, own_state)


def test_tensor_by_tensor_it_answers_the_same():
    bound = Adam(0.1).bind(VARIABLES, [3])
    gradient = tf.random.stateless_normal([NUM_COORDINATES], [0, 1])
    delta, _ = bound(gradient, bound.initial_state())
    info = StepInfo(parameters=bound.layout.unflatten(gradient))
    deltas, _ = bound.update(bound.layout.unflatten(gradient), bound.initial_state(), info)
    assert [tuple(one.shape) for one in deltas] == [(3, 2, 3), (3, 0), (3,)]
    np.testing.assert_array_equal(bound.layout.flatten(deltas), delta)


# For steps alone


def test_many_coordinates_go_side_by_side_within_chunks(one_thread_per_operation):
    rule = _lstm()
    assert isinstance(on_vector(rule, CHUNK_SIZE).for_steps(), SideBySide)
    cut = on_vector(rule, CHUNK_SIZE + 1).for_steps()
    assert isinstance(cut, InChunks)
    assert cut.chunk_size == CHUNK_SIZE
    assert isinstance(cut.chunk, SideBySide)
    assert cut.chunk.parts[0].rule is rule


def test_without_that_setting_many_coordinates_go_in_chunks_alone():
    rule = _lstm()
    assert isinstance(on_vector(rule, CHUNK_SIZE).for_steps(), OnCoordinates)
    cut = on_vector(rule, CHUNK_SIZE + 1).for_steps()
    assert isinstance(cut, InChunks)
    assert isinstance(cut.chunk, OnCoordinates)
    assert cut.chunk.rule is rule


def test_only_learned_rules_are_cut_by_themselves(one_thread_per_operation):
    bound = on_vector(SGD(0.1), 10**9)
    assert bound.for_steps() is bound


def test_in_whatever_form_a_rule_runs_it_is_bound_to_the_same_tensors(one_thread_per_operation):
    variables = [ParameterSpec("a", (CHUNK_SIZE,)), ParameterSpec("b", (2, 1))]
    for bound in (_lstm().bind(variables), _lstm().bind(variables, [2])):
        forms = [bound.for_steps(), bound.for_training(1, 0), bound.for_training(1, 100)]
        assert len({type(form) for form in forms}) == 2
        for form in forms:
            assert form.layout.shapes == bound.layout.shapes


def test_the_fastest_form_gives_the_same_deltas(one_thread_per_operation):
    rule = CoordinatewiseLSTM((2,), output_stddev=0.3, seed=0, dtype="float64")
    gradients = np.random.default_rng(0).standard_normal((2, CHUNK_SIZE + 5))
    bound = on_vector(rule, CHUNK_SIZE + 5)
    np.testing.assert_allclose(
        run_rule(bound.for_steps(), gradients), run_rule(bound, gradients), rtol=1e-12
    )


# For training


def test_a_tape_keeps_24_bytes_for_each_number_of_the_state_coordinate_and_step():
    # The docstring's example: 2 x 20 units keep 80 numbers.
    assert on_vector(CoordinatewiseLSTM((20, 20)), 20_000).tape_bytes(20) == 24 * 80 * 20 * 20_000
    # Float64, and a rule whose state is empty.
    assert on_vector(_lstm(), 10).tape_bytes(3) == 48 * 14 * 3 * 10
    assert on_vector(Adam(0.1), 1).tape_bytes(1) == 24 * 3


def test_only_unrolls_whose_tape_would_be_large_are_replayed():
    rule, narrow = CoordinatewiseLSTM(), CoordinatewiseLSTM((2,))
    for one, num_coordinates in ((rule, 50_000), (narrow, 1_000_000)):
        kept = on_vector(one, num_coordinates).for_training(20)
        assert isinstance(kept, OnCoordinates)
        assert not kept.is_replayed
    for one, num_coordinates in ((rule, 1_000_000), (narrow, 2_000_000)):
        replayed = on_vector(one, num_coordinates).for_training(20)
        assert replayed.chunk_size == CHUNK_SIZE
        assert replayed.is_replayed


def test_the_size_of_chunks_can_be_set_to_any_and_to_none():
    rule = CoordinatewiseLSTM()
    assert on_vector(rule, 100).for_training(20, chunk_size=7).chunk_size == 7
    assert isinstance(on_vector(rule, 10**9).for_training(20, chunk_size=0), OnCoordinates)


def test_where_operations_run_on_one_thread_parts_go_side_by_side(one_thread_per_operation):
    rule = CoordinatewiseLSTM()
    assert isinstance(on_vector(rule, PART_SIZE).for_training(20), OnCoordinates)
    assert isinstance(on_vector(rule, 50_000).for_training(20), SideBySide)
    replayed = on_vector(rule, 1_000_000).for_training(20)
    assert isinstance(replayed, InChunks)
    assert isinstance(replayed.chunk, SideBySide)
    # Chunks no larger than a part.
    small = on_vector(rule, 1_000_000).for_training(20, chunk_size=100)
    assert isinstance(small.chunk, OnCoordinates)


@pytest.mark.parametrize("num_coordinates", [0, 5])
def test_whole_its_state_is_in_the_form_of_checkpoints_already(num_coordinates):
    bound = on_vector(_lstm(), num_coordinates)
    state = bound.initial_state()
    assert bound.whole_state(state) is state
    assert bound.cut_state(state) is state
