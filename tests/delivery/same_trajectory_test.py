"""The unroll, `fit` and the exported SavedModel take the same steps with one rule on one task."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.data import datasets
from l2l_tf.delivery.export import export_rule
from l2l_tf.delivery.learned_optimizer import LearnedOptimizer, load
from l2l_tf.evaluation.unroll import start, unroll
from l2l_tf.problems.classification import ClassificationProblem
from l2l_tf.problems.networks import mlp
from l2l_tf.problems.seeds import task_seeds
from l2l_tf.rules.coordinatewise_lstm import CoordinatewiseLSTM
from l2l_tf.rules.routed import RoutedRule
from l2l_tf.rules.routing import Route
from l2l_tf.rules.rule import FlatLayout

# Nearly all of these compile a model.
pytestmark = pytest.mark.slow

NUM_STEPS, BATCH_SIZE = 15, 32


def _lstm(seed: int) -> CoordinatewiseLSTM:
    rule = CoordinatewiseLSTM(
        (5, 4), "log_and_sign", output_scale=0.05, output_stddev=0.5, seed=seed
    )
    draw = np.random.default_rng(seed)
    rule.set_weights([one + 0.1 * draw.standard_normal(one.shape) for one in rule.get_weights()])
    return rule


@pytest.fixture(scope="module", params=["one", "parts"])
def rule(request):
    """A rule for all variables, or one with a part of its own for matrices."""
    if request.param == "one":
        return _lstm(0)
    return RoutedRule(_lstm(0), [Route(_lstm(1), kind="dense")])


@pytest.fixture(scope="module")
def task():
    """A network, its problem on digits, and the seed of a task."""
    digits = datasets.load("digits")
    model = mlp(digits.image_shape, units=6, activation="tanh")
    problem = ClassificationProblem(model, *digits.train, batch_size=BATCH_SIZE)
    return model, problem, task_seeds(0, "test", 0, 1)[0]


@pytest.fixture(scope="module")
def unrolled(rule, task) -> np.ndarray:
    """The parameters `[N]` after the unroll's last step."""
    _, problem, seed = task
    iterate = start(rule, problem, seed)
    _, last = unroll(rule, problem, seed, iterate, NUM_STEPS)
    assert np.abs(last.parameters - iterate.parameters).max() > 0.05
    return last.parameters.numpy()


def _batches(problem, seed):
    """Returns images in [0, 1] `[T * B, ...]` and labels `[T * B]`, step after step."""
    batches = [problem.batch(seed, tf.constant(step)) for step in range(NUM_STEPS)]
    images, labels = zip(*batches, strict=True)
    return np.concatenate(images).astype(np.float32) / 255, np.concatenate(labels)


def _layout(problem):
    return FlatLayout(problem.parameter_shapes)


# Sums of a batch in another order, and 15 steps of a nonlinear rule.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


# Of 460 coordinates: three chunks, the last of them smaller.
@pytest.mark.parametrize("chunk_size", [None, 160])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_fit_takes_the_steps_of_the_unroll(rule, task, unrolled, tmp_path, chunk_size, jit_compile):
    model, problem, seed = task
    for variable, value in zip(
        model.trainable_variables, problem.initial_parameters(seed), strict=True
    ):
        variable.assign(value)
    path = export_rule(rule, tmp_path / "rule", {"name": "mine"})
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(load(path, chunk_size=chunk_size), loss, jit_compile=jit_compile)
    model.fit(*_batches(problem, seed), batch_size=BATCH_SIZE, shuffle=False, verbose=0)
    fitted = np.concatenate([one.numpy().ravel() for one in model.trainable_variables])
    np.testing.assert_allclose(fitted, unrolled, **TOLERANCE)


def test_the_saved_model_takes_the_steps_of_the_unroll(rule, task, unrolled, tmp_path):
    _, problem, seed = task
    exported = tf.saved_model.load(str(export_rule(rule, tmp_path / "rule", {"name": "mine"})))
    layout = _layout(problem)
    parameters = layout.flatten(problem.initial_parameters(seed))
    # For the parts, where their coordinates stand: kernel, bias, kernel and bias of an MLP.
    owners = np.repeat(["dense", "other", "dense", "other"], layout.sizes)
    positions = {name: np.flatnonzero(owners == name) for name in ("dense", "other")}
    has_parts = isinstance(rule, RoutedRule)
    counts = {name: len(where) for name, where in positions.items()}
    state = exported.initial_state(counts if has_parts else layout.num_coordinates)
    for step in range(NUM_STEPS):
        batch = problem.batch(seed, tf.constant(step))
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            loss = tf.reduce_sum(problem.loss(layout.unflatten(parameters), batch))
        gradient = tape.gradient(loss, parameters)
        if has_parts:
            given = {name: tf.gather(gradient, where) for name, where in positions.items()}
            deltas, state = exported.update(given, state)
            delta = np.empty(layout.num_coordinates, np.float32)
            for name, where in positions.items():
                delta[where] = deltas[name]
        else:
            delta, state = exported.update(gradient, state)
        parameters += delta
    np.testing.assert_allclose(parameters, unrolled, **TOLERANCE)


def test_a_loop_of_ones_own_takes_the_steps_of_the_unroll(rule, task, unrolled):
    _, problem, seed = task
    variables = [keras.Variable(value.numpy()) for value in problem.initial_parameters(seed)]
    optimizer = LearnedOptimizer(rule)
    for step in range(NUM_STEPS):
        batch = problem.batch(seed, tf.constant(step))
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(problem.loss([one.value for one in variables], batch))
        optimizer.apply(tape.gradient(loss, [one.value for one in variables]), variables)
    final = np.concatenate([one.numpy().ravel() for one in variables])
    np.testing.assert_allclose(final, unrolled, **TOLERANCE)
