"""Whatever the gradients, LearnedOptimizer never leaves a model worse than it found it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.delivery.learned_optimizer import LearnedOptimizer
from l2l_tf.delivery.pretrained import list_rules, load_rule
from l2l_tf.rules import SGD, CoordinatewiseLSTM
from l2l_tf.rules.rnnprop import RNNprop
from l2l_tf.rules.routed import RoutedRule
from tests.delivery.linear_rule import LinearRule
from tests.delivery.optimizers import HAND_DESIGNED, optimizer_of

NUM_COORDINATES = 12


def _lstm() -> CoordinatewiseLSTM:
    return CoordinatewiseLSTM((4, 3), "log_and_sign", output_stddev=0.5, seed=0)


class ExplodingRule(LinearRule):
    """A rule whose delta is infinite, or whose state is, where the gradient is just so."""

    def call(self, gradient, state):
        delta, (count, total, last) = super().call(gradient, state)
        delta = tf.where(gradient == 7.0, np.inf, delta)
        total = tf.where(gradient == 8.0, np.nan, total)
        return delta, (count, total, last)


def _everything(optimizer, variables) -> list[np.ndarray]:
    counters = ("iteration", "num_skipped_steps")
    return [one.numpy() for one in variables] + [
        one.numpy() for one in optimizer.variables if one.name not in counters
    ]


def _apply(how, optimizer, variables):
    """Returns a function that applies gradients, compiled or not."""
    optimizer.build(variables)

    def apply(*gradients):
        optimizer.apply(list(gradients), variables)

    compiled = {"graph": False, "xla": True}
    return apply if how == "eager" else tf.function(apply, jit_compile=compiled[how])


WAYS = ["eager", "graph", "xla"]
# A rule and a number in its gradient.
BAD = {
    "nan": (_lstm, np.nan),
    "inf": (_lstm, np.inf),
    "minus_inf": (lambda: SGD(0.1, 0.9), -np.inf),
    "delta": (ExplodingRule, 7.0),
    "state": (ExplodingRule, 8.0),
}


@pytest.mark.parametrize(
    ("what", "how", "chunk_size"),
    # Each in each way, in chunks or not by turns: every pair of the three occurs.
    [
        (what, how, (None, 4)[(index + number) % 2])
        for index, what in enumerate(BAD)
        for number, how in enumerate(WAYS)
    ],
)
def test_a_step_with_something_not_finite_changes_nothing_and_is_counted(what, how, chunk_size):
    rule, bad = BAD[what]
    variables = [keras.Variable(np.ones(10, np.float32)), keras.Variable(np.float32([1.0, 2.0]))]
    optimizer = LearnedOptimizer(rule(), chunk_size=chunk_size, weight_decay=0.1)
    apply = _apply(how, optimizer, variables)
    good = tf.constant(np.random.default_rng(0).standard_normal(10), tf.float32)
    apply(good, good[:2])
    before = _everything(optimizer, variables)
    apply(tf.tensor_scatter_nd_update(good, [[6]], [bad]), good[:2])
    for one, other in zip(_everything(optimizer, variables), before, strict=True):
        np.testing.assert_array_equal(one, other)
    assert (int(optimizer.num_skipped_steps), int(optimizer.iterations)) == (1, 2)
    apply(good, good[:2])
    changed = zip(_everything(optimizer, variables), before, strict=True)
    assert any(np.any(one != other) for one, other in changed)
    assert int(optimizer.num_skipped_steps) == 1


def test_after_a_skipped_step_training_is_as_if_it_had_never_been():
    gradients = tf.constant(np.random.default_rng(0).standard_normal([4, 5]), tf.float32)
    with_bad, without = (keras.Variable(np.ones(5, np.float32)) for _ in range(2))
    optimizers = LearnedOptimizer(_lstm()), LearnedOptimizer(_lstm())
    for gradient in gradients:
        for optimizer, variable in zip(optimizers, (with_bad, without), strict=True):
            optimizer.apply([gradient], [variable])
        optimizers[0].apply([gradient * np.nan], [with_bad])
    np.testing.assert_array_equal(with_bad.numpy(), without.numpy())
    assert int(optimizers[0].num_skipped_steps) == 4


def test_one_bad_gradient_among_those_accumulated_drops_their_step_and_no_more():
    variable = keras.Variable([1.0])
    optimizer = LearnedOptimizer(LinearRule(), gradient_accumulation_steps=2)
    for gradient, wanted in [(np.nan, 1.0), (1.0, 1.0), (0.5, 1.0), (0.5, 0.5)]:
        optimizer.apply([tf.constant([gradient])], [variable])
        assert float(variable.numpy()[0]) == wanted
    assert int(optimizer.num_skipped_steps) == 1


# Learning rates and deltas by the variable's type. Those of the last pair of each are finite, but
# not together.
TOO_LARGE = {
    "float32": [(np.nan, 1.0), (1e38, 99.0), (2e36, 99.0)],
    "float16": [(3000.0, 99.0), (400.0, 99.0)],
}


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("dtype", TOO_LARGE)
def test_no_parameter_becomes_infinite_by_finite_deltas(how, dtype):
    start = 4e4 if dtype == "float16" else 3e38
    variable = keras.Variable(np.full(3, start), dtype=dtype)
    optimizer = LearnedOptimizer(LinearRule(), learning_rate=1.0)
    apply = _apply(how, optimizer, [variable])
    for index, (learning_rate, delta) in enumerate(TOO_LARGE[dtype]):
        optimizer.learning_rate = learning_rate
        apply(tf.fill([3], -delta))
        np.testing.assert_array_equal(variable.numpy(), np.full(3, start, dtype))
        assert int(optimizer.num_skipped_steps) == index + 1
        assert int(optimizer.num_outlier_steps) == 0


@pytest.mark.parametrize("how", ["eager", "graph", "xla"])
@pytest.mark.parametrize("chunk_size", [None, 4])
def test_a_finite_state_is_no_reason_to_skip_a_step_though_its_sum_is_infinite(how, chunk_size):
    variable = keras.Variable(np.zeros(12, np.float32))
    optimizer = LearnedOptimizer(LinearRule(-1e-37), chunk_size=chunk_size)
    apply = _apply(how, optimizer, [variable])
    # 4 of them are no float32. They are taken once they have come often enough to be no outliers.
    while not variable.numpy().any():
        apply(tf.fill([12], 1e38))
        assert int(optimizer.iterations) < 40
    np.testing.assert_allclose(variable.numpy(), -10.0, rtol=1e-5)
    assert int(optimizer.num_skipped_steps) == int(optimizer.num_outlier_steps)


class _Skipped(keras.metrics.Metric):
    """The steps that an optimizer has skipped so far."""

    def __init__(self, optimizer):
        super().__init__(name="skipped")
        self.optimizer = optimizer

    def update_state(self, *arguments, **named_arguments):
        pass

    def result(self):
        return tf.cast(self.optimizer.num_skipped_steps, tf.float32)


def _model_and_data(num_bad):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    x, y = np.ones([8, 3], np.float32), np.ones([8, 1], np.float32)
    y[:num_bad] = np.nan
    return model, x, y


def test_a_metric_can_read_how_many_steps_were_skipped():
    model, x, y = _model_and_data(num_bad=2)
    optimizer = LearnedOptimizer(SGD(0.1))
    model.compile(optimizer, "mse", metrics=[_Skipped(optimizer)])
    history = model.fit(x, y, batch_size=1, epochs=2, shuffle=False, verbose=0).history
    assert history["skipped"] == [2.0, 4.0]
    assert np.isfinite(model.get_weights()[0]).all()


def test_two_devices_skip_the_same_steps(two_devices):
    with two_devices.scope():
        optimizer = LearnedOptimizer(_lstm())
        variable = keras.Variable(np.ones(3, np.float32))
    for last in (1.0, np.nan, 2.0):
        # The second replica alone has something that is not finite.
        def step(last=last):
            index = tf.distribute.get_replica_context().replica_id_in_sync_group
            optimizer.apply([tf.where(index == 1, last, 0.5) * tf.ones([3])], [variable])

        two_devices.run(step)
    for one in (*variable.value.values, *optimizer.variables[-1].value.values):
        assert np.isfinite(one.numpy()).all()
    assert [int(one) for one in optimizer.num_skipped_steps.value.values] == [1, 1]


# Raising


@pytest.mark.parametrize("how", ["eager", "graph"])
def test_it_raises_at_once_if_asked_to_and_changes_nothing(how):
    variable = keras.Variable(np.ones(9, np.float32))
    optimizer = LearnedOptimizer(_lstm(), nan_policy="raise", chunk_size=3)
    apply = _apply(how, optimizer, [variable])
    apply(tf.ones([9]))
    before = _everything(optimizer, [variable])
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        apply(tf.fill([9], np.nan))
    assert "Gradients, deltas and the state of the rule must be finite." in str(raised.value)
    for one, other in zip(_everything(optimizer, [variable]), before, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_fit_raises_however_it_is_compiled(jit_compile):
    model, x, y = _model_and_data(num_bad=1)
    model.compile(LearnedOptimizer(SGD(0.1), nan_policy="raise"), "mse", jit_compile=jit_compile)
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        model.fit(x, y, batch_size=1, shuffle=False, verbose=0)
    assert "Gradients, deltas and the state of the rule must be finite." in str(raised.value)
    assert np.isfinite(model.get_weights()[0]).all()


@pytest.mark.parametrize("jit_compile", [False, True])
def test_what_was_raised_once_is_not_raised_again(jit_compile):
    model, x, y = _model_and_data(num_bad=1)
    model.compile(LearnedOptimizer(SGD(0.1), nan_policy="raise"), "mse", jit_compile=jit_compile)
    for num_bad in (1, 0, 1):
        y[:] = [[np.nan]] * num_bad + [[1.0]] * (len(y) - num_bad)
        if num_bad:
            with pytest.raises(tf.errors.InvalidArgumentError):
                model.fit(x, y, batch_size=1, shuffle=False, verbose=0)
        else:
            model.fit(x, y, batch_size=1, shuffle=False, verbose=0)


def test_steps_skipped_before_a_state_was_saved_raise_nothing(tmp_path):
    model, x, y = _model_and_data(num_bad=1)
    model.compile(LearnedOptimizer(SGD(0.1)), "mse")
    model.fit(x, y, batch_size=1, shuffle=False, verbose=0)
    model.save_weights(tmp_path / "of.weights.h5")
    other, x, y = _model_and_data(num_bad=0)
    other.compile(LearnedOptimizer(SGD(0.1), nan_policy="raise"), "mse")
    other.load_weights(tmp_path / "of.weights.h5")
    other.fit(x, y, batch_size=4, verbose=0)
    assert int(other.optimizer.num_skipped_steps) == 1


def test_fit_with_finite_gradients_raises_nothing():
    model, x, y = _model_and_data(num_bad=0)
    model.compile(LearnedOptimizer(SGD(0.1), nan_policy="raise"), "mse")
    model.fit(x, y, batch_size=4, verbose=0)


# Long runs


NUM_STEPS = 2_000


@pytest.fixture(scope="module", params=[*list_rules(), *HAND_DESIGNED])
def long_run(request):
    """A rule's name, its optimizer, the variable, and a run of gradients of a given size.

    It is traced once for all sizes. The optimizer and its variable begin anew for each.
    """
    # And one step at the end.
    optimizer = optimizer_of(request.param, NUM_STEPS + 1)
    variable = keras.Variable(np.ones(NUM_COORDINATES, np.float32))
    optimizer.build([variable])
    signs = tf.constant([1.0, -1.0] * (NUM_COORDINATES // 2))

    @tf.function
    def run(size, num_steps):
        for step in tf.range(num_steps):
            # Half of the coordinates keep their sign, half change it at each step.
            flip = tf.where(tf.range(NUM_COORDINATES) % 4 < 2, 1.0, 1.0 - 2.0 * float(step % 2))
            optimizer.apply([size * signs * flip], [variable])

    values = [variable, *optimizer.variables, *optimizer._gradient_history.keras_variables]
    initial_values = [one.numpy() for one in values]

    def begin() -> None:
        for one, value in zip(values, initial_values, strict=True):
            one.assign(value)

    return request.param, optimizer, variable, run, begin


# Those that keep means of squares.
OF_SQUARES = ("adam", "general", "mnist_rnnprop_distilled")


@pytest.mark.slow
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e10, 1e30])
def test_states_stay_bounded_over_many_steps_of_extreme_gradients(long_run, size):
    name, optimizer, variable, run, begin = long_run
    is_learned = name not in HAND_DESIGNED
    begin()

    def largest() -> float:
        state = [one for one in optimizer.variables if one.name.startswith("state_")]
        return max(float(np.abs(one.numpy()).max()) for one in state if len(one.shape))

    half = tf.constant(size), tf.constant(NUM_STEPS // 2)
    run(*half)
    halfway = largest()
    run(*half)
    assert np.isfinite(largest())
    # A cell adds at most 1 at a step; what is averaged stays below the largest, and its square. Of
    # the first half, up to 29 steps are left out.
    assert largest() <= max(2.07 * halfway, 1e-30)
    squares = max(size, size**2)
    averaged = squares if name in OF_SQUARES else {"momentum": size}.get(name, 0.0)
    if is_learned:
        rule = load_rule(name)
        parts = rule.parts.values() if isinstance(rule, RoutedRule) else [rule]
        if any(isinstance(part, RNNprop) for part in parts):
            averaged = size
    assert largest() <= max(NUM_STEPS if is_learned else 0.0, 1.01 * averaged)
    # What begins with large gradients is followed soon.
    assert int(optimizer.num_outlier_steps) <= {1e10: 8, 1e30: 29}.get(size, 0)
    # The square of 1e30 is no float32: steps that need it are skipped, and leave the rule usable.
    skipped = int(optimizer.num_skipped_steps)
    all_skipped = name in OF_SQUARES and size == 1e30
    assert skipped == (NUM_STEPS if all_skipped else int(optimizer.num_outlier_steps))
    before = variable.numpy()
    optimizer.apply([tf.ones([NUM_COORDINATES])], [variable])
    assert np.isfinite(variable.numpy()).all()
    assert is_learned or size == 1e10 or np.any(variable.numpy() != before)
