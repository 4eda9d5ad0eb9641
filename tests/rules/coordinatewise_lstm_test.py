import contextlib
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.rules.coordinatewise_lstm import CoordinatewiseLSTM
from l2l_tf.rules.preprocess import PREPROCESSORS
from tests.reference import lstm as reference
from tests.rules.run_rule import run_rule

NUM_STEPS, NUM_COORDINATES = 5, 6
# One float32 step is some hundred products of numbers of order 1; errors are relative to those.
FLOAT32_TOLERANCE = 2e-6


def _rule(**arguments) -> CoordinatewiseLSTM:
    """Returns a small rule that moves, unless the arguments say otherwise."""
    defaults = {"units": (4, 3), "output_stddev": 1.0, "seed": 0}
    return CoordinatewiseLSTM(**defaults | arguments)


def _moved(rule: CoordinatewiseLSTM) -> CoordinatewiseLSTM:
    """Returns the rule with every weight, biases too, away from its initial value."""
    draw = np.random.default_rng(1)
    rule.set_weights([weight + draw.normal(size=weight.shape) for weight in rule.get_weights()])
    return rule


def _gradients(dtype: str = "float32") -> np.ndarray:
    """Returns `[T, N]`: normal, of sizes on both sides of e^-10, with one coordinate zero."""
    sizes = np.array([0, 1e-7, 1e-5, 1e-2, 1, 10])
    normal = np.random.default_rng(0).normal(size=[NUM_STEPS, NUM_COORDINATES])
    return (sizes * normal).astype(dtype)


@contextlib.contextmanager
def _global_policy(name: str):
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(previous)


@pytest.fixture
def plain_errors():
    """Has Keras pass on the errors of a layer's call as they were raised."""
    keras.config.disable_traceback_filtering()
    yield
    keras.config.enable_traceback_filtering()


# Agreement


@pytest.mark.parametrize("preprocessing", PREPROCESSORS)
@pytest.mark.parametrize("units", [(3,), (4, 3), (2, 3, 2)])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float64", 1e-12), ("float32", 10 * FLOAT32_TOLERANCE)]
)
def test_deltas_are_those_of_an_lstm_run_on_each_coordinate_alone(
    preprocessing, units, dtype, tolerance
):
    rule = _moved(
        _rule(units=units, preprocessing=preprocessing, p=8.0, output_scale=2.0, dtype=dtype)
    )
    gradients = _gradients(dtype)
    p = {"none": None, "log_and_sign": 8.0}[preprocessing]
    expected = reference.deltas(reference.Weights.of(rule), gradients, p, output_scale=2.0)
    deltas = run_rule(rule, gradients)
    assert deltas.dtype == dtype
    np.testing.assert_allclose(deltas, expected, atol=tolerance)
    # Coordinates differ by far more than the tolerance: what a rule sees of its gradient matters.
    assert np.ptp(expected, axis=1).max() > 100 * tolerance


def test_deltas_and_states_are_those_of_keras_cells_and_a_dense_layer():
    rule = _moved(_rule(dtype="float64"))
    cells = [keras.layers.LSTMCell(units, dtype="float64") for units in rule.units]
    dense = keras.layers.Dense(1, dtype="float64")
    gradients = tf.constant(_gradients("float64"))
    states = [cell.get_initial_state(NUM_COORDINATES) for cell in cells]
    state = rule.initial_state(NUM_COORDINATES)
    weights = {weight.name: weight.numpy() for weight in rule.weights}
    for layer, cell in enumerate(cells):
        cell.build((NUM_COORDINATES, 1 if layer == 0 else rule.units[layer - 1]))
        cell.set_weights([weights[f"{n}_{layer}"] for n in ("kernel", "recurrent_kernel", "bias")])
    dense.build((NUM_COORDINATES, rule.units[-1]))
    dense.set_weights([weights["output_kernel"], weights["output_bias"]])
    for gradient in gradients:
        delta, state = rule(gradient, state)
        values = gradient[:, tf.newaxis]
        for layer, cell in enumerate(cells):
            values, states[layer] = cell(values, states[layer])
        np.testing.assert_allclose(delta, dense(values)[:, 0], atol=1e-12)
    for ours, keras_own in zip(tf.nest.flatten(state), tf.nest.flatten(states), strict=True):
        np.testing.assert_allclose(ours, keras_own, atol=1e-12)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("preprocessing", PREPROCESSORS)
def test_a_compiled_loop_gives_the_deltas_of_eager_steps(jit_compile, preprocessing):
    rule = _rule(units=(3,), preprocessing=preprocessing)

    @tf.function(autograph=False, jit_compile=jit_compile)
    def run(gradients):
        def body(step, deltas, state):
            delta, state = rule(gradients[step], state)
            return step + 1, tf.tensor_scatter_nd_update(deltas, [[step]], [delta]), state

        _, deltas, _ = tf.while_loop(
            lambda step, deltas, state: step < NUM_STEPS,
            body,
            (0, tf.zeros_like(gradients), rule.initial_state(NUM_COORDINATES)),
        )
        return deltas

    gradients = _gradients()
    np.testing.assert_allclose(
        run(tf.constant(gradients)), run_rule(rule, gradients), atol=FLOAT32_TOLERANCE
    )


# Properties


@pytest.mark.parametrize(("preprocessing", "count"), [("log_and_sign", 5141), ("none", 5061)])
def test_the_papers_rule_has_as_many_weights_as_the_papers(preprocessing, count):
    rule = CoordinatewiseLSTM(preprocessing=preprocessing)
    assert rule.units == (20, 20)
    assert rule.count_params() == count
    assert sum(weight.numpy().size for weight in rule.trainable_weights) == count


def test_the_papers_state_holds_80_floats_for_each_coordinate():
    state = CoordinatewiseLSTM().initial_state(7)
    assert [[tuple(part.shape) for part in layer] for layer in state] == [[(7, 20)] * 2] * 2
    assert sum(part.numpy().size for part in tf.nest.flatten(state)) == 7 * 80
    assert not any(part.numpy().any() for part in tf.nest.flatten(state))


def test_the_next_state_has_the_shapes_and_dtypes_of_the_state():
    rule = _rule()
    state = rule.initial_state(3)
    _, next_state = rule(tf.ones([3]), state)
    tf.nest.assert_same_structure(state, next_state)
    for one, other in zip(tf.nest.flatten(state), tf.nest.flatten(next_state), strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        assert other.numpy().all()


def test_a_new_rule_moves_nothing():
    rule = CoordinatewiseLSTM(seed=0)
    assert not run_rule(rule, _gradients()).any()


def test_with_zero_output_weights_the_output_bias_alone_moves_coordinates():
    rule = _moved(_rule(output_scale=0.5))
    *rest, output_kernel, _ = rule.get_weights()
    rule.set_weights([*rest, np.zeros_like(output_kernel), np.array([0.25])])
    np.testing.assert_array_equal(run_rule(rule, _gradients()), 0.125)


def test_the_output_scale_multiplies_the_deltas_and_leaves_the_state_alone():
    one, two = _rule(), _rule(output_scale=2.0)
    np.testing.assert_array_equal(2 * run_rule(one, _gradients()), run_rule(two, _gradients()))


def test_permuting_coordinates_permutes_the_deltas():
    rule = _rule(preprocessing="log_and_sign", dtype="float64")
    gradients = _gradients("float64")
    order = np.random.default_rng(2).permutation(NUM_COORDINATES)
    np.testing.assert_allclose(
        run_rule(rule, gradients[:, order]), run_rule(rule, gradients)[:, order], atol=1e-14
    )


def test_a_coordinates_delta_does_not_depend_on_the_others():
    rule = _rule(dtype="float64")
    gradients = _gradients("float64")
    np.testing.assert_allclose(
        run_rule(rule, gradients[:, 2:4]), run_rule(rule, gradients)[:, 2:4], atol=1e-14
    )


def test_what_a_rule_remembers_changes_its_next_delta():
    rule = _rule()
    fresh = rule.initial_state(1)
    _, later = rule(tf.ones([1]), fresh)
    assert abs(rule(tf.ones([1]), fresh)[0] - rule(tf.ones([1]), later)[0]) > 1e-3


def test_a_group_without_coordinates_has_no_deltas():
    rule = _rule(preprocessing="log_and_sign")
    delta, _ = rule(tf.zeros([0]), rule.initial_state(0))
    assert delta.shape == (0,)


def test_weights_have_finite_derivatives_at_a_gradient_of_zero():
    rule = _rule(preprocessing="log_and_sign")
    with tf.GradientTape() as tape:
        delta, _ = rule(tf.zeros([2]), rule.initial_state(2))
    for weight, gradient in zip(
        rule.weights, tape.gradient(delta, rule.trainable_weights), strict=True
    ):
        assert np.isfinite(gradient).all(), weight.name


# Initial weights


def test_a_seed_gives_the_same_weights_and_another_seed_others():
    same, again, other = (_rule(seed=seed).get_weights() for seed in (3, 3, 4))
    for one, two in zip(same, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert [not np.array_equal(one, two) for one, two in zip(same, other, strict=True)] == [
        *(True, True, False),
        *(True, True, False),
        *(True, False),
    ]  # Kernels are drawn, biases are not.


def test_without_a_seed_weights_come_from_kerass_global_seed():
    def weights():
        keras.utils.set_random_seed(5)
        return [_rule(seed=None).get_weights()[0] for _ in range(2)]

    (first, second), (first_again, _) = weights(), weights()
    np.testing.assert_array_equal(first, first_again)
    assert not np.array_equal(first, second)


def test_no_two_matrices_are_drawn_alike():
    weights = {weight.name: weight.numpy() for weight in CoordinatewiseLSTM(seed=0).weights}
    assert not np.isclose(weights["recurrent_kernel_0"], weights["recurrent_kernel_1"]).any()


def test_a_new_cell_remembers():
    biases = [w.numpy() for w in _rule().weights if w.name.startswith("bias")]
    assert [bias.tolist() for bias in biases] == [
        [0] * 4 + [1] * 4 + [0] * 8,
        [0] * 3 + [1] * 3 + [0] * 6,
    ]


def test_output_weights_are_drawn_with_the_standard_deviation_asked_for():
    rule = CoordinatewiseLSTM(units=(1, 1000), output_stddev=0.3, seed=0)
    (kernel,) = (weight.numpy() for weight in rule.weights if weight.name == "output_kernel")
    # The standard error of a deviation from 1,000 draws is 1 / sqrt(2,000) of it.
    np.testing.assert_allclose(kernel.std(), 0.3, rtol=5 * 2000**-0.5)


# Dtypes


def test_the_rule_is_float32_whatever_the_global_policy():
    expected = run_rule(_rule(), _gradients())
    with _global_policy("mixed_float16"):
        rule = _rule()
        deltas = run_rule(rule, _gradients())
        state = rule.initial_state(2)
    assert {str(weight.dtype) for weight in rule.weights} == {"float32"}
    assert {part.dtype for part in tf.nest.flatten(state)} == {tf.float32}
    assert deltas.dtype == np.float32
    np.testing.assert_array_equal(deltas, expected)


def test_the_rule_is_float32_inside_a_half_precision_layer():
    class Outer(keras.layers.Layer):
        def __init__(self):
            super().__init__(dtype="mixed_float16")
            self.rule = _rule()

        def call(self, gradient):
            gradient = tf.cast(gradient, tf.float32)
            return self.rule(gradient, self.rule.initial_state(NUM_COORDINATES))[0]

    gradient = _gradients()[0].astype(np.float16)
    delta = Outer()(gradient)
    assert delta.dtype == tf.float32
    np.testing.assert_array_equal(
        delta, run_rule(_rule(), gradient[np.newaxis].astype(np.float32))[0]
    )


# Hygiene


def test_there_is_one_trace_for_each_shape():
    rule = _rule()
    shapes = []

    @tf.function(autograph=False)
    def update(gradient, state):
        shapes.append(tuple(gradient.shape))
        return rule(gradient, state)

    for num_coordinates in (3, 5, 3):
        state = rule.initial_state(num_coordinates)
        for size in range(3):
            _, state = update(tf.fill([num_coordinates], float(size)), state)
    assert shapes == [(3,), (5,)]


def test_the_number_of_coordinates_may_be_left_open():
    rule = _rule()
    update = tf.function(lambda g: rule(g, rule.initial_state(tf.shape(g)[0]))[0], autograph=False)
    concrete = update.get_concrete_function(tf.TensorSpec([None], tf.float32))
    gradients = _gradients()
    np.testing.assert_allclose(
        concrete(tf.constant(gradients[0])), run_rule(rule, gradients)[0], atol=FLOAT32_TOLERANCE
    )


CONFIG = {
    "name": "mine",
    "trainable": False,
    "units": [4, 3],
    "preprocessing": "log_and_sign",
    "p": 7.0,
    "output_scale": 0.1,
    "output_stddev": 0.5,
    "seed": 8,
}


def test_the_config_is_plain_and_holds_every_argument():
    config = CoordinatewiseLSTM(**CONFIG, dtype="float64").get_config()
    assert json.loads(json.dumps(config)) == config
    assert keras.dtype_policies.deserialize(config.pop("dtype")).name == "float64"
    assert config == CONFIG


@pytest.mark.parametrize("how", ["from_config", "keras.saving", "keras.layers"])
def test_a_rule_is_rebuilt_from_its_config(how):
    rule = CoordinatewiseLSTM(**CONFIG, dtype="float64")
    rebuilt = {
        "from_config": lambda: CoordinatewiseLSTM.from_config(rule.get_config()),
        "keras.saving": lambda: keras.saving.deserialize_keras_object(
            keras.saving.serialize_keras_object(rule)
        ),
        "keras.layers": lambda: keras.layers.deserialize(keras.layers.serialize(rule)),
    }[how]()
    assert type(rebuilt) is CoordinatewiseLSTM
    assert rebuilt.get_config() == rule.get_config()
    np.testing.assert_array_equal(
        run_rule(rebuilt, _gradients("float64")), run_rule(rule, _gradients("float64"))
    )


def test_weights_are_exchanged_by_get_weights_and_set_weights():
    rule, other = _moved(_rule()), _rule(seed=9)
    other.set_weights(rule.get_weights())
    np.testing.assert_array_equal(run_rule(other, _gradients()), run_rule(rule, _gradients()))


def test_a_trained_rule_comes_back_from_a_checkpoint(tmp_path):
    rule, other = _moved(_rule()), _rule(seed=9)
    path = tf.train.Checkpoint(rule=rule).write(str(tmp_path / "rule"))
    tf.train.Checkpoint(rule=other).read(path).assert_consumed()
    np.testing.assert_array_equal(run_rule(other, _gradients()), run_rule(rule, _gradients()))


def test_a_frozen_rule_has_no_trainable_weights():
    rule = _rule(trainable=False)
    assert rule.trainable_weights == []
    assert len(rule.non_trainable_weights) == 8


def test_units_that_are_no_sequence_of_integers_are_refused():
    for units in (20, (2.5,), "20"):
        with pytest.raises(TypeError) as raised:
            CoordinatewiseLSTM(units)
        assert str(raised.value) == (
            "units must be a sequence of integers, one for each LSTM layer. "
            f"Received: units={units!r}. Give, say, (20, 20)."
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"units": ()},
            "units must hold a positive number of units for each LSTM layer. Received: units=(). "
            "Give, say, (20, 20).",
        ),
        (
            {"units": [20, 0]},
            "units must hold a positive number of units for each LSTM layer. "
            "Received: units=(20, 0). Give, say, (20, 20).",
        ),
        (
            {"p": 0.0},
            "p must be positive and at most 80, or e^p overflows float32. Received: p=0.0. "
            "The paper uses 10.",
        ),
        (
            {"p": 81.0},
            "p must be positive and at most 80, or e^p overflows float32. Received: p=81.0. "
            "The paper uses 10.",
        ),
        (
            {"dtype": "mixed_float16"},
            "dtype must be 'float32' or 'float64': a rule computes in full precision whatever the "
            "model does. Received: dtype='mixed_float16'. Leave it out for float32.",
        ),
    ],
)
def test_units_p_or_a_dtype_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError) as raised:
        CoordinatewiseLSTM(**arguments)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("preprocessing", "log"),
        ("seed", -1),
        ("output_scale", float("nan")),
        ("output_stddev", -0.1),
    ],
)
def test_an_argument_out_of_range_is_refused(argument, value):
    with pytest.raises(ValueError, match=f"^{argument} must"):
        CoordinatewiseLSTM(**{argument: value})


@pytest.mark.parametrize("dtype", ["float64", "float16", "int32"])
def test_a_gradient_of_another_dtype_is_refused_and_not_cast(plain_errors, dtype):
    rule = _rule()
    with pytest.raises(TypeError) as raised:
        rule(tf.zeros([3], dtype), rule.initial_state(3))
    assert str(raised.value) == (
        f"gradient must be of dtype float32. Received: gradient.dtype={dtype}. "
        "Cast it, or build the rule with that dtype."
    )


@pytest.mark.parametrize("shape", [(), (3, 1)])
def test_a_gradient_that_is_no_vector_is_refused(plain_errors, shape):
    rule = _rule()
    with pytest.raises(ValueError) as raised:
        rule(tf.zeros(shape), rule.initial_state(3))
    assert str(raised.value) == (
        f"gradient must be a vector over the coordinates. Received: gradient.shape={shape}. "
        "Flatten the variables (l2l_tf.rules.FlatLayout)."
    )


_LAYER_0 = "[TensorShape([2, 4]), TensorShape([2, 4])]"
_LAYER_1 = "[TensorShape([2, 3]), TensorShape([2, 3])]"


@pytest.mark.parametrize(
    ("num_coordinates", "change", "received"),
    [
        (3, lambda state: state, f"[{_LAYER_0}, {_LAYER_1}]"),
        (2, lambda state: state[:1], f"[{_LAYER_0}]"),
        (2, lambda state: (*state, state[1]), f"[{_LAYER_0}, {_LAYER_1}, {_LAYER_1}]"),
        (2, lambda state: state[::-1], f"[{_LAYER_1}, {_LAYER_0}]"),
        (
            2,
            lambda state: (state[0], state[1][:1]),
            f"[{_LAYER_0}, [TensorShape([2, 3])]]",
        ),
    ],
    ids=["coordinates", "too_few_layers", "too_many_layers", "order_of_layers", "no_pair"],
)
def test_a_state_of_another_gradient_or_rule_is_refused(
    plain_errors, num_coordinates, change, received
):
    rule = _rule()
    with pytest.raises(ValueError) as raised:
        rule(tf.zeros([num_coordinates]), change(rule.initial_state(2)))
    assert str(raised.value) == (
        f"state must hold a pair of each of the shapes [({num_coordinates}, 4), "
        f"({num_coordinates}, 3)]. Received: state with shapes {received}. "
        "Begin with rule.initial_state(N) for a gradient of N coordinates."
    )


def test_the_message_stands_whole_in_what_keras_shows():
    rule = _rule()
    with pytest.raises(ValueError) as raised:
        rule(tf.zeros([2, 1]), rule.initial_state(2))
    assert (
        "gradient must be a vector over the coordinates. Received: gradient.shape=(2, 1). "
        "Flatten the variables (l2l_tf.rules.FlatLayout)."
    ) in str(raised.value)
