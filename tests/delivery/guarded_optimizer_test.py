import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import l2l_tf
from l2l_tf.delivery import LearnedOptimizer
from l2l_tf.rules import (
    SGD,
    Adam,
    AdamW,
    CoordinatewiseLSTM,
    GeneralRule,
    Guarded,
    NAdam,
    RNNprop,
    Route,
    RoutedRule,
    guarded,
)
from tests.rules.guards.toys import Times

_NO_DECAY = {AdamW: {"weight_decay": 0.0}}

X = np.random.default_rng(0).standard_normal((32, 3)).astype(np.float32)


def _lstm(seed=0):
    return CoordinatewiseLSTM((4,), output_stddev=0.3, seed=seed)


def _variables():
    return [keras.Variable(np.ones((3, 2), np.float32)), keras.Variable(np.ones(2, np.float32))]


def _after_steps(optimizer, num_steps=3, jit_compile=False):
    """Returns the variables after steps with gradients that depend on them."""
    variables = _variables()
    optimizer.build(variables)

    @tf.function(autograph=False, jit_compile=jit_compile)
    def step():
        gradients = [0.5 * tf.convert_to_tensor(one) + 0.1 for one in variables]
        optimizer.apply(gradients, variables)

    for _ in range(num_steps):
        step()
    return np.concatenate([np.ravel(one.numpy()) for one in variables])


def _model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(1)]
    )


def _fit(model, epochs=1, callbacks=()):
    # A step that makes variables is traced twice.
    with model.distribute_strategy.scope():
        model.optimizer.build(model.trainable_variables)
    return model.fit(
        X, X[:, :1], batch_size=8, epochs=epochs, verbose=0, shuffle=False, callbacks=callbacks
    )


# One step


def test_theta_of_zero_is_the_fallback_and_a_large_one_is_the_rule():
    for theta, alone in ((0.0, Adam(0.01)), (1e30, _lstm())):
        one = _after_steps(LearnedOptimizer(Guarded(_lstm(), Adam(0.01), theta=theta)))
        np.testing.assert_array_equal(one, _after_steps(LearnedOptimizer(alone)))


def test_xla_chunks_and_rounded_states_do_what_one_call_does():
    rule = Guarded(_lstm(), Adam(0.01), theta=0.7, scope="all")
    expected = _after_steps(LearnedOptimizer(rule))
    chunked = LearnedOptimizer(rule, chunk_size=3)
    np.testing.assert_allclose(_after_steps(chunked), expected, rtol=1e-6)
    assert any("chunks" in one.name for one in chunked.variables)
    compiled = _after_steps(LearnedOptimizer(rule), jit_compile=True)
    np.testing.assert_allclose(compiled, expected, rtol=1e-5)
    rounded = _after_steps(LearnedOptimizer(rule, chunk_size=3, state_dtype="bfloat16"))
    np.testing.assert_allclose(rounded, expected, rtol=1e-2)


def test_a_proposal_that_is_not_finite_is_replaced_where_it_would_have_been_skipped():
    alone = LearnedOptimizer(Times(np.nan))
    assert (_after_steps(alone) == 1).all()
    assert int(alone.num_skipped_steps.numpy()) == 3
    inside = LearnedOptimizer(Guarded(Times(np.nan), Adam(0.01)))
    np.testing.assert_array_equal(_after_steps(inside), _after_steps(LearnedOptimizer(Adam(0.01))))
    assert int(inside.num_skipped_steps.numpy()) == 0
    assert (inside.num_guarded_steps, inside.mean_cut_share) == (3, 1)


@pytest.mark.parametrize("chunk_size", [None, 3])
def test_a_corrupted_state_recovers(chunk_size):
    optimizer = LearnedOptimizer(Guarded(_lstm(), Adam(0.01)), chunk_size=chunk_size)
    _after_steps(optimizer, 1)
    states = [one for one in optimizer.variables if "state_0_rule" in one.name]
    states[0].assign(np.full(states[0].shape, np.nan))
    variables = _variables()
    optimizer.apply([tf.ones(one.shape) for one in variables], optimizer.built_variables)
    assert int(optimizer.num_skipped_steps.numpy()) == 0
    assert all(np.isfinite(one.numpy()).all() for one in states)


def test_a_budget_is_spent_in_the_optimizer():
    rule = Guarded(Times(9.0), SGD(0.1), "budget", 0.5, budget=1.0, spending=0.5)
    optimizer = LearnedOptimizer(rule)
    _after_steps(optimizer, 2)
    (left,) = [one for one in optimizer.variables if one.name.endswith("budget_left")]
    np.testing.assert_allclose(left.numpy(), 0.25)


def test_several_devices_take_the_same_step(two_devices):
    rule = Guarded(_lstm(), AdamW(0.01))
    with two_devices.scope():
        model = _model()
        model.compile(LearnedOptimizer(rule), "mse", jit_compile=False)
    _fit(model)
    alone = _model()
    alone.compile(LearnedOptimizer(rule), "mse", jit_compile=False)
    _fit(alone)
    for one, other in zip(model.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert model.optimizer.num_guarded_steps == 4
    model.optimizer.hand_over(2)
    numbers = {one.name: one.numpy() for one in model.optimizer.variables}
    assert int(numbers["state_0_fallback_until"]) == 6
    assert int(numbers["state_0_new_since"]) == 4
    of_fallback = [one for name, one in numbers.items() if "state_0_fallback_" in name]
    assert max(np.abs(one).max() for one in of_fallback if one.ndim) == 0


# Loading and saving


def test_load_puts_a_shipped_rule_inside_a_guard():
    optimizer = l2l_tf.load("mnist_rnnprop", replay=False, guard=Adam(0.01))
    (rule,) = optimizer._hidden.rules
    assert rule.settings.mode == "trust"
    assert isinstance(rule.rule, RNNprop)
    settings = {"fallback": SGD(0.1), "mode": "relative", "theta": 0.5}
    optimizer = l2l_tf.load("mnist_rnnprop", replay=False, guard=settings)
    assert optimizer._hidden.rules[0].settings.theta == 0.5


@pytest.mark.parametrize("guard", ["adam", True, Adam, {"fallback": "adam"}])
def test_a_guard_that_is_no_rule_is_named(guard):
    with pytest.raises(TypeError) as raised:
        l2l_tf.load("mnist_rnnprop", replay=False, guard=guard)
    received = guard["fallback"] if isinstance(guard, dict) else guard
    assert str(raised.value) == (
        "guard must be a hand-designed rule, or a dictionary with one as its fallback. "
        f"Received: {received!r}. Give, say, l2l_tf.rules.Adam(0.001)."
    )


@pytest.mark.parametrize(
    "guard", [{"theta": 1.0}, {"fallback": Adam(0.1), "thta": 1.0}, {"fallback": 1, "rule": 2}]
)
def test_other_keys_of_a_guard_are_refused(guard):
    with pytest.raises(ValueError) as raised:
        l2l_tf.load("mnist_rnnprop", replay=False, guard=guard)
    assert str(raised.value) == (
        "guard must hold a \"fallback\", and of ['adapts', 'backtracking', 'budget', 'mode', "
        f"'scope', 'spending', 'theta'] what is not to be chosen. Received: guard with "
        f'{list(guard)}. Give, say, {{"fallback": l2l_tf.rules.Adam(0.001), "theta": 1.0}}.'
    )


def test_each_part_of_a_rule_is_guarded():
    parts = RoutedRule(_lstm(), [Route(_lstm(1), kind="dense")])
    optimizer = LearnedOptimizer(guarded(parts, Adam(0.01), theta=0.5))
    _after_steps(optimizer, 2)
    assert optimizer.num_guarded_steps == 4


def test_a_model_is_saved_with_its_guard_and_goes_on(tmp_path):
    model = _model()
    rule = Guarded(_lstm(), Adam(0.01), theta=0.7)
    model.compile(LearnedOptimizer(rule), "mse", jit_compile=False)
    _fit(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.num_guarded_steps == model.optimizer.num_guarded_steps == 4
    for one in (model, loaded):
        _fit(one)
    for one, other in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_backtracking_is_refused():
    rule = Guarded(_lstm(), SGD(0.1), "relative", 0.5, backtracking=True)
    with pytest.raises(ValueError, match="backtracking must be left out in Keras"):
        LearnedOptimizer(rule).build(_variables())


# Callbacks


def test_the_report_counts_the_guarded_steps_of_each_epoch():
    model = _model()
    model.compile(LearnedOptimizer(Guarded(Times(5.0), Adam(0.01), theta=1.0)), "mse")
    seen = []
    later = keras.callbacks.LambdaCallback(on_epoch_end=lambda _, logs: seen.append(dict(logs)))
    history = _fit(model, 2, [l2l_tf.GuardReport(), later]).history
    assert history["guarded_steps"] == [4, 4]
    assert all(0 < share <= 1 for share in history["cut_share"])
    assert [logs["guarded_steps"] for logs in seen] == [4, 4]


def test_mixed_precision_is_reported_too():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = _model()
        optimizer = LearnedOptimizer(Guarded(Times(5.0), Adam(0.01)))
        model.compile(optimizer, "mse", jit_compile=False)
        history = _fit(model, 1, [l2l_tf.GuardReport()]).history
    finally:
        keras.config.set_dtype_policy("float32")
    assert history["guarded_steps"] == [optimizer.num_guarded_steps]
    assert optimizer.num_guarded_steps > 0


@pytest.mark.parametrize("callback", [l2l_tf.GuardReport, l2l_tf.LossGuard])
def test_callbacks_need_a_guard(callback):
    model = _model()
    model.compile("adam", "mse")
    with pytest.raises(ValueError, match=f"{callback.__name__} must be used with a LearnedOptim"):
        _fit(model, callbacks=[callback()])


def test_the_loss_guard_goes_back_and_hands_over():
    model = _model()
    # It climbs, and the guard lets it.
    optimizer = LearnedOptimizer(Guarded(Times(0.5), SGD(0.05), theta=1e6))
    model.compile(optimizer, "mse", jit_compile=False)
    guard = l2l_tf.LossGuard(every=2, patience=3)
    _fit(model, 6, [guard])
    assert guard.num_returns >= 1
    assert model.evaluate(X, X[:, :1], verbose=0) < 10
    alone = _model()
    alone.compile(LearnedOptimizer(Times(0.5)), "mse", jit_compile=False)
    _fit(alone, 6)
    assert not alone.evaluate(X, X[:, :1], verbose=0) < 1e4


def test_in_a_loop_of_its_own_the_loss_guard_restores_weights_and_state():
    model = _model()
    optimizer = LearnedOptimizer(Guarded(_lstm(), Adam(0.05), theta=1e6))
    model.compile(optimizer, "mse", jit_compile=False)
    optimizer.build(model.trainable_variables)
    guard = l2l_tf.LossGuard(every=2, margin=0.5, patience=1)
    guard.set_model(model)
    gradients = [tf.ones(one.shape) for one in model.trainable_variables]
    kept = None
    for loss in (1.5, 1.0, np.nan, 2.0):
        optimizer.apply(gradients, model.trainable_variables)
        went_back = guard.note(loss)
        kept = model.get_weights() if loss == 1.0 else kept
    assert went_back
    assert guard.num_returns == 1
    for one, other in zip(model.get_weights(), kept, strict=True):
        np.testing.assert_array_equal(one, other)
    states = [one for one in optimizer.variables if "state_0_rule" in one.name]
    assert max(np.abs(one.numpy()).max() for one in states) == 0
    # The fallback takes one step, as if it were its first.
    optimizer.apply(gradients, model.trainable_variables)
    np.testing.assert_allclose(model.get_weights()[0], kept[0] - 0.05, rtol=1e-4)


def test_a_return_at_the_end_of_an_epoch_leaves_its_logs():
    model = _model()
    optimizer = LearnedOptimizer(Guarded(Times(0.5), SGD(0.05), theta=1e6))
    model.compile(optimizer, "mse", jit_compile=False, metrics=["mae"])
    guard = l2l_tf.LossGuard(every=4)
    history = _fit(model, 6, [guard]).history
    assert guard.num_returns >= 1
    assert min(history["loss"]) > 0.5
    assert min(history["mae"]) > 0.5


def test_metrics_begin_anew_with_the_next_batch_where_the_mean_would_hide_it():
    model = _model()
    optimizer = LearnedOptimizer(Guarded(Times(0.5), SGD(0.05)))
    model.compile(optimizer, "mse", jit_compile=False)
    optimizer.build(model.trainable_variables)
    # As in Keras, the mean is that of the batches since the last reset.
    losses, num_losses = [], []
    model.reset_metrics = losses.clear
    guard = l2l_tf.LossGuard(every=1)
    guard.set_model(model)
    guard.on_train_begin()
    guard.on_epoch_begin(0)
    for batch, loss in enumerate((2.0, 2.0, 3.0, math.nan, 2.0, 1e9, 2.0)):
        guard.on_train_batch_begin(batch)
        losses.append(loss)
        num_losses.append(len(losses))
        guard.on_train_batch_end(batch, {"loss": float(np.mean(losses))})
    # It goes back for 3 as well, which hides nothing.
    assert guard.num_returns == 3
    assert num_losses == [1, 2, 3, 4, 1, 2, 1]


def test_a_loss_is_not_noted_without_a_guard():
    with pytest.raises(ValueError) as raised:
        l2l_tf.LossGuard(every=1).note(1.0)
    assert str(raised.value) == (
        "A LossGuard must know the model to restore its weights. Received: a loss before a model. "
        "Call set_model first."
    )
    model = _model()
    model.compile("adam", "mse")
    guard = l2l_tf.LossGuard(every=1)
    guard.set_model(model)
    with pytest.raises(ValueError, match="LossGuard must be used with a LearnedOptimizer"):
        guard.note(1.0)


@pytest.mark.parametrize("fallback", [Adam, AdamW, NAdam])
def test_after_a_hand_over_the_fallback_takes_its_first_steps_again(fallback):
    rule = Guarded(_lstm(), fallback(0.01, **_NO_DECAY.get(fallback, {})), theta=0)
    optimizer, variables = LearnedOptimizer(rule), _variables()
    gradients = [tf.fill(one.shape, 0.3) for one in variables]
    moves = []
    for step in range(60):
        if step == 50:
            optimizer.hand_over(5)
        before = variables[0].numpy()
        optimizer.apply(gradients, variables)
        moves.append(np.abs(variables[0].numpy() - before).max())
    np.testing.assert_allclose(moves[50:], moves[:10], rtol=1e-3)


def test_general_keeps_its_pace_through_a_hand_over():
    rule = GeneralRule(seed=0)
    optimizer, variables = LearnedOptimizer(Guarded(rule, Adam(0.01)), num_steps=50), _variables()
    gradients = [tf.ones(one.shape) for one in variables]
    for _ in range(8):
        optimizer.apply(gradients, variables)
    own = [one for one in optimizer.variables if "_rule_" in one.name]
    # Averages of the kernel and of the bias: the last of five is its persistence.
    persistence, square = own[4], own[2]
    before = persistence.numpy()
    assert before.item() > 0.5
    optimizer.hand_over(2)
    assert np.abs(square.numpy()).max() == 0
    np.testing.assert_array_equal(persistence.numpy(), before)
    for _ in range(4):
        optimizer.apply(gradients, variables)
    np.testing.assert_array_equal(persistence.numpy(), before)


def test_before_it_is_built_an_optimizer_does_not_hand_over():
    optimizer = LearnedOptimizer(Guarded(_lstm(), Adam(0.01)), name="mine")
    with pytest.raises(ValueError) as raised:
        optimizer.hand_over(5)
    assert str(raised.value) == (
        "An optimizer must be built to hand over to its fallback. Received: 'mine' before its "
        "first step. Build it for the variables first."
    )


def test_only_a_guarded_optimizer_hands_over():
    with pytest.raises(ValueError, match="must have a guard to hand over"):
        LearnedOptimizer(_lstm()).hand_over(3)
