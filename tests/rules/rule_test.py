import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.rules.coordinatewise_lstm import CoordinatewiseLSTM
from l2l_tf.rules.hand_designed import BASELINES
from l2l_tf.rules.rule import FlatLayout, Rule

SHAPES = [(), (3,), (2, 3), (0,), (2, 1, 4), (3, 0, 2), (2, 2, 1, 3), (1,)]


def _tensors() -> list[tf.Tensor]:
    draw = np.random.default_rng(0)
    return [tf.constant(draw.normal(size=shape), tf.float32) for shape in SHAPES]


def test_tensors_of_any_rank_come_back_from_the_flat_vector():
    layout = FlatLayout(SHAPES)
    tensors = _tensors()
    vector = layout.flatten(tensors)
    assert vector.shape == (layout.num_coordinates,)
    for tensor, back in zip(tensors, layout.unflatten(vector), strict=True):
        assert back.shape == tensor.shape
        np.testing.assert_array_equal(back, tensor)


def test_a_vector_comes_back_from_its_tensors():
    layout = FlatLayout(SHAPES)
    vector = tf.range(layout.num_coordinates, dtype=tf.float32)
    np.testing.assert_array_equal(layout.flatten(layout.unflatten(vector)), vector)


def test_the_flat_vector_holds_the_tensors_in_order_and_row_by_row():
    tensors = _tensors()
    expected = np.concatenate([tensor.numpy().ravel(order="C") for tensor in tensors])
    np.testing.assert_array_equal(FlatLayout(SHAPES).flatten(tensors), expected)


def test_a_layout_counts_the_coordinates_of_each_tensor():
    layout = FlatLayout([list(shape) for shape in SHAPES])
    assert layout.shapes == SHAPES
    assert layout.sizes == [1, 3, 6, 0, 8, 0, 12, 1]
    assert layout.num_coordinates == 31


def test_a_layout_of_a_single_tensor_reshapes_it():
    layout = FlatLayout([(2, 3)])
    (matrix,) = layout.unflatten(tf.range(6.0))
    np.testing.assert_array_equal(matrix, [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize("jit_compile", [False, True])
def test_shapes_stay_static_when_compiled(jit_compile):
    layout = FlatLayout(SHAPES)
    seen = []

    @tf.function(jit_compile=jit_compile)
    def there_and_back(tensors):
        vector = layout.flatten(tensors)
        parts = layout.unflatten(vector)
        seen.append((vector.shape, [tuple(part.shape) for part in parts]))
        return parts

    tensors = _tensors()
    for tensor, back in zip(tensors, there_and_back(tensors), strict=True):
        np.testing.assert_array_equal(back, tensor)
    assert seen == [((31,), SHAPES)]


def test_derivatives_flow_through_the_flat_vector():
    layout = FlatLayout(SHAPES)
    tensors = _tensors()
    weights = tf.range(layout.num_coordinates, dtype=tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        total = tf.reduce_sum(weights * layout.flatten(tensors))
    gradients = tape.gradient(total, tensors)
    np.testing.assert_array_equal(layout.flatten(gradients), weights)


@pytest.mark.parametrize("name", BASELINES)
def test_a_hand_designed_rule_is_a_rule(name):
    rule = BASELINES[name](0.1)
    assert isinstance(rule, Rule)
    assert rule.is_coordinatewise


def test_the_coordinatewise_lstm_is_a_rule():
    rule = CoordinatewiseLSTM()
    assert isinstance(rule, Rule)
    assert rule.is_coordinatewise


def test_what_has_no_initial_state_is_no_rule():
    class Stateless:
        is_coordinatewise = True

        def __call__(self, gradient, state):
            return gradient, state

    assert not isinstance(Stateless(), Rule)
