import keras
import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.rules.hand_designed import BASELINES, SGD, Adam, RMSprop
from tests.reference import optimizers as reference
from tests.rules.run_rule import run_rule

NUM_STEPS, NUM_COORDINATES = 30, 7

# Ours, and Keras's own. The epsilons of 0.1 tell where an epsilon is added: beside defaults of 1e-7
# it could stand anywhere.
PAIRS = {
    "sgd": (SGD(0.1), keras.optimizers.SGD(0.1)),
    "momentum": (SGD(0.1, 0.7), keras.optimizers.SGD(0.1, momentum=0.7)),
    "nag": (SGD(0.1, 0.7, True), keras.optimizers.SGD(0.1, momentum=0.7, nesterov=True)),
    "rmsprop": (RMSprop(0.1), keras.optimizers.RMSprop(0.1)),
    "rmsprop_epsilon": (RMSprop(0.1, 0.7, 0.1), keras.optimizers.RMSprop(0.1, 0.7, epsilon=0.1)),
    "adam": (Adam(0.1), keras.optimizers.Adam(0.1)),
    "adam_epsilon": (Adam(0.1, 0.7, 0.8, 0.1), keras.optimizers.Adam(0.1, 0.7, 0.8, 0.1)),
    "baseline_sgd": (BASELINES["sgd"](0.1), keras.optimizers.SGD(0.1)),
    "baseline_momentum": (BASELINES["momentum"](0.1), keras.optimizers.SGD(0.1, momentum=0.9)),
    "baseline_nag": (
        BASELINES["nag"](0.1),
        keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    ),
    "baseline_rmsprop": (BASELINES["rmsprop"](0.1), keras.optimizers.RMSprop(0.1)),
    "baseline_adam": (BASELINES["adam"](0.1), keras.optimizers.Adam(0.1)),
}


def _gradients() -> np.ndarray:
    """Returns `[T, N]`: normal, of sizes from 1e-4 to 100, with one coordinate always zero."""
    sizes = np.array([0, 1e-4, 1e-2, 0.1, 1, 10, 100])
    normal = np.random.default_rng(0).normal(size=[NUM_STEPS, NUM_COORDINATES])
    return (sizes * normal).astype(np.float32)


def test_every_baseline_is_held_to_keras():
    assert {f"baseline_{name}" for name in BASELINES} <= set(PAIRS)


@pytest.mark.parametrize("name", PAIRS)
def test_a_rule_moves_a_variable_as_keras_does(name):
    rule, optimizer = PAIRS[name]
    gradients = _gradients()
    variable = keras.Variable(np.ones(NUM_COORDINATES), dtype="float32")
    optimizer.build([variable])
    keras_deltas = []
    for gradient in tf.constant(gradients):
        # From zero each time, so that what Keras adds is read without the rounding of the sum.
        variable.assign(tf.zeros_like(variable))
        optimizer.apply([gradient], [variable])
        keras_deltas.append(variable.numpy())
    # Relative to the largest delta of each coordinate: some ten float32 operations, 30 times over.
    scale = np.abs(keras_deltas).max(axis=0)
    assert (scale[1:] > 0).all()
    assert scale[0] == 0
    errors = np.abs(run_rule(rule, gradients) - keras_deltas)
    assert (errors <= 1e-5 * scale).all()


TWINS = {
    "sgd": (SGD(0.1), lambda g: reference.sgd(g, 0.1)),
    "momentum": (SGD(0.1, 0.7), lambda g: reference.sgd(g, 0.1, 0.7)),
    "rmsprop": (RMSprop(0.1), lambda g: reference.rmsprop(g, 0.1, 0.9, 1e-7)),
    "rmsprop_epsilon": (RMSprop(0.1, 0.7, 0.1), lambda g: reference.rmsprop(g, 0.1, 0.7, 0.1)),
    "adam": (Adam(0.1), lambda g: reference.adam(g, 0.1, 0.9, 0.999, 1e-7)),
    "adam_epsilon": (
        Adam(0.1, 0.7, 0.8, 0.1),
        lambda g: reference.adam(g, 0.1, 0.7, 0.8, 0.1),
    ),
}


@pytest.mark.parametrize("name", TWINS)
def test_a_rule_follows_its_papers_algorithm(name):
    rule, twin = TWINS[name]
    gradients = _gradients()
    expected = twin(gradients)
    errors = np.abs(run_rule(rule, gradients) - expected)
    # float32 against float64; 1 - beta_2^t with beta_2 = .999 alone loses 4 of its 7 digits.
    tolerance = 2e-4 if name == "adam" else 1e-5
    assert (errors <= tolerance * np.abs(expected).max(axis=0)).all()


def test_nag_visits_the_points_at_which_the_textbooks_method_takes_its_gradients():
    curvature = np.array([1.0, 0.3, 5.0], np.float32)
    start = np.array([1.0, -2.0, 0.5], np.float32)
    expected = reference.textbook_nag(lambda x: curvature * x, start, NUM_STEPS, 0.1, 0.9)
    rule = SGD(0.1, momentum=0.9, nesterov=True)
    point, state, points = tf.constant(start), rule.initial_state(3), [start]
    for _ in range(NUM_STEPS):
        delta, state = rule(curvature * point, state)
        point += delta
        points.append(point.numpy())
    # Points of order 1 in float32, errors of 30 steps.
    np.testing.assert_allclose(points, expected, atol=5e-6)


def test_momentum_adds_up_a_constant_gradient_as_a_geometric_series():
    deltas = run_rule(SGD(0.1, momentum=0.9), np.full([NUM_STEPS, 1], 2.0, np.float32))[:, 0]
    steps = np.arange(1, NUM_STEPS + 1)
    np.testing.assert_allclose(deltas, -0.1 * 2 * (1 - 0.9**steps) / (1 - 0.9), rtol=1e-6)


@pytest.mark.parametrize(
    ("rule", "first_delta"),
    [
        (SGD(0.1), lambda g: -0.1 * g),
        (SGD(0.1, momentum=0.9), lambda g: -0.1 * g),
        (SGD(0.1, momentum=0.9, nesterov=True), lambda g: -0.1 * g * 1.9),
        (RMSprop(0.1, 0.7, 0.2), lambda g: -0.1 * g / np.sqrt(0.3 * g**2 + 0.2)),
        (Adam(0.1, 0.7, 0.75, 0.2), lambda g: -0.1 * g / (np.abs(g) + 0.2 / np.sqrt(0.25))),
    ],
    ids=["sgd", "momentum", "nag", "rmsprop", "adam"],
)
def test_the_first_delta_has_its_closed_form(rule, first_delta):
    gradient = np.array([-3.0, -1e-3, 0.0, 0.5, 100.0], np.float32)
    delta, _ = rule(tf.constant(gradient), rule.initial_state(5))
    np.testing.assert_allclose(delta, first_delta(gradient.astype(np.float64)), rtol=1e-6)


@pytest.mark.parametrize("name", BASELINES)
def test_a_vector_of_learning_rates_is_a_run_for_each_rate(name):
    rates = np.array([1e-3, 0.1, 3.0], np.float32)
    gradients = _gradients()
    together = run_rule(
        BASELINES[name](tf.repeat(rates, NUM_COORDINATES)), np.tile(gradients, [1, len(rates)])
    )
    for index, rate in enumerate(rates):
        alone = run_rule(BASELINES[name](float(rate)), gradients)
        part = together[:, index * NUM_COORDINATES : (index + 1) * NUM_COORDINATES]
        # The same float32 operations on every coordinate, but for fused vector instructions.
        np.testing.assert_allclose(part, alone, rtol=1e-6)


@pytest.mark.parametrize("name", BASELINES)
def test_permuting_coordinates_permutes_the_deltas(name):
    gradients = _gradients()
    order = np.random.default_rng(1).permutation(NUM_COORDINATES)
    rule = BASELINES[name](0.1)
    np.testing.assert_allclose(
        run_rule(rule, gradients[:, order]), run_rule(rule, gradients)[:, order], rtol=1e-6
    )


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_compiled_loop_gives_the_deltas_of_eager_steps(name, jit_compile):
    rule = BASELINES[name](0.1)
    gradients = _gradients()

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

    eager = run_rule(rule, gradients)
    errors = np.abs(run(tf.constant(gradients)) - eager)
    # 30 steps of float32 with another order of operations, relative to each largest delta; Adam's
    # 1 - beta_2^t of the first step alone loses 4 of the 7 digits.
    tolerance = 2e-4 if name == "adam" else 1e-5
    assert (errors <= tolerance * np.abs(eager).max(axis=0)).all()
