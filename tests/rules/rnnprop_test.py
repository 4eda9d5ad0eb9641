import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.delivery.export import export_rule, load_saved_rule
from l2l_tf.evaluation.unroll import start, unroll
from l2l_tf.problems import Quadratic, StackedProblem, task_seeds
from l2l_tf.rules import CoordinatewiseLSTM, CoordinatewiseRule, FlatLayout, RNNprop, Rule
from l2l_tf.rules.execution.trajectory import answer
from l2l_tf.rules.rnnprop import next_root_mean_square
from l2l_tf.training.meta_gradient import meta_gradient
from tests.reference import rnnprop as reference
from tests.reference import truncated_backpropagation
from tests.rules.execution.arrangements import in_chunks
from tests.rules.run_rule import run_rule
from tests.training.toys import NoisyBowls

NUM_STEPS, NUM_COORDINATES = 6, 5
# One float32 step is some hundred products of numbers of order 1; errors are relative to those.
FLOAT32_TOLERANCE = 2e-6
SEED = task_seeds(0, "train", 3, 1)[0]


def _rule(**arguments) -> RNNprop:
    """Returns a small rule that moves, unless the arguments say otherwise."""
    defaults = {"units": (4, 3), "input_units": 5, "output_stddev": 1.0, "seed": 0}
    return RNNprop(**defaults | arguments)


def _moved(rule: RNNprop) -> RNNprop:
    """Returns the rule with every weight, biases too, away from its initial value."""
    draw = np.random.default_rng(1)
    rule.set_weights([weight + draw.normal(size=weight.shape) for weight in rule.get_weights()])
    return rule


def _gradients(dtype: str = "float32") -> np.ndarray:
    """Returns `[T, N]`: normal, of sizes on both sides of epsilon, with one coordinate zero."""
    sizes = np.array([0, 1e-9, 1e-7, 1, 100])
    normal = np.random.default_rng(0).normal(size=[NUM_STEPS, NUM_COORDINATES])
    return (sizes * normal).astype(dtype)


@pytest.fixture
def plain_errors():
    """Has Keras pass on the errors of a layer's call as they were raised."""
    keras.config.disable_traceback_filtering()
    yield
    keras.config.enable_traceback_filtering()


# Agreement


@pytest.mark.parametrize(
    "arguments",
    [{}, {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-3}, {"units": (3,), "output_scale": 2.0}],
    ids=["defaults", "constants", "one_layer"],
)
@pytest.mark.parametrize(
    # The rounding of a square root that is carried from step to step adds to that of one step.
    ("dtype", "tolerance"),
    [("float64", 1e-12), ("float32", 10 * FLOAT32_TOLERANCE)],
)
def test_deltas_are_those_of_the_papers_formulas(arguments, dtype, tolerance):
    rule = _moved(_rule(**arguments, dtype=dtype))
    gradients = _gradients(dtype)
    expected = reference.deltas(rule, gradients)
    deltas = run_rule(rule, gradients)
    assert deltas.dtype == dtype
    np.testing.assert_allclose(deltas, expected, atol=tolerance)
    # Coordinates differ by far more than the tolerance: what a rule sees of its gradient matters.
    assert np.ptp(expected, axis=1).max() > 100 * tolerance


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_compiled_loop_gives_the_deltas_of_eager_steps(jit_compile):
    rule = _rule()

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


# One coordinate at a time; chunks that don't divide five coordinates; one chunk of all.
@pytest.mark.parametrize("chunk_size", [1, 2, NUM_COORDINATES])
def test_deltas_in_chunks_are_those_of_the_rule(chunk_size):
    rule, gradients = _rule(dtype="float64"), _gradients("float64")
    cut = in_chunks(rule, FlatLayout([[NUM_COORDINATES]]), chunk_size)
    np.testing.assert_allclose(run_rule(cut, gradients), run_rule(rule, gradients), atol=1e-14)


def test_an_exported_rule_moves_as_the_rule_and_so_does_its_saved_model(tmp_path):
    rule, gradients = _moved(_rule()), _gradients()
    path = export_rule(rule, tmp_path / "rule", {"name": "mine"})
    expected = run_rule(rule, gradients)
    reloaded = load_saved_rule(path)
    assert type(reloaded) is RNNprop
    assert reloaded.get_config() == rule.get_config()
    np.testing.assert_array_equal(run_rule(reloaded, gradients), expected)
    saved_model = tf.saved_model.load(str(path))
    state = saved_model.initial_state(NUM_COORDINATES)
    named = saved_model.signatures["initial_state"](num_coordinates=tf.constant(NUM_COORDINATES))
    for gradient, wanted in zip(tf.constant(gradients), expected, strict=True):
        delta, state = saved_model.update(gradient, state)
        np.testing.assert_allclose(delta, wanted, atol=FLOAT32_TOLERANCE)
        named = saved_model.signatures["update"](gradient=gradient, **named)
        np.testing.assert_allclose(named.pop("delta"), wanted, atol=FLOAT32_TOLERANCE)


# Properties


def test_the_papers_rule_has_6641_weights_and_keeps_82_numbers_of_each_coordinate_and_a_count():
    rule = RNNprop()
    # 2 x 20 + 20 before two LSTM layers of 4 x 20 x (20 + 20 + 1), and 20 + 1 after them.
    assert rule.count_params() == 60 + 3280 + 3280 + 21
    assert sum(weight.numpy().size for weight in rule.trainable_weights) == 6641
    state = tf.nest.flatten(rule.initial_state(7))
    assert [tuple(part.shape) for part in state] == [(), (7,), (7,), *[(7, 20)] * 4]
    assert not any(part.numpy().any() for part in state)


def test_the_next_state_has_the_shapes_and_dtypes_of_the_state():
    rule = _rule()
    state = rule.initial_state(3)
    _, next_state = rule(tf.ones([3]), state)
    tf.nest.assert_same_structure(state, next_state)
    for one, other in zip(tf.nest.flatten(state), tf.nest.flatten(next_state), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        assert other.numpy().all()


def test_a_new_rule_moves_nothing():
    assert not run_rule(RNNprop(seed=0), _gradients()).any()


def test_no_delta_is_larger_than_the_output_scale():
    rule = _moved(_rule(output_stddev=100.0, output_scale=0.3))
    deltas = np.abs(run_rule(rule, _gradients()))
    assert deltas.max() <= np.float32(0.3)
    assert deltas.max() > 0.29


def test_deltas_do_not_depend_on_the_scale_of_the_gradients():
    rule = _rule(epsilon=1e-30)
    gradients = _gradients()
    expected = run_rule(rule, gradients)
    # Powers of two round nothing; the largest gradients come to 1e34, the smallest to 1e-23.
    for scale in (2.0**105, 2.0**-46):
        np.testing.assert_allclose(
            run_rule(rule, (scale * gradients).astype(np.float32)), expected, atol=FLOAT32_TOLERANCE
        )


@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-39, 1e-30, 1e-8, 1e30, 3e38])
def test_deltas_stay_finite_for_gradients_of_any_size(size):
    rule = _rule()
    signs = np.sign(np.random.default_rng(0).normal(size=[50, 2]))
    with np.errstate(under="ignore"):
        gradients = (size * signs).astype(np.float32)
    state = rule.initial_state(2)
    for gradient in tf.constant(gradients):
        delta, state = rule(gradient, state)
        assert np.isfinite(delta).all()
    assert all(np.isfinite(part).all() for part in tf.nest.flatten(state))


def test_a_coordinate_recovers_from_one_huge_gradient():
    rule = _rule(beta_1=0.5, beta_2=0.5)
    usual = np.ones([300, 1], np.float32)
    gradients = usual.copy()
    gradients[2] = 1e30
    run = tf.function(
        lambda gradients: answer(rule, rule.initial_state(1), gradients), autograph=False
    )
    deltas, wanted = run(gradients), run(usual)
    assert np.isfinite(deltas).all()
    assert abs(deltas[10] - wanted[10]) > 1e-3
    # Of the root mean square, 1e30 * 2^(-297 / 2) is left: 1e-15.
    np.testing.assert_allclose(deltas[-1], wanted[-1], atol=10 * FLOAT32_TOLERANCE)


def test_permuting_coordinates_permutes_the_deltas():
    rule, gradients = _rule(dtype="float64"), _gradients("float64")
    order = np.random.default_rng(2).permutation(NUM_COORDINATES)
    np.testing.assert_allclose(
        run_rule(rule, gradients[:, order]), run_rule(rule, gradients)[:, order], atol=1e-14
    )


def test_tasks_side_by_side_move_as_each_does_alone():
    rule = _rule(dtype="float64")
    problem = Quadratic("gaussian", 2, 3, dtype="float64")
    seeds = task_seeds(0, "train", 0, 3)
    stacked = StackedProblem(problem, 3)
    together, _ = unroll(rule, stacked, seeds, start(rule, stacked, seeds), NUM_STEPS)
    alone = [
        unroll(rule, problem, seed, start(rule, problem, seed), NUM_STEPS)[0].losses
        for seed in seeds
    ]
    np.testing.assert_allclose(together.losses, np.concatenate(alone, axis=1), rtol=1e-12)


def test_a_group_without_coordinates_has_no_deltas():
    rule = _rule()
    delta, _ = rule(tf.zeros([0]), rule.initial_state(0))
    assert delta.shape == (0,)


# The root mean square


def test_the_root_mean_square_is_the_root_of_the_mean_square():
    root = np.array([0.0, 3.0, 0.0, 2.0, 1e200])
    gradient = np.array([0.0, 0.0, -5.0, 7.0, -1e200])
    expected = [0, 3 * 0.8**0.5, 5 * 0.2**0.5, (0.8 * 4 + 0.2 * 49) ** 0.5, 1e200]
    result = next_root_mean_square(tf.constant(root), tf.constant(gradient), 0.8)
    np.testing.assert_allclose(result, expected, rtol=1e-14)


def test_the_root_mean_square_has_the_derivatives_of_its_formula_and_none_at_zero():
    root, gradient = tf.constant([0.0, 3.0, 2.0, 5.0]), tf.constant([0.0, -5.0, 7.0, 1.0])
    with tf.GradientTape() as tape:
        tape.watch([root, gradient])
        result = next_root_mean_square(root, gradient, 0.8)
    derivatives = tape.gradient(result, [root, gradient])
    values = result[1:]
    np.testing.assert_array_equal([part[0] for part in derivatives], [0, 0])
    np.testing.assert_allclose(derivatives[0][1:], 0.8 * root[1:] / values, rtol=1e-6)
    np.testing.assert_allclose(derivatives[1][1:], 0.2 * gradient[1:] / values, rtol=1e-6)


# Derivatives


@pytest.mark.parametrize("second_derivatives", [False, True])
def test_the_meta_gradient_is_that_of_an_unroll_written_out(second_derivatives):
    rule, problem = _moved(_rule(dtype="float64")), NoisyBowls(dtype="float64")
    # In the middle of a trajectory, with steps that do not count alike.
    _, iterate = unroll(rule, problem, SEED, start(rule, problem, SEED), 3)
    step_weights = tf.constant([1.0, 0.5, 2.0, 3.0], tf.float64)
    arguments = (problem, SEED, iterate, 4, step_weights, second_derivatives)
    result = meta_gradient(rule, *arguments)
    meta_loss, expected = truncated_backpropagation.meta_gradient(rule, *arguments)
    np.testing.assert_allclose(result.meta_loss, meta_loss, rtol=1e-12)
    for ours, theirs in zip(result.gradients, expected, strict=True):
        assert np.abs(theirs).max() > 0
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_the_meta_gradient_with_second_derivatives_is_that_of_finite_differences():
    rule = _moved(_rule(units=(2,), input_units=2, dtype="float64"))
    problem = Quadratic("gaussian", 2, 2, initial_stddev=1.0, dtype="float64")
    iterate = start(rule, problem, SEED)
    result = meta_gradient(rule, problem, SEED, iterate, 4, second_derivatives=True)

    @tf.function(autograph=False)
    def meta_loss() -> tf.Tensor:
        steps, _ = unroll(rule, problem, SEED, iterate, 4)
        return tf.reduce_mean(tf.reduce_sum(steps.losses, axis=0))

    for weight, gradient in zip(rule.trainable_variables, result.gradients, strict=True):
        value, slopes = weight.numpy(), np.zeros(weight.shape)
        for index in np.ndindex(*weight.shape):
            sides = []
            for sign in (1, -1):
                shifted = value.copy()
                shifted[index] += sign * 1e-5
                weight.assign(shifted)
                sides.append(float(meta_loss()))
            weight.assign(value)
            slopes[index] = (sides[0] - sides[1]) / 2e-5
        # Differences are off by their step's square, times third derivatives of order 1 to 100.
        np.testing.assert_allclose(gradient, slopes, atol=1e-7 * max(1, np.abs(slopes).max()))


def test_weights_have_finite_derivatives_at_gradients_of_zero():
    rule = _rule()
    gradient = tf.zeros([2])
    with tf.GradientTape() as tape:
        tape.watch(gradient)
        delta, state = rule(gradient, rule.initial_state(2))
        delta, _ = rule(gradient, state)
    for derivative in tape.gradient(delta, [gradient, *rule.trainable_weights]):
        assert np.isfinite(derivative).all()


# Initial weights


def test_a_seed_gives_the_same_weights_and_another_seed_others():
    same, again, other = (_rule(seed=seed).get_weights() for seed in (3, 3, 4))
    for one, two in zip(same, again, strict=True):
        np.testing.assert_array_equal(one, two)
    names = [weight.name for weight in _rule().weights]
    differ = [not np.array_equal(one, two) for one, two in zip(same, other, strict=True)]
    # Kernels are drawn, biases are not.
    assert differ == ["kernel" in name for name in names]


def test_a_new_cell_remembers():
    biases = {w.name: w.numpy().tolist() for w in _rule().weights if "bias" in w.name}
    assert biases == {
        "bias_0": [0] * 4 + [1] * 4 + [0] * 8,
        "bias_1": [0] * 3 + [1] * 3 + [0] * 6,
        "input_bias": [0] * 5,
        "output_bias": [0],
    }


# Hygiene


def test_the_rule_is_a_coordinatewise_rule_in_float32_whatever_the_global_policy():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        rule = _rule()
    finally:
        keras.config.set_dtype_policy(policy)
    assert isinstance(rule, Rule)
    assert isinstance(rule, CoordinatewiseRule)
    assert {str(weight.dtype) for weight in rule.weights} == {"float32"}
    np.testing.assert_array_equal(run_rule(rule, _gradients()), run_rule(_rule(), _gradients()))


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


CONFIG = {
    "name": "mine",
    "trainable": False,
    "units": [4, 3],
    "input_units": 6,
    "beta_1": 0.9,
    "beta_2": 0.99,
    "epsilon": 1e-6,
    "output_scale": 0.2,
    "output_stddev": 0.5,
    "seed": 8,
}


def test_the_config_is_plain_and_holds_every_argument():
    config = RNNprop(**CONFIG, dtype="float64").get_config()
    assert json.loads(json.dumps(config)) == config
    assert keras.dtype_policies.deserialize(config.pop("dtype")).name == "float64"
    assert config == CONFIG


@pytest.mark.parametrize("how", ["from_config", "keras.saving", "keras.layers"])
def test_a_rule_is_rebuilt_from_its_config(how):
    rule = RNNprop(**CONFIG, dtype="float64")
    rebuilt = {
        "from_config": lambda: RNNprop.from_config(rule.get_config()),
        "keras.saving": lambda: keras.saving.deserialize_keras_object(
            keras.saving.serialize_keras_object(rule)
        ),
        "keras.layers": lambda: keras.layers.deserialize(keras.layers.serialize(rule)),
    }[how]()
    assert type(rebuilt) is RNNprop
    assert rebuilt.get_config() == rule.get_config()
    np.testing.assert_array_equal(
        run_rule(rebuilt, _gradients("float64")), run_rule(rule, _gradients("float64"))
    )


def test_a_trained_rule_comes_back_from_a_checkpoint(tmp_path):
    rule, other = _moved(_rule()), _rule(seed=9)
    path = tf.train.Checkpoint(rule=rule).write(str(tmp_path / "rule"))
    tf.train.Checkpoint(rule=other).read(path).assert_consumed()
    np.testing.assert_array_equal(run_rule(other, _gradients()), run_rule(rule, _gradients()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"beta_1": 0.0},
            "beta_1 and beta_2 must be between 0 and 1. Received: beta_1=0.0, beta_2=0.95. "
            "The paper has 0.95 for both.",
        ),
        (
            {"beta_2": 1.0},
            "beta_1 and beta_2 must be between 0 and 1. Received: beta_1=0.95, beta_2=1.0. "
            "The paper has 0.95 for both.",
        ),
        (
            {"units": ()},
            "units must hold a positive number of units for each LSTM layer. Received: units=(). "
            "Give, say, (20, 20).",
        ),
    ],
)
def test_decays_and_units_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError) as raised:
        RNNprop(**arguments)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("argument", "value"), [("input_units", 0), ("epsilon", 0.0), ("seed", -1)]
)
def test_an_argument_out_of_range_is_refused(argument, value):
    with pytest.raises(ValueError, match=f"^{argument} must"):
        RNNprop(**{argument: value})


def test_units_that_are_no_sequence_of_integers_are_refused():
    with pytest.raises(TypeError) as raised:
        RNNprop(20)
    assert str(raised.value) == (
        "units must be a sequence of integers, one for each LSTM layer. Received: units=20. "
        "Give, say, (20, 20)."
    )


def test_a_gradient_of_another_dtype_or_rank_is_refused(plain_errors):
    rule = _rule()
    with pytest.raises(TypeError) as raised:
        rule(tf.zeros([3], tf.float64), rule.initial_state(3))
    assert str(raised.value) == (
        "gradient must be of dtype float32. Received: gradient.dtype=float64. "
        "Cast it, or build the rule with that dtype."
    )
    with pytest.raises(ValueError) as raised:
        rule(tf.zeros([3, 1]), rule.initial_state(3))
    assert str(raised.value) == (
        "gradient must be a vector over the coordinates. Received: gradient.shape=(3, 1). "
        "Flatten the variables (l2l_tf.rules.FlatLayout)."
    )


@pytest.mark.parametrize(
    "state",
    [
        _rule().initial_state(2),
        _rule(units=(4,)).initial_state(3),
        _rule(units=(4, 3, 3)).initial_state(3),
        CoordinatewiseLSTM((4, 3)).initial_state(3),
    ],
    ids=["coordinates", "too_few_layers", "too_many_layers", "another_rule"],
)
def test_a_state_of_another_gradient_or_rule_is_refused(plain_errors, state):
    with pytest.raises(ValueError) as raised:
        _rule()(tf.zeros([3]), state)
    assert str(raised.value) == (
        "state must hold tensors of the shapes "
        "[(), (3,), (3,), [[(3, 4), (3, 4)], [(3, 3), (3, 3)]]]. Received: state with shapes "
        f"{[part.shape for part in tf.nest.flatten(state)]}. "
        "Begin with rule.initial_state(N) for a gradient of N coordinates."
    )
