"""Requirements for every rule, learned or hand-designed, coordinatewise or not."""

import warnings
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

import l2l_tf
from l2l_tf.delivery.export import load_saved_rule
from l2l_tf.delivery.rule_config import copy_rule, rule_from_config, rule_to_config
from l2l_tf.evaluation import bind, evaluate, start, unroll
from l2l_tf.parameter_spec import ParameterSpec
from l2l_tf.problems import StackedProblem, task_seeds
from l2l_tf.rules import BoundRule, Rule, StepInfo
from l2l_tf.training import MetaTrainer, MetaTrainingSettings, meta_gradient
from tests.rules.every_rule import EVERY_RULE, HAND_DESIGNED, LEARNED, make
from tests.training.toys import NoisyBowls

# A matrix, a vector, a scalar, a kernel of a convolution, and a tensor without any number.
VARIABLES = [
    ParameterSpec("dense/kernel", (3, 2)),
    ParameterSpec("dense/bias", (2,)),
    ParameterSpec("scale", ()),
    ParameterSpec("convolution/kernel", (2, 1, 2, 2)),
    ParameterSpec("empty", (0, 4)),
]
NUM_STEPS = 4
SEED = tf.constant([3, 1])
every_rule = pytest.mark.parametrize("name", EVERY_RULE)
every_learned_rule = pytest.mark.parametrize("name", LEARNED)


def _gradients(batch_shape=(), dtype="float32") -> list[list[tf.Tensor]]:
    """Returns the gradients of each tensor at each step."""
    draw = np.random.default_rng(0)
    return [
        [tf.constant(draw.standard_normal((*batch_shape, *one.shape)), dtype) for one in VARIABLES]
        for _ in range(NUM_STEPS)
    ]


def _run(
    rule: BoundRule, gradients: list[list[tf.Tensor]], update: Callable | None = None
) -> list[list[tf.Tensor]]:
    """Returns the deltas of each tensor at each step, from parameters of one.

    Args:
        rule: the rule.
        gradients: those of each tensor at each step.
        update: does what the rule's own `update` does, in another way.
    """
    state, deltas = rule.initial_state(), []
    parameters = [tf.ones_like(one) for one in gradients[0]]
    for step, of_step in enumerate(gradients):
        info = StepInfo(tf.constant(step), None, parameters, NUM_STEPS)
        of_tensors, state = (update or rule.update)(of_step, state, info)
        deltas.append(of_tensors)
        parameters = [one + delta for one, delta in zip(parameters, of_tensors, strict=True)]
    return deltas


def _assert_close(deltas, expected, rtol=1e-5, atol=1e-7) -> None:
    for one, other in zip(tf.nest.flatten(deltas), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


@every_rule
def test_it_is_a_rule_and_bound_it_is_a_bound_rule(name):
    rule = make(name)
    assert isinstance(rule, Rule)
    bound = rule.bind(VARIABLES)
    assert isinstance(bound, BoundRule)
    assert bound.num_coordinates == 6 + 2 + 1 + 8
    assert bound.bind(VARIABLES) is bound


@every_rule
def test_each_delta_has_the_shape_and_the_dtype_of_its_gradient(name):
    gradients = _gradients()
    for deltas in _run(make(name).bind(VARIABLES), gradients):
        for delta, gradient in zip(deltas, gradients[0], strict=True):
            assert (delta.shape, delta.dtype) == (gradient.shape, gradient.dtype)
            assert np.isfinite(delta).all()
    assert all(np.abs(one).max() > 0 for one in deltas[:4])


@every_rule
def test_tensors_and_one_flat_vector_of_them_are_answered_alike(name):
    bound = make(name).bind(VARIABLES)
    by_tensors, state, deltas = _run(bound, _gradients()), bound.initial_state(), []
    parameters = tf.ones([bound.num_coordinates])
    for step, gradients in enumerate(_gradients()):
        info = StepInfo(tf.constant(step), None, parameters, NUM_STEPS)
        delta, state = bound(bound.layout.flatten(gradients), state, info)
        parameters += delta
        deltas.append(bound.layout.unflatten(delta))
    _assert_close(deltas, by_tensors, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "jit_compile"),
    [*((name, False) for name in EVERY_RULE), *((name, True) for name in LEARNED)],
)
def test_compiled_it_is_what_it_is_eagerly(name, jit_compile):
    bound = make(name).bind(VARIABLES)
    update = tf.function(bound.update, autograph=False, jit_compile=jit_compile)
    deltas = _run(bound, _gradients(), update)
    _assert_close(deltas, _run(bound, _gradients()), rtol=1e-4, atol=1e-6)
    assert update.experimental_get_tracing_count() == 1


@every_rule
def test_entries_of_a_batch_have_nothing_to_do_with_each_other(name):
    rule, gradients = make(name), _gradients((2, 3))
    together = _run(rule.bind(VARIABLES, (2, 3)), gradients)
    for entry in np.ndindex(2, 3):
        alone = _run(rule.bind(VARIABLES), [[one[entry] for one in step] for step in gradients])
        _assert_close([[one[entry] for one in step] for step in together], alone)


@every_rule
def test_gradients_of_zero_are_answered_by_finite_deltas(name):
    zeros = [[tf.zeros_like(one) for one in step] for step in _gradients()]
    for deltas in _run(make(name).bind(VARIABLES), zeros):
        assert all(np.isfinite(one).all() for one in deltas)


@every_rule
def test_forms_for_steps_and_for_training_are_the_same_rule(name):
    bound = make(name).bind(VARIABLES)
    expected = _run(bound, _gradients())
    forms = [bound.for_steps(), bound.for_training(NUM_STEPS, 0)]
    if make(name).is_coordinatewise:
        forms.append(bound.for_training(NUM_STEPS, 5))
    for form in forms:
        _assert_close(_run(form, _gradients()), expected)
        state = form.initial_state()
        again = form.cut_state(form.whole_state(state))
        tf.nest.assert_same_structure(again, state)
        _assert_close(again, state)
        tf.nest.assert_same_structure(form.whole_state(state), bound.initial_state())


@pytest.mark.parametrize(
    "name",
    # Others know one coordinate from another.
    [name for name in EVERY_RULE if make(name).is_coordinatewise and not name.startswith("routed")],
)
def test_permuting_coordinates_commutes_with_a_coordinatewise_rule(name):
    rule = make(name)
    order = np.random.default_rng(1).permutation(9)
    (variable,) = [ParameterSpec("x", (9,))]
    gradients = np.random.default_rng(0).standard_normal((NUM_STEPS, 9)).astype(np.float32)
    bound = rule.bind([variable])

    def deltas(gradients):
        return np.stack([step[0] for step in _run(bound, [[tf.constant(g)] for g in gradients])])

    np.testing.assert_allclose(
        deltas(gradients)[:, order], deltas(gradients[:, order]), rtol=1e-5, atol=1e-7
    )


# In the engine


@every_rule
def test_two_unrolls_are_exactly_one_of_their_length(name):
    problem = NoisyBowls(num_functions=2)
    rule = bind(make(name), problem)
    first = start(rule, problem, SEED)
    whole, end = unroll(rule, problem, SEED, first, 4)
    half, middle = unroll(rule, problem, SEED, first, 2, horizon=4)
    other_half, same_end = unroll(rule, problem, SEED, middle, 2, horizon=4)
    np.testing.assert_array_equal(whole.losses, [*half.losses, *other_half.losses])
    np.testing.assert_array_equal(end.parameters, same_end.parameters)


@every_rule
def test_tasks_side_by_side_are_evaluated_as_one_by_one(name):
    problem, seeds = NoisyBowls(num_functions=2), task_seeds(0, "test", 0, 3)
    rule = make(name)
    together = evaluate(rule, problem, seeds, NUM_STEPS)
    alone = evaluate(rule, problem, seeds, NUM_STEPS, max_coordinates=1)
    np.testing.assert_allclose(together.losses, alone.losses, rtol=1e-4)


@pytest.mark.slow
@every_learned_rule
@pytest.mark.parametrize("second_derivatives", [0.0, 1.0])
def test_the_meta_gradient_is_that_of_finite_differences(name, second_derivatives):
    problem = NoisyBowls(num_functions=2, dtype="float64")
    rule = make(name, dtype="float64")
    bound = bind(rule, problem)
    first = start(bound, problem, SEED)
    steps, _ = unroll(bound, problem, SEED, first, 3, ("gradients", "deltas"))
    gradients = [first.gradient, *steps.gradients]
    points = [first.parameters + sum(steps.deltas[:step]) for step in range(3)]

    @tf.function(autograph=False)
    def loss() -> tf.Tensor:
        """Returns what is differentiated: with gradients and parameters fixed, or not."""
        if second_derivatives:
            run, _ = unroll(bound, problem, SEED, first, 3)
            return tf.reduce_sum(run.losses) / problem.num_functions
        state, total = first.rule_state, tf.zeros([], tf.float64)
        for step in range(3):
            info = StepInfo(first.step + step, None, points[step], 3)
            delta, state = bound(gradients[step], state, info)
            later = sum(gradients[step + 1 :]) / problem.num_functions
            total += tf.tensordot(later, delta, 1)
        return total

    result = meta_gradient(
        bound, problem, SEED, first, 3, second_derivatives=second_derivatives
    ).gradients
    for weight, gradient in zip(rule.trainable_variables, result, strict=True):
        value = weight.numpy()
        # One number of each weight, the one that counts most.
        index = np.unravel_index(np.abs(gradient).argmax(), value.shape)
        differences = []
        for sign in (1, -1):
            moved = np.array(value)
            moved[index] += sign * 1e-5
            weight.assign(moved)
            differences.append(sign * float(loss()))
        weight.assign(value)
        expected = sum(differences) / 2e-5
        np.testing.assert_allclose(np.array(gradient)[index], expected, rtol=1e-4, atol=1e-8)


@pytest.mark.slow
@every_learned_rule
def test_it_learns_on_several_tasks_at_once(name):
    settings = MetaTrainingSettings(
        num_steps=4,
        unroll_length=2,
        num_meta_epochs=1,
        trajectories_per_meta_epoch=2,
        tasks_per_meta_step=2,
        num_validation_tasks=3,
    )
    rule = make(name)
    before = rule.get_weights()
    trainer = MetaTrainer(rule, NoisyBowls(), keras.optimizers.Adam(1e-3), settings)
    trainer.fit()
    assert trainer.progress.num_skipped == 0
    assert np.isfinite(trainer.progress.best_validation_loss)
    moved = [
        np.abs(one - was).max() > 0
        for one, was in zip(rule.get_weights(), before, strict=True)
        if was.size
    ]
    assert sum(moved) > len(moved) / 2


# Saved, loaded, used


@every_rule
def test_its_configuration_and_weights_make_it_again(name):
    rule = make(name)
    again = rule_from_config(rule_to_config(rule))
    _assert_close(
        _run(again.bind(VARIABLES), _gradients()), _run(rule.bind(VARIABLES), _gradients()), 0, 0
    )
    if name in HAND_DESIGNED:
        return
    copy = copy_rule(rule)
    assert not copy.trainable
    assert all(one is not other for one, other in zip(copy.weights, rule.weights, strict=True))


@pytest.mark.slow
@every_learned_rule
def test_an_export_is_the_rule_for_keras_and_for_tensorflow_alone(name, tmp_path):
    rule = make(name)
    variables = None if rule.is_coordinatewise else VARIABLES
    path = l2l_tf.export_rule(rule, tmp_path / "rule", {"name": name}, variables)
    loaded = load_saved_rule(path)
    expected = _run(rule.bind(VARIABLES), _gradients())
    _assert_close(_run(loaded.bind(VARIABLES), _gradients()), expected)
    if variables is None:
        return  # Its SavedModel is of coordinates: export_test.py.
    module = tf.saved_model.load(str(path))
    state = module.signatures["initial_state"]()
    names = ["dense_kernel", "dense_bias", "scale", "convolution_kernel", "empty"]
    parameters = {f"parameter_{one}": tf.ones(VARIABLES[i].shape) for i, one in enumerate(names)}
    for step, gradients in enumerate(_gradients()):
        given = {f"gradient_{one}": two for one, two in zip(names, gradients, strict=True)}
        update = module.signatures["update"]
        told = {"step": tf.constant(step), "num_steps": tf.constant(NUM_STEPS), **parameters}
        told = {one: told[one] for one in told if one in update.structured_input_signature[1]}
        answer = update(**given, **state, **told)
        deltas = [answer.pop(f"delta_{one}") for one in names]
        _assert_close(deltas, expected[step])
        state = answer
        for one, delta in zip(names, deltas, strict=True):
            parameters[f"parameter_{one}"] += delta


class _Model(keras.Model):
    """The bowls of a task as a Keras model: its loss is their sum."""

    def __init__(self, parameters):
        super().__init__()
        self.pair = self.add_weight(shape=(2,), name="pair")
        self.single = self.add_weight(shape=(), name="single")
        self.pair.assign(parameters[0][0])
        self.single.assign(parameters[1][0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "jit_compile"),
    # Compiling takes long; one rule of each kind will do.
    [*((name, False) for name in EVERY_RULE), ("lstm", True), ("tensor", True), ("adam", True)],
)
def test_as_a_keras_optimizer_it_takes_the_steps_of_the_unroll(name, jit_compile):
    problem = NoisyBowls(num_functions=1)
    rule = make(name)
    bound = bind(rule, problem)
    first = start(bound, problem, SEED)
    _, last = unroll(bound, problem, SEED, first, NUM_STEPS)
    model = _Model(problem.initial_parameters(SEED))
    optimizer = l2l_tf.LearnedOptimizer(rule, num_steps=NUM_STEPS)
    variables = [model.pair, model.single]
    optimizer.build(variables)

    @tf.function(autograph=False, jit_compile=jit_compile)
    def step(index):
        with tf.GradientTape() as tape:
            values = [tf.convert_to_tensor(one)[tf.newaxis] for one in variables]
            loss = problem.loss(values, problem.batch(SEED, index))[0]
        optimizer.apply(tape.gradient(loss, variables), variables)

    for index in range(NUM_STEPS):
        step(tf.constant(index))
    assert int(optimizer.num_skipped_steps.numpy()) == 0
    trained = np.concatenate([np.ravel(one.numpy()) for one in variables])
    np.testing.assert_allclose(trained, last.parameters, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@every_learned_rule
def test_a_keras_model_that_it_trains_is_saved_and_goes_on(name, tmp_path):
    x = np.random.default_rng(0).standard_normal((16, 3)).astype(np.float32)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dense(1)])
    model.compile(l2l_tf.LearnedOptimizer(make(name), num_steps=9), "mse", jit_compile=False)
    model.fit(x, x[:, :1], batch_size=8, verbose=0, shuffle=False)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for one in (model, loaded):
        one.fit(x, x[:, :1], batch_size=8, verbose=0, shuffle=False)
    for one, other in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@every_rule
def test_a_variable_without_a_gradient_stays_and_so_does_its_state(name):
    kernel = keras.Variable(np.ones((3, 2), np.float32), name="kernel")
    bias = keras.Variable(np.ones(2, np.float32), name="bias")
    together, apart = (l2l_tf.LearnedOptimizer(make(name), num_steps=9) for _ in range(2))
    for optimizer in (together, apart):
        optimizer.build([kernel, bias])
    gradient = tf.ones([3, 2])
    with warnings.catch_warnings():
        # Keras warns that a variable has no gradient.
        warnings.simplefilter("ignore")
        apart.apply([gradient, None], [kernel, bias])
    assert (bias.numpy() == 1).all()
    assert not (kernel.numpy() == 1).all()
    states = [
        [one.numpy() for one in optimizer.variables if one.shape == (2,)]
        for optimizer in (together, apart)
    ]
    for one, other in zip(*states, strict=True):
        np.testing.assert_array_equal(one, other)


def test_stacked_tasks_are_batch_axes_before_those_of_functions():
    problem = StackedProblem(NoisyBowls(num_functions=2), 3)
    assert problem.batch_shape == (3, 2)
    assert [one.shape for one in problem.variables] == [(2,), ()]
