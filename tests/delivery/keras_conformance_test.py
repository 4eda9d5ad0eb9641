"""Keras's requirements for its own optimizers, applied to ours around a rule that is exactly SGD.

Expected numbers come from gradient descent by hand, or from Keras's own SGD.
"""

import copy
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.delivery.learned_optimizer import LearnedOptimizer
from l2l_tf.rules import SGD
from tests.delivery.linear_rule import LinearRule

ONES = [[1.0, 1.0], [1.0, 1.0]]
START = [[1.0, 2.0], [3.0, 4.0]]


@pytest.fixture(params=["learned", "hand_designed"])
def make(request):
    """Returns a function that makes an optimizer whose step is the negative gradient."""
    rules = {"learned": LinearRule, "hand_designed": lambda: SGD(1.0)}
    return lambda **arguments: LearnedOptimizer(rules[request.param](), **arguments)


def _variable(value=START, **arguments) -> keras.Variable:
    return keras.Variable(np.array(value, np.float32), **arguments)


def _equal(actual, wanted):
    # Sums of a few numbers of order 1 in float32.
    np.testing.assert_allclose(keras.ops.convert_to_numpy(actual), wanted, rtol=1e-6, atol=1e-6)


# Steps


def test_iterations_are_counted(make):
    optimizer, variable = make(), _variable()
    for count in range(3):
        assert int(optimizer.iterations) == count
        optimizer.apply_gradients([(tf.constant(ONES), variable)])
    _equal(variable, np.array(START) - 3)


def test_a_step_is_the_negative_gradient(make):
    optimizer, variable = make(), _variable([1.0, 2.0, 3.0, 4.0])
    optimizer.apply([tf.constant([1.0, 6.0, 7.0, 2.0])], [variable])
    _equal(variable, [0.0, -4.0, -4.0, 2.0])


def test_apply_gradients_returns_the_iterations(make):
    optimizer = make()
    assert optimizer.apply_gradients([(tf.constant(ONES), _variable())]) is optimizer.iterations


def test_no_gradients_at_all_are_no_step(make):
    optimizer = make()
    optimizer.apply([], [])
    assert int(optimizer.iterations) == 0


def test_gradients_that_are_all_missing_are_refused(make):
    with pytest.raises(ValueError, match=r"No gradients provided for any variable\."):
        make().apply_gradients([(None, _variable())])


def test_a_missing_gradient_leaves_its_variable_alone(make):
    optimizer, without, moved = make(), _variable(), _variable()
    with pytest.warns(UserWarning, match="Gradients do not exist for variables"):
        optimizer.apply_gradients([(None, without), (tf.constant(ONES), moved)])
    _equal(without, START)
    _equal(moved, np.array(START) - 1)


def test_gradients_without_variables_are_for_those_it_was_built_with(make):
    optimizer, variable = make(), _variable()
    with pytest.raises(ValueError, match="must already be built"):
        optimizer.apply([tf.constant(ONES)])
    optimizer.build([variable])
    optimizer.apply([tf.constant(ONES)])
    _equal(variable, np.array(START) - 1)


@pytest.mark.parametrize("built", [False, True])
def test_more_gradients_than_variables_are_refused(make, built):
    optimizer, variable = make(), _variable()
    if built:
        optimizer.build([variable])
        with pytest.raises(ValueError, match="must match"):
            optimizer.apply([tf.constant(ONES), tf.constant(ONES)])
    else:
        with pytest.raises(ValueError, match="must already be built"):
            optimizer.apply([tf.constant(ONES), tf.constant(ONES)])


def test_variables_that_it_was_not_built_with_are_refused(make):
    optimizer = make()
    optimizer.apply([tf.constant(ONES)], [_variable()])
    with pytest.raises(ValueError, match="Unknown variable"):
        optimizer.apply([tf.constant(ONES)], [_variable()])


def test_variables_of_tensorflow_are_updated_beside_those_of_keras(make):
    optimizer, ours, theirs = make(), _variable(), tf.Variable(START)
    optimizer.apply_gradients([(tf.constant(ONES), ours), (tf.constant(ONES), theirs)])
    _equal(ours, np.array(START) - 1)
    _equal(theirs, np.array(START) - 1)
    with pytest.warns(UserWarning, match="Gradients do not exist for variables"):
        optimizer.apply_gradients([(tf.constant(ONES), ours), (None, theirs)])
    _equal(ours, np.array(START) - 2)
    _equal(theirs, np.array(START) - 1)


def test_a_variable_that_wants_its_gradient_itself_gets_it(make):
    overwritten, moved = _variable(), _variable()
    overwritten.overwrite_with_gradient = True
    make().apply_gradients([(tf.constant(ONES), overwritten), (tf.constant(ONES), moved)])
    _equal(overwritten, ONES)
    _equal(moved, np.array(START) - 1)


def test_sparse_gradients_move_the_rows_that_they_hold(make):
    optimizer, variable = make(), _variable(np.ones([5, 10]))
    # Row 4 twice: gradients of one row add up.
    gradient = tf.IndexedSlices(0.25 * tf.ones([4, 10]), tf.constant([0, 2, 4, 4]), (5, 10))
    optimizer.apply([gradient], [variable])
    moved = np.array([0.75, 1.0, 0.75, 1.0, 0.5])
    _equal(variable, np.tile(moved[:, np.newaxis], [1, 10]))


# Options


@pytest.mark.parametrize("option", ["clipnorm", "clipvalue", "global_clipnorm"])
def test_a_clipping_option_is_kept(make, option):
    assert getattr(make(**{option: 0.1}), option) == 0.1


def test_two_ways_to_clip_are_refused(make):
    with pytest.raises(ValueError, match="Only one of `clipnorm`, `clipvalue`"):
        make(clipnorm=0.1, clipvalue=0.1)


@pytest.mark.parametrize(
    ("option", "wanted"),
    [
        ("clipnorm", [[-(2**-0.5), -(2**-0.5)], [-0.6, -0.8]]),
        ("clipvalue", [[-1.0, -1.0], [-1.0, -1.0]]),
        # The norm over both is 100 * sqrt(1 + 1 + 9 + 16).
        ("global_clipnorm", [[-(27**-0.5)] * 2, [-3 * 27**-0.5, -4 * 27**-0.5]]),
    ],
)
def test_gradients_are_clipped_before_the_rule_sees_them(make, option, wanted):
    optimizer, variables = make(**{option: 1.0}), [_variable([0.0, 0.0]), _variable([0.0, 0.0])]
    optimizer.apply([tf.constant([100.0, 100.0]), tf.constant([300.0, 400.0])], variables)
    for variable, want in zip(variables, wanted, strict=True):
        _equal(variable, want)


@pytest.mark.parametrize("excluded", [{}, {"var_names": ["exclude"]}, {"var_list": True}])
def test_weight_decay_takes_off_its_share_of_what_is_not_excluded(make, excluded):
    optimizer = make(learning_rate=0.5, weight_decay=0.1)
    variables = [_variable(2.0, name="kernel"), _variable(3.0, name="exclude")]
    if excluded:
        listed = {"var_list": variables[1:]} if "var_list" in excluded else excluded
        optimizer.exclude_from_weight_decay(**listed)
    optimizer.apply([tf.constant(0.0), tf.constant(0.0)], variables)
    _equal(variables[0], 2.0 * 0.95)
    _equal(variables[1], 3.0 if excluded else 3.0 * 0.95)


def test_averages_of_weights_overwrite_them_when_asked_to(make):
    optimizer = make(use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=3)
    variable = _variable([[3.0, 4.0], [5.0, 6.0]])
    # 1.71 = .9 * (.9 * 2 + .1 * 1) + .1 * 0.
    for weight, average in [(2.0, 2.0), (1.0, 1.9), (1.71, 1.71)]:
        optimizer.apply_gradients([(tf.constant(ONES), variable)])
        offsets = np.array([[0.0, 1.0], [2.0, 3.0]])
        _equal(variable, weight + offsets)
        _equal(optimizer._model_variables_moving_average[0], average + offsets)


def test_averages_of_weights_take_their_place_after_fit(make):
    model = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(2, kernel_initializer="ones", use_bias=False)]
    )
    model.compile(
        make(learning_rate=0.1, use_ema=True, ema_momentum=0.9), loss="mse", jit_compile=False
    )
    model.fit(np.ones([1, 1]), np.zeros([1, 1]), epochs=2, verbose=0)
    # Weights go from 1 to .9 and .81, averages from .9 to .891.
    _equal(model.trainable_variables[0], [[0.891, 0.891]])


def test_constraints_hold_after_a_step(make):
    variable = _variable([[-1.0, 0.5], [-0.5, -2.0]])
    variable.constraint = keras.constraints.NonNeg()
    make(learning_rate=1e-4).apply_gradients([(tf.zeros([2, 2]), variable)])
    _equal(variable, [[0.0, 0.5], [0.0, 0.0]])


def test_a_fixed_scale_of_the_loss_is_taken_out_of_gradients(make):
    optimizer, variable = make(loss_scale_factor=1024.0), _variable()
    optimizer.apply_gradients([(1024.0 * tf.constant(START), variable)])
    assert optimizer.scale_loss(1.0) == 1024.0
    _equal(variable, np.zeros([2, 2]))


def test_gradients_are_accumulated_until_it_is_time_for_a_step(make):
    optimizer, variable = make(gradient_accumulation_steps=3), _variable()
    for call, (steps, accumulated) in enumerate([(0, 1), (0, 2), (1, 0), (1, 1)], start=1):
        optimizer.apply_gradients([(tf.constant(ONES), variable)])
        _equal(variable, np.array(START) - steps)
        _equal(optimizer._accumulated_gradients[0], accumulated * np.ones([2, 2]))
        assert int(optimizer._iterations) == call
        assert int(optimizer.iterations) == steps


def test_three_accumulated_gradients_with_weight_decay_are_their_mean_in_one_step(make):
    once, thrice = make(weight_decay=0.05), make(weight_decay=0.05, gradient_accumulation_steps=3)
    variables = _variable([[0.9], [0.5]]), _variable([[0.9], [0.5]])
    draw = np.random.default_rng(0)
    for _ in range(8):
        gradients = draw.random([3, 2, 1]).astype(np.float32)
        once.apply_gradients([(tf.constant(gradients.mean(axis=0)), variables[0])])
        for gradient in gradients:
            thrice.apply_gradients([(tf.constant(gradient), variables[1])])
    _equal(variables[0], variables[1])


# The learning rate


@pytest.mark.parametrize(
    "learning_rate",
    [0.1, lambda: 0.1, keras.optimizers.schedules.PiecewiseConstantDecay([9], [0.1, 1.0])],
)
def test_the_learning_rate_multiplies_deltas(make, learning_rate):
    optimizer, variable = make(learning_rate=learning_rate), _variable()
    optimizer.apply_gradients([(tf.constant(ONES), variable)])
    _equal(variable, np.array(START) - 0.1)


def test_the_learning_rate_is_one_and_can_be_set(make):
    optimizer, variable = make(), _variable()
    assert float(optimizer.learning_rate) == 1.0
    optimizer.learning_rate = 0.25
    optimizer.apply_gradients([(tf.constant(ONES), variable)])
    _equal(variable, np.array(START) - 0.25)


def test_an_integer_is_a_learning_rate_too(make):
    assert float(make(learning_rate=2).learning_rate) == 2.0


def test_a_schedule_in_place_of_a_number_is_no_variable(make):
    optimizer = make(learning_rate=0.1)
    count = len(optimizer.variables)
    optimizer.learning_rate = keras.optimizers.schedules.PolynomialDecay(0.1, 4)
    assert len(optimizer.variables) == count - 1


# Weights, names, configuration


def test_weights_of_one_optimizer_are_set_in_another(make):
    first, second, variable = make(), make(), _variable()
    first.apply_gradients([(tf.constant(START), variable)])
    weights = [weight.numpy() for weight in first.variables]
    with pytest.raises(ValueError, match="You are calling"):
        second.set_weights(weights)
    second.build([variable])
    second.set_weights(weights)
    for one, other in zip(first.variables, second.variables, strict=True):
        np.testing.assert_array_equal(one, other)


def test_optimizers_are_named_and_keep_their_names(make):
    first, second = make(), make()
    stem, _, number = first.name.partition("learned_optimizer")
    assert stem == ""
    following = int(number.lstrip("_") or 0) + 1
    assert second.name == f"learned_optimizer_{following}"
    for optimizer in (second, make(name="mine")):
        config = keras.optimizers.serialize(optimizer)
        assert keras.optimizers.deserialize(config).name == optimizer.name


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
@pytest.mark.parametrize("steps", [0, 2])
def test_a_copy_goes_on_as_the_original_does(make, duplicate, steps):
    optimizer, variable = make(clipnorm=3.0, weight_decay=0.01), _variable()
    for _ in range(steps):
        optimizer.apply_gradients([(tf.constant(ONES), variable)])
    reloaded, other = duplicate(optimizer), _variable(variable.numpy())
    assert reloaded.get_config() == optimizer.get_config()
    assert int(reloaded.iterations) == steps
    for one, where in ((optimizer, variable), (reloaded, other)):
        one.apply_gradients([(tf.constant(ONES), where)])
    _equal(other, variable)
    for one, two in zip(optimizer.variables, reloaded.variables, strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_checkpoint_of_tensorflow_restores_model_and_optimizer(make, tmp_path):
    keras.utils.set_random_seed(0)
    model, optimizer = keras.Sequential([keras.layers.Dense(2)]), make(learning_rate=0.1)
    x, y = np.random.default_rng(0).random([2, 3, 2])
    model.compile(optimizer, "mse", jit_compile=False)
    model.train_on_batch(x, y)
    before = model.predict(x, verbose=0)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer)
    path = checkpoint.save(str(tmp_path / "checkpoint"))
    model.train_on_batch(x, y)
    assert np.abs(model.predict(x, verbose=0) - before).max() > 1e-3
    checkpoint.restore(path).assert_consumed()
    _equal(model.predict(x, verbose=0), before)
    assert int(optimizer.iterations) == 1


# Under a strategy with two devices, in a replica's own code


def _run(strategy, optimizer, variable, gradient=ONES):
    strategy.run(lambda: optimizer.apply_gradients([(tf.constant(gradient), variable)]))


def test_gradients_of_two_replicas_are_summed(make, two_devices):
    with two_devices.scope():
        optimizer, variable = make(learning_rate=0.5), tf.Variable([1.0, 2.0, 3.0, 4.0])
    _run(two_devices, optimizer, variable, [1.0, 6.0, 7.0, 2.0])
    _equal(variable, [0.0, -4.0, -4.0, 2.0])
    for copy_of_one_device in variable.values:
        _equal(copy_of_one_device, [0.0, -4.0, -4.0, 2.0])


def test_a_configuration_is_the_same_under_a_strategy(make, two_devices):
    with two_devices.scope():
        optimizer = make(learning_rate=0.5, weight_decay=0.004)
        rebuilt = LearnedOptimizer.from_config(optimizer.get_config())
    assert rebuilt.get_config() == optimizer.get_config()


@pytest.mark.parametrize("excluded", [False, True])
def test_weight_decay_is_taken_once_for_all_replicas(make, two_devices, excluded):
    with two_devices.scope():
        optimizer, variable = make(weight_decay=0.004), _variable(2.0)
        if excluded:
            optimizer.exclude_from_weight_decay(var_list=[variable])
    _run(two_devices, optimizer, variable, 0.0)
    _equal(variable, 2.0 if excluded else 2.0 * 0.996)


def test_nesterov_momentum_on_two_replicas_is_that_of_keras_on_one(two_devices):
    with two_devices.scope():
        optimizer = LearnedOptimizer(SGD(0.05, momentum=0.9, nesterov=True))
        variable = _variable(np.ones([10]))
    single, wanted = keras.optimizers.SGD(0.05, 0.9, True), _variable(np.ones([10]))
    gradients = [np.arange(0.1, 1.1, 0.1, np.float32), *np.full([5, 10], 0.01, np.float32)]
    for gradient in gradients:
        _run(two_devices, optimizer, variable, gradient)
        single.apply([tf.constant(2 * gradient)], [wanted])
        _equal(variable, wanted)


@pytest.mark.parametrize("option", ["clipnorm", "clipvalue"])
def test_gradients_are_clipped_on_each_replica(make, two_devices, option):
    with two_devices.scope():
        optimizer, variable = make(**{option: 1.0}), _variable([0.0, 0.0])
    _run(two_devices, optimizer, variable, [100.0, 100.0])
    _equal(variable, np.full([2], -2 * (2**-0.5 if option == "clipnorm" else 1.0)))


def test_there_is_no_stateless_step_with_tensorflow(make):
    optimizer, variable = make(), _variable()
    optimizer.build([variable])
    with pytest.raises(ValueError, match="stateless_apply is not supported"):
        optimizer.stateless_apply(optimizer.variables, [tf.constant(ONES)], [variable])


def test_averages_of_weights_are_kept_on_each_replica(make, two_devices):
    with two_devices.scope():
        optimizer = make(
            learning_rate=0.5, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=3
        )
        variable = _variable([[3.0, 4.0], [5.0, 6.0]])
        for weight, average in [(2.0, 2.0), (1.0, 1.9), (1.71, 1.71)]:
            _run(two_devices, optimizer, variable)
            offsets = np.array([[0.0, 1.0], [2.0, 3.0]])
            _equal(variable, weight + offsets)
            _equal(optimizer._model_variables_moving_average[0], average + offsets)


def test_gradients_are_accumulated_on_each_replica(make, two_devices):
    with two_devices.scope():
        optimizer = make(learning_rate=0.5, gradient_accumulation_steps=3)
        variable = _variable()
        for steps, accumulated in [(0, 1), (0, 2), (1, 0)]:
            _run(two_devices, optimizer, variable)
            _equal(variable, np.array(START) - steps)
            _equal(optimizer._accumulated_gradients[0], accumulated * np.ones([2, 2]))
