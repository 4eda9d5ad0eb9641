"""An optimizer that must know how long training is."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import l2l_tf
from l2l_tf.rules import SGD, GeneralRule, Muon, NAdam, Route
from tests.delivery.linear_rule import LinearRule

X = np.random.default_rng(0).standard_normal((32, 3)).astype(np.float32)
Y = X[:, :1] ** 2
_MISSING = "num_steps must be the number of steps"


def _optimizer(num_steps=None, **arguments) -> l2l_tf.LearnedOptimizer:
    return l2l_tf.LearnedOptimizer(GeneralRule(seed=0), num_steps=num_steps, **arguments)


def _model(optimizer, is_built=True, **arguments) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(optimizer, "mse", **{"jit_compile": False} | arguments)
    if is_built:
        # A step that makes variables is traced twice.
        model.optimizer.build(model.trainable_variables)
    return model


def _fit(model, epochs=1, **arguments):
    return model.fit(X, Y, batch_size=8, epochs=epochs, verbose=0, shuffle=False, **arguments)


def test_without_num_steps_training_ends_before_its_first_step():
    model = _model(_optimizer(), is_built=False)
    before = model.get_weights()[0]
    with pytest.raises(ValueError, match=_MISSING):
        _fit(model)
    np.testing.assert_array_equal(model.get_weights()[0], before)


def test_what_is_missing_is_said_in_one_sentence_with_what_to_do():
    with pytest.raises(ValueError) as raised:
        _fit(_model(l2l_tf.load("general"), is_built=False))
    assert str(raised.value) == (
        "num_steps must be the number of steps of the whole training, which this rule must know. "
        "Received: num_steps=None. Give epochs times steps per epoch, as in "
        'l2l_tf.load("general", num_steps=10 * 938), or pass '
        "callbacks=[l2l_tf.NumStepsFromFit()] to fit."
    )


def test_so_does_a_loop_of_ones_own():
    variable = keras.Variable([1.0, 2.0])
    with pytest.raises(ValueError, match=_MISSING):
        _optimizer().apply([tf.ones([2])], [variable])


@pytest.mark.parametrize("num_steps", [0, -1, 2.5, True, "10", 2**31])
def test_num_steps_must_be_a_count(num_steps):
    with pytest.raises(ValueError, match="num_steps"):
        _optimizer(num_steps)
    optimizer = _optimizer(5)
    with pytest.raises(ValueError, match="num_steps"):
        optimizer.num_steps = num_steps
    assert optimizer.num_steps == 5


def test_a_rule_that_needs_no_num_steps_ignores_it():
    weights = []
    for num_steps in (None, 1):
        model = _model(l2l_tf.LearnedOptimizer(SGD(0.1), num_steps=num_steps))
        _fit(model)
        weights.append(model.get_weights()[0])
    np.testing.assert_array_equal(*weights)


def test_a_route_may_need_it_alone():
    with pytest.raises(ValueError, match=_MISSING):
        l2l_tf.LearnedOptimizer(SGD(0.1), [Route(GeneralRule(seed=0), name="kernel")]).apply(
            [tf.ones([2, 2])], [keras.Variable(np.ones((2, 2)), name="kernel")]
        )


def test_the_callback_takes_it_from_fit():
    given, told = _model(_optimizer(12)), _model(_optimizer(), is_built=False)
    _fit(given, 3)
    _fit(told, 3, callbacks=[l2l_tf.NumStepsFromFit()])
    assert told.optimizer.num_steps == 12
    np.testing.assert_array_equal(told.get_weights()[0], given.get_weights()[0])


def test_it_adds_the_steps_that_were_taken_before():
    model, callback = _model(_optimizer()), l2l_tf.NumStepsFromFit()
    _fit(model, callbacks=[callback])
    _fit(model, 2, callbacks=[callback])
    assert model.optimizer.num_steps == 4 + 8
    # Of epochs that are left out, it knows.
    _fit(model, 5, initial_epoch=3, callbacks=[callback])
    assert model.optimizer.num_steps == 12 + 8


def test_it_counts_updates_where_gradients_are_accumulated():
    model = _model(_optimizer(gradient_accumulation_steps=2))
    _fit(model, 3, callbacks=[l2l_tf.NumStepsFromFit()])
    assert model.optimizer.num_steps == 6


@pytest.mark.parametrize("rule", [GeneralRule(seed=0), NAdam(0.1), Muon(0.1)])
def test_accumulated_gradients_are_one_step_of_a_rule(rule):
    draw = np.random.default_rng(0)
    gradients = [tf.constant(draw.standard_normal((3, 2)), tf.float32) for _ in range(4)]
    moved = []
    for num_accumulated in (None, 2):
        variable = keras.Variable(np.ones((3, 2), np.float32))
        optimizer = l2l_tf.LearnedOptimizer(
            rule, num_steps=4, gradient_accumulation_steps=num_accumulated
        )
        for gradient in gradients:
            for _ in range(num_accumulated or 1):
                optimizer.apply([gradient], [variable])
        assert optimizer.num_taken_steps == 4
        moved.append(variable.numpy())
    np.testing.assert_allclose(*moved, rtol=1e-6)


def test_steps_that_were_skipped_are_not_among_those_taken_before():
    model = _model(_optimizer(4))
    model.fit(np.full_like(X, np.nan), Y, batch_size=8, verbose=0)
    _fit(model, callbacks=[l2l_tf.NumStepsFromFit()])
    assert (model.optimizer.num_steps, model.optimizer.num_taken_steps) == (4, 4)


def test_it_refuses_other_optimizers():
    with pytest.raises(ValueError, match="must be used with a LearnedOptimizer"):
        _fit(_model("adam"), callbacks=[l2l_tf.NumStepsFromFit()])


def test_it_finds_the_optimizer_inside_one_that_scales_losses():
    model = _model(keras.optimizers.LossScaleOptimizer(_optimizer()))
    _fit(model, 2, callbacks=[l2l_tf.NumStepsFromFit()])
    assert model.optimizer.inner_optimizer.num_steps == 8


def test_it_says_so_where_the_data_have_no_end():
    data = tf.data.Dataset.from_generator(
        lambda: iter([(X, Y)]), output_signature=(tf.TensorSpec([32, 3]), tf.TensorSpec([32, 1]))
    )
    with pytest.raises(ValueError, match="steps_per_epoch"):
        _model(_optimizer()).fit(
            data, shuffle=False, verbose=0, callbacks=[l2l_tf.NumStepsFromFit()]
        )


def test_after_the_last_step_nothing_moves_and_one_line_says_so(capfd):
    model = _model(_optimizer(4))
    _fit(model)
    capfd.readouterr()
    before = model.get_weights()[0]
    for _ in range(2):
        _fit(model)
        np.testing.assert_array_equal(model.get_weights()[0], before)
    # A skipped step repeats the number of the one before.
    model.fit(np.full_like(X, np.nan), Y, batch_size=8, verbose=0)
    assert capfd.readouterr().err.count("It stands still from now on.") == 1


def test_under_xla_fit_warns_once_at_its_end():
    model = _model(_optimizer(3), jit_compile=True)
    with pytest.warns(UserWarning, match="told to train for 3 steps"):
        _fit(model)
    _fit(model)  # A second warning would be an error.


def test_set_anew_it_goes_on():
    model = _model(_optimizer(4))
    _fit(model)
    before = model.get_weights()[0]
    model.optimizer.num_steps = 8
    _fit(model)
    assert np.abs(model.get_weights()[0] - before).max() > 1e-4


def test_skipped_steps_do_not_count():
    variable, optimizer = keras.Variable([1.0, 2.0]), _optimizer(2)
    gradients = [[1.0, 1.0], [np.nan, 1.0], [np.nan, 1.0], [1.0, 1.0]]
    moves = []
    for gradient in gradients:
        before = variable.numpy()
        optimizer.apply([tf.constant(gradient)], [variable])
        moves.append(np.abs(variable.numpy() - before).max())
    assert moves[3] > 0
    assert moves[1] == moves[2] == 0


def test_a_saved_model_goes_on_to_the_same_end(tmp_path):
    model = _model(_optimizer(8))
    _fit(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.num_steps == 8
    for one in (model, loaded):
        _fit(one)
    np.testing.assert_array_equal(loaded.get_weights()[0], model.get_weights()[0])


def test_a_state_tells_what_the_constructor_did_not(tmp_path):
    model = _model(_optimizer(8))
    _fit(model)
    model.save_weights(tmp_path / "model.weights.h5")
    other = _model(_optimizer())
    _fit(other, callbacks=[l2l_tf.NumStepsFromFit()])
    other.load_weights(tmp_path / "model.weights.h5")
    assert other.optimizer.num_steps == 8


def test_a_checkpoint_holds_it(tmp_path):
    first, second = _optimizer(8), _optimizer(3)
    variable = keras.Variable([1.0, 2.0])
    for optimizer in (first, second):
        optimizer.build([variable])
    path = tf.train.Checkpoint(optimizer=first).save(str(tmp_path / "checkpoint"))
    tf.train.Checkpoint(optimizer=second).restore(path).assert_consumed()
    assert second.num_steps == 8


def test_a_damaged_number_in_a_state_is_refused():
    optimizer = _optimizer(8)
    optimizer.build([keras.Variable([1.0, 2.0])])
    store: dict[str, np.ndarray] = {}
    optimizer.save_own_variables(store)
    for damaged in (np.array(0), np.array([8]), np.array(8.5)):
        with pytest.raises(ValueError, match="invalid number of steps"):
            optimizer.load_own_variables(store | {"num_steps": damaged})
    assert optimizer.num_steps == 8


def test_states_and_checkpoints_of_other_rules_have_no_such_entry(tmp_path):
    optimizer = l2l_tf.LearnedOptimizer(LinearRule())
    optimizer.build([keras.Variable([1.0, 2.0])])
    store: dict[str, np.ndarray] = {}
    optimizer.save_own_variables(store)
    assert "num_steps" not in store
    path = tf.train.Checkpoint(optimizer).write(str(tmp_path / "checkpoint"))
    assert not any("num_steps" in name for name, _ in tf.train.list_variables(path))


def test_on_two_devices_it_takes_the_steps_of_one(two_devices):
    gradient = tf.constant([[0.3, -0.2], [0.1, 0.4]])
    alone = keras.Variable(np.ones((2, 2)))
    optimizer = _optimizer(3)
    for _ in range(3):
        optimizer.apply([2 * gradient], [alone])
    with two_devices.scope():
        variable, optimizer = keras.Variable(np.ones((2, 2))), _optimizer(3)
        optimizer.build([variable])

    @tf.function(autograph=False)
    def step():
        two_devices.run(lambda: optimizer.apply([gradient], [variable]))

    for _ in range(3):
        step()
    np.testing.assert_allclose(variable.numpy(), alone.numpy(), rtol=1e-5)
