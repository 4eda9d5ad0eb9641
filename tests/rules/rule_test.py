import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.parameter_spec import ParameterSpec
from l2l_tf.rules import (
    BASELINES,
    SGD,
    CoordinatewiseLSTM,
    CoordinatewiseRule,
    RNNprop,
    Route,
    RoutedRule,
)
from l2l_tf.rules.rule import FlatLayout, Rule
from l2l_tf.rules.tensors import BoundToTensors
from tests.training.toys import NormalizedGradient

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

    @tf.function(autograph=False, jit_compile=jit_compile)
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


# Rules


@pytest.mark.parametrize("name", BASELINES)
def test_a_hand_designed_rule_is_a_rule(name):
    rule = BASELINES[name](0.1)
    assert isinstance(rule, Rule)
    assert isinstance(rule, CoordinatewiseRule)


@pytest.mark.parametrize("kind", [CoordinatewiseLSTM, RNNprop])
def test_a_learned_rule_is_a_rule(kind):
    rule = kind()
    assert isinstance(rule, Rule)
    assert isinstance(rule, CoordinatewiseRule)


def test_what_can_not_be_bound_is_no_rule():
    class Unbound:
        def initial_state(self, num_coordinates):
            return ()

        def __call__(self, gradient, state):
            return gradient, state

    assert not isinstance(Unbound(), Rule)


# Bound rules

VARIABLES = [ParameterSpec("kernel", (2, 3)), ParameterSpec("bias", (3,))]
OTHERS = {
    "another_shape": ([ParameterSpec("kernel", (3, 2)), ParameterSpec("bias", (3,))], [4]),
    "another_order": (VARIABLES[::-1], [4]),
    "one_less": (VARIABLES[:1], [4]),
    "another_batch": (VARIABLES, [2, 2]),
    "no_batch": (VARIABLES, []),
}
BOUND = {
    "coordinatewise": lambda: SGD(0.1).bind(VARIABLES, [4]),
    "in_chunks": lambda: CoordinatewiseLSTM((2,)).bind(VARIABLES, [4]).for_training(1, 5),
    "tensors": lambda: NormalizedGradient().bind(VARIABLES, [4]),
    "parts": lambda: (
        RoutedRule(CoordinatewiseLSTM((2,)), [Route(CoordinatewiseLSTM((2,)), kind="vector")])
    ).bind(VARIABLES, [4]),
}


@pytest.mark.parametrize("kind", BOUND)
def test_a_bound_rule_is_bound_to_its_tensors_already(kind):
    bound = BOUND[kind]()
    assert isinstance(bound, Rule)
    # Names play no part any more.
    assert bound.bind([tf.TensorSpec([2, 3]), tf.TensorSpec([3])], (4,)) is bound


@pytest.mark.parametrize("kind", BOUND)
@pytest.mark.parametrize("case", OTHERS)
def test_a_bound_rule_is_bound_to_no_other_tensors(kind, case):
    variables, batch_shape = OTHERS[case]
    with pytest.raises(ValueError) as raised:
        BOUND[kind]().bind(variables, batch_shape)
    shapes = [(*batch_shape, *variable.shape) for variable in variables]
    assert str(raised.value) == (
        "A bound rule must be run on the tensors that it was bound to. Received: tensors of shapes "
        f"{shapes} for a rule bound to [(4, 2, 3), (4, 3)]. Bind the rule itself to them."
    )


def test_what_a_rule_needs_must_be_known():
    with pytest.raises(TypeError) as raised:

        class Misspelt(BoundToTensors):
            needs = frozenset({"step", "loss"})

    assert str(raised.value) == (
        "needs must name what a step tells: ['step', 'losses', 'parameters', 'num_steps']. "
        "Received: ['loss'] in Misspelt. Correct the names."
    )
