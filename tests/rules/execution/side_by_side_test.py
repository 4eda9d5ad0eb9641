"""A rule in parts side by side, against the rule on all coordinates at once."""

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.rules import Adam, CoordinatewiseLSTM, FlatLayout
from l2l_tf.rules.execution.chunks import CHUNK_SIZE
from l2l_tf.rules.execution.side_by_side import PART_SIZE, SideBySide, part_size_if_faster
from tests.rules.execution.arrangements import in_chunks, side_by_side, side_by_side_in_chunks
from tests.rules.execution.toys import ManyForms
from tests.rules.run_rule import run_rule

NUM_COORDINATES = 23
LAYOUT = FlatLayout([[NUM_COORDINATES]])


def _lstm() -> CoordinatewiseLSTM:
    return CoordinatewiseLSTM((4, 3), output_stddev=0.3, seed=0, dtype="float64")


def _gradients(num_steps: int = 4) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((num_steps, NUM_COORDINATES))


@pytest.mark.parametrize("part_size", [1, 8, 22, NUM_COORDINATES, 100])
@pytest.mark.parametrize("compiled", [False, True])
def test_deltas_are_those_of_the_rule(part_size, compiled):
    gradients, rule = _gradients(), side_by_side(_lstm(), LAYOUT, part_size)
    call = tf.function(rule, autograph=False) if compiled else rule
    state = rule.initial_state()
    for gradient, expected in zip(gradients, run_rule(_lstm(), gradients), strict=True):
        delta, state = call(tf.constant(gradient), state)
        np.testing.assert_allclose(delta, expected, rtol=1e-12)


def test_deltas_are_those_of_the_rule_within_chunks():
    rule, gradients = side_by_side_in_chunks(_lstm(), LAYOUT, 8, 3), _gradients()
    np.testing.assert_allclose(run_rule(rule, gradients), run_rule(_lstm(), gradients), rtol=1e-12)


def test_a_state_with_scalars_is_kept_for_each_part():
    rule, gradients = Adam(0.1), _gradients().astype(np.float32)
    np.testing.assert_allclose(
        run_rule(side_by_side(rule, LAYOUT, 8), gradients), run_rule(rule, gradients), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("num_coordinates", "sizes"), [(0, [0]), (1, [1]), (8, [8]), (9, [5, 4]), (23, [8, 8, 7])]
)
def test_parts_are_as_few_and_as_even_as_can_be(num_coordinates, sizes):
    rule = side_by_side(_lstm(), FlatLayout([[num_coordinates]]), 8)
    assert [part.num_coordinates for part in rule.parts] == sizes


def test_the_whole_state_of_parts_that_are_cut_up_themselves_is_whole():
    rule, gradients = ManyForms(), _gradients()

    def bind(size):
        return in_chunks(rule, FlatLayout([[size]]), 3)

    cut = SideBySide(bind, LAYOUT, 8)
    state, whole_state = cut.initial_state(), rule.initial_state(NUM_COORDINATES)
    for gradient in tf.unstack(tf.constant(gradients)):
        _, state = cut(gradient, state)
        _, whole_state = rule(gradient, whole_state)
        tf.nest.map_structure(np.testing.assert_array_equal, cut.whole_state(state), whole_state)
        # As after a restart.
        state = cut.cut_state(whole_state)
        tf.nest.assert_same_structure(state, cut.initial_state())


def test_an_empty_part_is_refused():
    with pytest.raises(ValueError, match=r"^part_size must"):
        side_by_side(_lstm(), LAYOUT, 0)


# Where it is faster


def test_with_one_thread_for_an_operation_more_than_one_part_goes_side_by_side(
    one_thread_per_operation,
):
    assert part_size_if_faster(PART_SIZE) is None
    assert part_size_if_faster(PART_SIZE + 1) == PART_SIZE


def test_parts_of_very_many_coordinates_are_larger_so_that_they_are_not_too_many(
    one_thread_per_operation,
):
    assert part_size_if_faster(2**20, CHUNK_SIZE) == PART_SIZE
    assert part_size_if_faster(5 * 2**19, CHUNK_SIZE) == 5 * 2**10
    # Never less than two parts of a chunk.
    assert part_size_if_faster(2**30, CHUNK_SIZE) == CHUNK_SIZE // 2
    assert part_size_if_faster(2**23) == 2**14


def test_with_more_threads_for_an_operation_nothing_goes_side_by_side():
    assert part_size_if_faster(10**9) is None


def test_on_a_gpu_nothing_goes_side_by_side(one_thread_per_operation, monkeypatch):
    monkeypatch.setattr("tensorflow.config.list_physical_devices", lambda kind: ["GPU:0"])
    assert part_size_if_faster(10**9) is None
