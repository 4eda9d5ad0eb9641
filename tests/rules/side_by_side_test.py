"""A rule side by side, against the rule on all coordinates at once."""

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.rules import SGD, Adam, CoordinatewiseLSTM, Rule
from l2l_tf.rules.chunks import CHUNK_SIZE, InChunks
from l2l_tf.rules.side_by_side import PART_SIZE, SideBySide, arrange, side_by_side_if_faster

NUM_COORDINATES = 23


def _lstm() -> CoordinatewiseLSTM:
    return CoordinatewiseLSTM((4, 3), output_stddev=0.3, seed=0, dtype="float64")


def _deltas(rule: Rule, gradients: tf.Tensor) -> list[tf.Tensor]:
    state, deltas = rule.initial_state(gradients.shape[1]), []
    for gradient in tf.unstack(gradients):
        delta, state = rule(gradient, state)
        deltas.append(delta)
    return deltas


@pytest.mark.parametrize("part_size", [1, 8, 22, NUM_COORDINATES, 100])
@pytest.mark.parametrize("compiled", [False, True])
def test_deltas_are_those_of_the_rule(part_size, compiled):
    gradients = tf.constant(np.random.default_rng(0).standard_normal((4, NUM_COORDINATES)))
    run = tf.function(_deltas) if compiled else _deltas
    for actual, wanted in zip(
        run(SideBySide(_lstm(), part_size), gradients), _deltas(_lstm(), gradients), strict=True
    ):
        np.testing.assert_allclose(actual, wanted, rtol=1e-12)


def test_deltas_are_those_of_the_rule_within_chunks():
    gradients = tf.constant(np.random.default_rng(0).standard_normal((4, NUM_COORDINATES)))
    rule = InChunks(SideBySide(_lstm(), 3), 8)
    for actual, wanted in zip(_deltas(rule, gradients), _deltas(_lstm(), gradients), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-12)


def test_a_state_with_scalars_is_kept_for_each_part():
    rule = Adam(0.1)
    gradients = tf.random.stateless_normal([4, NUM_COORDINATES], [0, 1])
    for actual, wanted in zip(
        _deltas(SideBySide(rule, 8), gradients), _deltas(rule, gradients), strict=True
    ):
        np.testing.assert_allclose(actual, wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ("num_coordinates", "sizes"), [(0, [0]), (1, [1]), (8, [8]), (9, [5, 4]), (23, [8, 8, 7])]
)
def test_parts_are_as_few_and_as_even_as_can_be(num_coordinates, sizes):
    assert SideBySide(_lstm(), 8).partition(num_coordinates) == sizes


def test_with_one_thread_for_an_operation_more_than_one_part_goes_side_by_side(
    one_thread_per_operation,
):
    rule = _lstm()
    assert side_by_side_if_faster(rule, PART_SIZE) is rule
    assert side_by_side_if_faster(rule, PART_SIZE + 1).rule is rule
    rule.is_coordinatewise = False
    assert side_by_side_if_faster(rule, 10**9) is rule


def test_parts_of_very_many_coordinates_are_larger_so_that_they_are_not_too_many(
    one_thread_per_operation,
):
    rule = _lstm()
    assert side_by_side_if_faster(rule, 2**20, CHUNK_SIZE).part_size == PART_SIZE
    assert side_by_side_if_faster(rule, 5 * 2**19, CHUNK_SIZE).part_size == 5 * 2**10
    # Never less than two parts of a chunk.
    assert side_by_side_if_faster(rule, 2**30, CHUNK_SIZE).part_size == CHUNK_SIZE // 2
    assert side_by_side_if_faster(rule, 2**23).part_size == 2**14


def test_with_more_threads_for_an_operation_a_rule_is_left_whole():
    rule = _lstm()
    assert side_by_side_if_faster(rule, 10**9) is rule


def test_many_coordinates_go_side_by_side_within_chunks(one_thread_per_operation):
    rule = _lstm()
    assert isinstance(arrange(rule, CHUNK_SIZE), SideBySide)
    arranged = arrange(rule, CHUNK_SIZE + 1)
    assert isinstance(arranged, InChunks)
    assert isinstance(arranged.rule, SideBySide)
    assert arranged.rule.rule is rule


def test_only_learned_coordinatewise_rules_are_cut_by_themselves(one_thread_per_operation):
    sgd, lstm = SGD(0.1), _lstm()
    assert arrange(sgd, 10**9) is sgd
    lstm.is_coordinatewise = False
    assert arrange(lstm, 10**9) is lstm


def test_without_that_setting_many_coordinates_go_in_chunks_alone():
    rule = _lstm()
    assert arrange(rule, CHUNK_SIZE) is rule
    assert arrange(rule, CHUNK_SIZE + 1).rule is rule


def test_a_rule_that_is_not_coordinatewise_is_refused():
    rule = SGD(0.1)
    rule.is_coordinatewise = False
    with pytest.raises(ValueError) as raised:
        SideBySide(rule)
    assert str(raised.value) == (
        "rule must be coordinatewise to be applied side by side. "
        f"Received: rule={rule!r}. Apply it to all coordinates at once."
    )


def test_an_empty_part_is_refused():
    with pytest.raises(ValueError) as raised:
        SideBySide(_lstm(), 0)
    assert str(raised.value) == (
        "part_size must be at least 1. Received: part_size=0. Give a number of coordinates."
    )
