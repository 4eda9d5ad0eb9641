"""A finite gradient far beyond those before it costs one step, and no more."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from l2l_tf.delivery.gradient_history import GradientHistory, limit_after, note_step
from l2l_tf.delivery.learned_optimizer import LearnedOptimizer
from l2l_tf.delivery.pretrained import list_rules, load_rule
from l2l_tf.rules import (
    SGD,
    Adam,
    CoordinatewiseLSTM,
    RNNprop,
    Route,
)
from tests.delivery.linear_rule import LinearRule
from tests.delivery.optimizers import HAND_DESIGNED, optimizer_of

EVERY_RULE = [*list_rules(), *HAND_DESIGNED]

NUM_COORDINATES = 5
# Of long runs.
NUM_STEPS = 10_000


def _apply(how: str, optimizer: LearnedOptimizer, variable: keras.Variable):
    """Returns a function that applies a gradient, compiled or not."""
    optimizer.build([variable])

    def apply(gradient):
        optimizer.apply([gradient], [variable])

    compiled = {"graph": False, "xla": True}
    return apply if how == "eager" else tf.function(apply, jit_compile=compiled[how])


@tf.function(autograph=False)
def _is_outlier(history: tuple[tf.Variable, ...], sizes: tf.Tensor) -> tf.Tensor:
    """Adds steps to a history and returns which of them are outliers."""

    def step(size):
        is_outlier = size > limit_after(history)
        note_step(history, size, ~is_outlier, is_outlier)
        return is_outlier

    return tf.map_fn(step, sizes, fn_output_signature=tf.bool, parallel_iterations=1)


def _follow(sizes) -> tuple[list[str], GradientHistory]:
    """Returns what becomes of steps of these sizes, and the history after them."""
    history = GradientHistory()
    are_outliers = _is_outlier(history.values, tf.constant(sizes, tf.float32))
    return ["left out" if one else "taken" for one in are_outliers], history


# Which step is an outlier


@pytest.mark.parametrize("first", [0.0, 1e-30, 1.0, 99.0])
def test_a_first_gradient_of_up_to_a_hundred_is_taken(first):
    assert _follow([first])[0] == ["taken"]
    assert _follow([0.0, 0.0, first])[0] == ["taken"] * 3


@pytest.mark.parametrize("first", [101.0, 300.0, 1e30, 3e38])
def test_a_larger_first_gradient_is_left_out_and_forgotten(first):
    outcomes, history = _follow([first, 0.1, 11.0])
    assert outcomes == ["left out", "taken", "left out"]
    assert (int(history.num_in_a_row), int(history.num_outliers)) == (1, 2)
    np.testing.assert_allclose(history.largest, 0.1)


def test_a_gradient_is_an_outlier_beyond_a_hundred_times_the_largest_of_recent_ones():
    assert _follow([3.0, 0.5, 290.0])[0] == ["taken"] * 3
    assert _follow([3.0, 0.5, 301.0])[0] == ["taken", "taken", "left out"]
    # 0.99^300 of 90 are 4.413.
    assert _follow([90.0] + [0.1] * 300 + [441.0])[0][-1] == "taken"
    assert _follow([90.0] + [0.1] * 300 + [442.0])[0][-1] == "left out"


def test_one_that_is_just_small_enough_at_most_doubles_the_limit():
    assert _follow([1.0, 99.0, 199.0])[0] == ["taken"] * 3
    assert _follow([1.0, 99.0, 201.0])[0] == ["taken", "taken", "left out"]


def test_no_gradient_of_up_to_one_is_an_outlier_however_small_or_absent_those_before():
    shrinking = np.geomspace(1.0, 1e-12, 3000)
    assert set(_follow([*shrinking, 1.0, 1e-12, *[0.0] * 3000, 1.0])[0]) == {"taken"}


@pytest.mark.parametrize(("size", "num_left_out"), [(500.0, 1), (5e3, 2), (2e6, 5)])
def test_a_start_with_large_gradients_loses_a_few_steps(size, num_left_out):
    outcomes, _ = _follow([size] * 10)
    assert outcomes == ["left out"] * num_left_out + ["taken"] * (10 - num_left_out)


def test_steps_without_gradients_say_nothing_of_the_size_of_others():
    outcomes, history = _follow([50.0, *[0.0] * 3000, 4900.0])
    assert set(outcomes) == {"taken"}
    assert int(history.num_outliers) == 0


@pytest.mark.parametrize(("size", "num_left_out"), [(1e3, 1), (1e6, 4), (1e20, 18), (3e38, 37)])
def test_a_lasting_change_is_soon_taken_and_so_is_the_way_back(size, num_left_out):
    outcomes, history = _follow([1.0] * 10 + [size] * 50 + [1.0] * 10)
    assert outcomes[:10] == outcomes[-10:] == ["taken"] * 10
    changed = ["left out"] * num_left_out + ["taken"] * (50 - num_left_out)
    assert outcomes[10:-10] == changed
    assert (int(history.num_in_a_row), int(history.num_outliers)) == (0, num_left_out)


def test_of_poison_of_any_size_at_each_tenth_step_little_gets_through():
    generator = np.random.default_rng(0)
    sizes = 0.1 * np.exp(0.3 * generator.standard_normal(10_000))
    is_bad = generator.random(10_000) < 0.1
    sizes[is_bad] = 10.0 ** generator.uniform(0, 38, is_bad.sum())
    outcomes, _ = _follow(sizes)
    is_taken = np.array(outcomes) == "taken"
    assert is_taken[~is_bad].all()
    assert is_taken[is_bad].mean() < 0.1


def test_the_gradients_of_ordinary_sizes_are_answered_as_by_the_rule_alone():
    generator = np.random.default_rng(0)
    gradients = (generator.standard_normal([300, 9]) * np.geomspace(1e-6, 20, 9)).astype("float32")
    rule = load_rule("mnist_rnnprop", replay=False)
    optimizer = LearnedOptimizer(rule)
    variable = keras.Variable(np.zeros(9, np.float32))
    optimizer.build([variable])

    @tf.function
    def both(gradients):
        parameters, state = tf.zeros([9]), rule.initial_state(9)
        for gradient in gradients:
            delta, state = rule(gradient, state)
            parameters += delta
            optimizer.apply([gradient], [variable])
        return parameters

    np.testing.assert_array_equal(both(tf.constant(gradients)), variable.numpy())
    assert int(optimizer.num_skipped_steps) == int(optimizer.num_outlier_steps) == 0


# What it costs


RULES = {
    "lstm": lambda: CoordinatewiseLSTM((4, 3), "log_and_sign", output_stddev=0.5, seed=0),
    "rnnprop": lambda: RNNprop((4,), output_stddev=0.5, seed=0),
    "momentum": lambda: SGD(0.1, 0.9),
    "adam": lambda: Adam(0.1),
}
WAYS = ["eager", "graph", "xla"]


@pytest.mark.parametrize(
    ("rule", "how", "chunk_size"),
    # Each rule in each way, in chunks or not by turns: every pair of the three occurs.
    [
        (rule, how, (2, None)[(index + number) % 2])
        for index, rule in enumerate(RULES)
        for number, how in enumerate(WAYS)
    ],
)
def test_after_an_outlier_training_is_as_if_it_had_never_been(how, chunk_size, rule):
    gradients = np.random.default_rng(0).standard_normal([12, NUM_COORDINATES]).astype("float32")
    variable = keras.Variable(np.ones(NUM_COORDINATES, np.float32))
    optimizer = LearnedOptimizer(RULES[rule](), chunk_size=chunk_size)
    apply = _apply(how, optimizer, variable)
    values = [variable, *optimizer.variables, *optimizer._gradient_history.keras_variables]
    initial_values = [one.numpy() for one in values]
    not_compared = ("iteration", "num_skipped_steps")
    after = [variable, *(one for one in optimizer.variables if one.name not in not_compared)]
    one = np.arange(NUM_COORDINATES) == 3
    bad = [1e5, -1e20, 3e38, one * 1e30, -3e38 * one, 1e4 * one]

    # Compiled once, for both trainings.
    def train(is_poisoned: bool) -> list[np.ndarray]:
        for value, initial in zip(values, initial_values, strict=True):
            value.assign(initial)
        for index, gradient in enumerate(tf.constant(gradients)):
            if is_poisoned and index % 2 == 0:
                absurd = gradient + tf.constant(bad[index // 2], tf.float32)
                assert np.isfinite(absurd).all()
                apply(absurd)
            apply(gradient)
        return [value.numpy() for value in after]

    usual, poisoned = train(False), train(True)
    assert int(optimizer.num_skipped_steps) == int(optimizer.num_outlier_steps) == len(bad)
    for value, wanted in zip(poisoned, usual, strict=True):
        np.testing.assert_array_equal(value, wanted)
    assert (usual[0] != 1).all()


def test_an_outlier_in_one_variable_leaves_those_of_all_rules_as_they_are():
    variables = [keras.Variable([1.0], name="one"), keras.Variable([1.0], name="other")]
    optimizer = LearnedOptimizer(LinearRule(), [Route(SGD(0.5), name="other")])
    optimizer.apply([tf.constant([0.5]), tf.constant([0.5])], variables)
    optimizer.apply([tf.constant([0.5]), tf.constant([1e30])], variables)
    np.testing.assert_array_equal([one.numpy()[0] for one in variables], [0.5, 0.75])
    assert int(optimizer.num_outlier_steps) == 1


def test_a_clipped_gradient_is_none():
    variable = keras.Variable([1.0])
    optimizer = LearnedOptimizer(LinearRule(), clipnorm=0.5)
    optimizer.apply([tf.constant([1e9])], [variable])
    assert float(variable.numpy()[0]) == 0.5
    assert int(optimizer.num_outlier_steps) == 0


@pytest.mark.parametrize("name", EVERY_RULE)
def test_whatever_finite_gradients_come_parameters_and_state_stay_finite(name):
    optimizer = optimizer_of(name, NUM_STEPS)
    variable = keras.Variable(np.ones(NUM_COORDINATES, np.float32))
    optimizer.build([variable])
    # All finite float32 numbers, evenly by their bits.
    bits = np.random.default_rng(0).integers(0, 2**32, [400, NUM_COORDINATES], np.uint32)
    gradients = bits.view(np.float32)
    gradients[~np.isfinite(gradients)] = np.finfo(np.float32).max
    # Once they are usual, no longer left out.
    gradients[200:] = np.sign(gradients[200:]) * np.finfo(np.float32).max

    @tf.function
    def run(gradients):
        for gradient in gradients:
            optimizer.apply([gradient], [variable])

    run(tf.constant(gradients))
    for one in (variable, *optimizer.variables):
        assert np.isfinite(one.numpy()).all()
    assert int(optimizer.num_outlier_steps) > 0


def test_two_devices_leave_out_the_same_steps(two_devices):
    with two_devices.scope():
        optimizer = LearnedOptimizer(SGD(0.1, 0.9))
        variable = keras.Variable(np.ones(3, np.float32))
    for last in (1.0, 1e30, 2.0):
        # The second replica alone has an outlier.
        def step(last=last):
            index = tf.distribute.get_replica_context().replica_id_in_sync_group
            optimizer.apply([tf.where(index == 1, last, 0.5) * tf.ones([3])], [variable])

        two_devices.run(step)
    first, second = (one.numpy() for one in variable.value.values)
    np.testing.assert_array_equal(first, second)
    assert np.abs(first).max() < 2
    assert [int(one) for one in optimizer.num_outlier_steps.value.values] == [1, 1]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_asked_to_raise_for_what_is_not_finite_it_leaves_outliers_out(jit_compile):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    optimizer = LearnedOptimizer(SGD(0.1), nan_policy="raise")
    model.compile(optimizer, "mse", jit_compile=jit_compile)
    x, y = np.ones([4, 3], np.float32), np.ones([4, 1], np.float32)
    y[2] = 1e12
    model.fit(x, y, batch_size=1, shuffle=False, verbose=0)
    assert (int(optimizer.num_skipped_steps), int(optimizer.num_outlier_steps)) == (1, 1)
    y[2] = np.nan
    with pytest.raises(tf.errors.InvalidArgumentError):
        model.fit(x, y, batch_size=1, shuffle=False, verbose=0)


# Going on


def _after_outliers() -> tuple[LearnedOptimizer, keras.Variable]:
    variable = keras.Variable([1.0])
    optimizer = LearnedOptimizer(LinearRule())
    for gradient in (0.25, 1e12, 1e12, 1e12):
        optimizer.apply([tf.constant([gradient])], [variable])
    return optimizer, variable


@pytest.mark.parametrize("how", ["store", "checkpoint"])
@pytest.mark.parametrize("is_built", [False, True])
def test_a_restored_optimizer_leaves_out_what_the_other_would(how, is_built, tmp_path):
    optimizer, _ = _after_outliers()
    restored, variable = LearnedOptimizer(LinearRule()), keras.Variable([1.0])
    if is_built:
        restored.build([variable])
    if how == "store":
        store = {}
        optimizer.save_own_variables(store)
        restored.load_own_variables(store)
    else:
        path = tf.train.Checkpoint(optimizer).write(str(tmp_path / "state"))
        tf.train.Checkpoint(restored).read(path).expect_partial()
    numbers = [one._gradient_history.numbers() for one in (restored, optimizer)]
    np.testing.assert_array_equal(*numbers)
    np.testing.assert_array_equal(numbers[0], [0.25, 3, 3])
    # Left out three times, the limit is 25,000.
    variable.assign([0.0])
    for gradient, wanted in ((26_000.0, 0.0), (240_000.0, -240_000.0), (1e9, -240_000.0)):
        restored.apply([tf.constant([gradient])], [variable])
        assert float(variable.numpy()[0]) == wanted


def test_a_state_from_before_there_was_a_history_begins_one():
    optimizer, _ = _after_outliers()
    store = {}
    optimizer.save_own_variables(store)
    del store["gradient_history"]
    restored, variable = LearnedOptimizer(LinearRule()), keras.Variable([1.0])
    restored.load_own_variables(store)
    restored.apply([tf.constant([1e30])], [variable])
    restored.apply([tf.constant([0.5])], [variable])
    assert float(variable.numpy()[0]) == 0.5
    assert (int(restored.iterations), int(restored.num_skipped_steps)) == (6, 4)


@pytest.mark.parametrize(
    "history", [np.zeros(2), np.array([np.nan, 0, 0]), np.array([-1.0, 0, 0]), np.array(["a"] * 3)]
)
def test_a_history_that_is_none_is_refused(history):
    optimizer, _ = _after_outliers()
    store = {}
    optimizer.save_own_variables(store)
    store["gradient_history"] = history
    restored = LearnedOptimizer(LinearRule())
    with pytest.raises(ValueError, match="a state that has an invalid history of gradients"):
        restored.load_own_variables(store)


# Long runs


def _digits(parameters: tf.Tensor) -> tf.Tensor:
    """Returns the loss of a logistic regression: is it a 3 or an 8?"""
    images, labels = load_digits(return_X_y=True)
    is_one = np.isin(labels, (3, 8))
    pixels = tf.constant(np.insert(images[is_one] / 16, 0, 1, axis=1), tf.float32)
    wanted = tf.constant(labels[is_one] == 8, tf.float32)
    logits = tf.linalg.matvec(pixels, parameters)
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(wanted, logits))


def _least_squares(parameters: tf.Tensor) -> tf.Tensor:
    """Returns the loss of a well-conditioned regression, .01 at best."""
    generator = np.random.default_rng(1)
    matrix = generator.standard_normal([200, 24]) / np.sqrt(200)
    noise = 0.1 * generator.standard_normal(200) / np.sqrt(200)
    targets = tf.constant(matrix @ generator.standard_normal(24) + noise, tf.float32)
    residuals = tf.linalg.matvec(tf.constant(matrix, tf.float32), parameters) - targets
    return tf.reduce_sum(tf.square(residuals))


# `quadratic_lstm` is for no other; the steps of `style_lstm`, made for pixels, are too large there.
_LOSSES = {"quadratic_lstm": (_least_squares, 24)}


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY_RULE)
def test_absurd_gradients_in_one_of_a_hundred_steps_hardly_change_where_training_ends(name):
    loss_of, num_coordinates = _LOSSES.get(name, (_digits, 65))

    optimizer = optimizer_of(name, NUM_STEPS)
    variable = keras.Variable(np.zeros(num_coordinates, np.float32))
    optimizer.build([variable])
    values = [variable, *optimizer.variables, *optimizer._gradient_history.keras_variables]
    initial_values = [one.numpy() for one in values]

    # Compiled once, for both trainings.
    @tf.function(autograph=False, jit_compile=True)
    def run(poison: tf.Tensor) -> tf.Tensor:
        def one_step(step: tf.Tensor) -> tuple[tf.Tensor]:
            with tf.GradientTape() as tape:
                loss = loss_of(variable.value)
            gradient = tape.gradient(loss, variable.value)
            signs = tf.sign(tf.random.stateless_normal([num_coordinates], tf.stack([step, 1])))
            is_bad = tf.random.stateless_uniform([], tf.stack([step, 0])) < poison
            optimizer.apply([tf.where(is_bad, 1e30 * signs, gradient)], [variable])
            return (step + 1,)

        tf.while_loop(lambda step: step < NUM_STEPS, one_step, (tf.constant(0),))
        return loss_of(variable.value)

    def train(poison: float) -> tuple[float, int, int]:
        for one, value in zip(values, initial_values, strict=True):
            one.assign(value)
        loss = float(run(tf.constant(poison)))
        return loss, int(optimizer.num_skipped_steps), int(optimizer.num_outlier_steps)

    unpoisoned, *counts = train(0.0)
    assert counts == [0, 0]
    assert unpoisoned < 0.02
    loss, num_skipped, num_outliers = train(0.01)
    assert 50 < num_skipped == num_outliers < 150
    assert loss < 2 * unpoisoned
