"""LearnedOptimizer in `fit`: with each option of Keras, saved and resumed, on several devices."""

import copy
import dataclasses
import functools
import pickle
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import l2l_tf
from l2l_tf.delivery.learned_optimizer import LearnedOptimizer
from l2l_tf.rules import SGD, CoordinatewiseLSTM, Route
from tests.delivery.linear_rule import LinearRule

# Nearly all of these compile a model.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
NUM_EXAMPLES, NUM_FEATURES, BATCH_SIZE = 48, 5, 16
_DRAW = np.random.default_rng(0)
X = _DRAW.standard_normal([NUM_EXAMPLES, NUM_FEATURES]).astype(np.float32)
Y = np.tanh(X @ _DRAW.standard_normal([NUM_FEATURES, 2])).astype(np.float32)


def _model(**arguments) -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((NUM_FEATURES,)),
            keras.layers.Dense(7, activation="tanh"),
            keras.layers.Dense(2, dtype="float32", **arguments),
        ]
    )


def _lstm(**arguments) -> CoordinatewiseLSTM:
    """Returns a rule that moves, and whose moves depend on all that it has seen."""
    defaults = {"units": (4, 3), "preprocessing": "log_and_sign", "output_scale": 0.1, "seed": 0}
    return CoordinatewiseLSTM(**defaults | {"output_stddev": 0.5} | arguments)


def _fit(
    optimizer, model=None, epochs=2, callbacks=(), is_built=True, **compile_arguments
) -> keras.Model:
    model = model or _model()
    # Unless a test is about it, XLA would only take its time.
    model.compile(optimizer, loss="mse", **{"jit_compile": False} | compile_arguments)
    if is_built:
        # A step that makes variables is traced twice.
        model.optimizer.build(model.trainable_variables)
    return _go_on(model, epochs, callbacks)


def _go_on(model, epochs=1, callbacks=()) -> keras.Model:
    model.fit(
        X,
        Y,
        batch_size=BATCH_SIZE,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
    )
    return model


def _rule_of(model):
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    return optimizer.rule_for(model.trainable_variables[0])


def _same_weights(one: keras.Model, other: keras.Model, tolerance: float = 0.0):
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def _moved(model: keras.Model) -> bool:
    return any(
        np.abs(after - before).max() > 2e-3
        for after, before in zip(model.get_weights(), _model().get_weights(), strict=True)
    )


# Options of Keras, beside its own SGD


class _Plateau(keras.callbacks.ReduceLROnPlateau):
    """One that finds no epoch good enough."""

    def __init__(self):
        super().__init__(monitor="loss", factor=0.5, patience=1, min_delta=1e9)


OPTIONS = {
    "plain": {},
    "clipnorm": {"clipnorm": 0.05},
    "clipvalue": {"clipvalue": 0.05},
    "global_clipnorm": {"global_clipnorm": 0.2},
    "weight_decay": {"weight_decay": 0.03},
    "ema": {"use_ema": True, "ema_momentum": 0.8},
    "ema_overwrite": {"use_ema": True, "ema_momentum": 0.8, "ema_overwrite_frequency": 2},
    "accumulation": {"gradient_accumulation_steps": 2, "weight_decay": 0.03, "clipnorm": 0.05},
    "loss_scale": {"loss_scale_factor": 8.0},
}


@functools.cache
def _trained_by_keras(option: str) -> keras.Model:
    return _fit(keras.optimizers.SGD(**{"learning_rate": 0.1} | OPTIONS[option]))


# Each option with one rule, and what all of them share with both.
OF_EACH_KIND = {"hand_designed": SGD(1.0), "learned": LinearRule()}
WITH_BOTH = ("plain", "accumulation")


@pytest.mark.parametrize(
    ("option", "kind"),
    [
        (option, kind)
        for index, option in enumerate(OPTIONS)
        for number, kind in enumerate(OF_EACH_KIND)
        if option in WITH_BOTH or (index + number) % 2
    ],
)
def test_an_option_does_to_a_rule_that_is_sgd_what_it_does_to_sgd_of_keras(option, kind):
    arguments = {"learning_rate": 0.1} | OPTIONS[option]
    ours = _fit(LearnedOptimizer(OF_EACH_KIND[kind], **arguments))
    theirs = _trained_by_keras(option)
    # Equal but for the order of a few float32 operations.
    _same_weights(ours, theirs, 1e-6)
    assert _moved(ours)


RULES = {"momentum": SGD(0.1, 0.9), "lstm": _lstm()}


@functools.cache
def _trained_in_a_graph(rule: str) -> keras.Model:
    return _fit(LearnedOptimizer(RULES[rule]), jit_compile=False)


@pytest.mark.parametrize(
    ("rule", "chunk_size", "how"),
    [
        # Without chunks, XLA compiles rules of each kind in tests/rules/conformance_test.py.
        ("momentum", None, {"jit_compile": True}),
        ("lstm", None, {"run_eagerly": True}),
        ("lstm", None, {"jit_compile": "auto"}),
        ("lstm", 10, {"run_eagerly": True}),
        ("lstm", 10, {"jit_compile": True}),
        ("lstm", 10, {"steps_per_execution": 3}),
    ],
    ids=str,
)
def test_however_the_step_is_compiled_the_weights_are_the_same(rule, chunk_size, how):
    wanted = _trained_in_a_graph(rule)
    assert _moved(wanted)
    # XLA fuses multiplications with additions: last bits, over six steps.
    optimizer = LearnedOptimizer(RULES[rule], chunk_size=chunk_size)
    _same_weights(_fit(optimizer, **how), wanted, 1e-5)


def test_a_schedule_scales_the_deltas_step_by_step():
    def schedule():
        return keras.optimizers.schedules.ExponentialDecay(0.2, 1, 0.7)

    ours = _fit(LearnedOptimizer(SGD(1.0), learning_rate=schedule()))
    _same_weights(ours, _fit(keras.optimizers.SGD(schedule())), 1e-6)


def test_a_callback_reduces_the_learning_rate():
    ours = _fit(LearnedOptimizer(SGD(0.1)), epochs=4, callbacks=[_Plateau()])
    theirs = _fit(keras.optimizers.SGD(0.1), epochs=4, callbacks=[_Plateau()])
    assert float(ours.optimizer.learning_rate) == 0.125
    assert float(theirs.optimizer.learning_rate) == pytest.approx(0.0125)
    _same_weights(ours, theirs, 1e-6)


def test_constraints_of_layers_hold():
    constraint = keras.constraints.MaxNorm(0.1)
    model = _fit(LearnedOptimizer(_lstm()), _model(kernel_constraint=constraint))
    assert np.linalg.norm(model.layers[-1].kernel.numpy(), axis=0).max() <= 0.1 + 1e-6


def test_a_custom_loop_trains_as_fit_does():
    wanted = _fit(LearnedOptimizer(_lstm()), epochs=1, is_built=False)
    model, optimizer = _model(), LearnedOptimizer(_lstm())
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True) - y))
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)

    for first in range(0, NUM_EXAMPLES, BATCH_SIZE):
        step(X[first : first + BATCH_SIZE], Y[first : first + BATCH_SIZE])
    _same_weights(model, wanted, 1e-6)
    assert step.experimental_get_tracing_count() == 1


def test_a_step_is_traced_as_often_as_that_of_keras():
    ours, theirs = [], []

    class Counting(LinearRule):
        def call(self, gradient, state):
            ours.append(gradient.shape)
            return super().call(gradient, state)

    class CountingSGD(keras.optimizers.SGD):
        def update_step(self, gradient, variable, learning_rate):
            theirs.append(variable.shape)
            return super().update_step(gradient, variable, learning_rate)

    _fit(LearnedOptimizer(Counting(), learning_rate=0.1), epochs=3, is_built=False)
    # With momentum, it has variables to make at its first step, as ours has.
    model = _fit(CountingSGD(0.1, 0.9), epochs=3, is_built=False)
    # Once for all variables, where Keras's takes one after the other.
    assert len(ours) == len(theirs) / len(model.trainable_variables)


# Mixed precision


@pytest.fixture
def mixed_float16():
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy("float32")


def test_with_mixed_precision_losses_are_scaled_and_the_rule_keeps_float32(mixed_float16):
    rule = _lstm()
    model = _fit(LearnedOptimizer(rule))
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert _rule_of(model).compute_dtype == "float32"
    assert _moved(model)
    assert int(model.optimizer.iterations) == 2 * NUM_EXAMPLES / BATCH_SIZE


def test_with_mixed_precision_a_rule_that_is_sgd_is_sgd_of_keras(mixed_float16):
    ours = _fit(LearnedOptimizer(SGD(1.0), learning_rate=0.1))
    theirs = _fit(keras.optimizers.SGD(0.1))
    _same_weights(ours, theirs, 1e-6)


def test_a_step_that_loss_scaling_drops_leaves_the_rules_state():
    optimizer = keras.optimizers.LossScaleOptimizer(
        LearnedOptimizer(LinearRule()), initial_scale=4.0
    )
    variable = keras.Variable([1.0, 2.0])
    for gradient, wanted in [([4.0, 4.0], [0, 1]), ([np.inf, 0], [0, 1]), ([2.0, 2.0], [-1, 0])]:
        optimizer.apply([tf.constant(gradient)], [variable])
        np.testing.assert_allclose(variable.numpy(), wanted)
    inner = optimizer.inner_optimizer
    count = next(one for one in inner.variables if one.name.endswith("state_0_0"))
    assert (int(count), int(inner.num_skipped_steps), float(optimizer.dynamic_scale)) == (2, 0, 2)


# Several devices


@functools.cache
def _trained_with_decay() -> keras.Model:
    return _fit(LearnedOptimizer(_lstm(), weight_decay=0.01))


@pytest.mark.parametrize("chunk_size", [None, 10])
def test_two_devices_train_as_one_does(two_devices, chunk_size):
    with two_devices.scope():
        model = _fit(LearnedOptimizer(_lstm(), chunk_size=chunk_size, weight_decay=0.01))
    # Sums over a batch in another order, amplified by six steps.
    _same_weights(model, _trained_with_decay(), 1e-5)
    for variable in model.optimizer.variables:
        first, second = (one.numpy() for one in variable.value.values)
        np.testing.assert_array_equal(first, second)


def test_two_devices_with_mixed_precision_train_as_one_does(two_devices, mixed_float16):
    with two_devices.scope():
        ours = _fit(LearnedOptimizer(SGD(1.0), learning_rate=0.1))
        theirs = _fit(keras.optimizers.SGD(0.1))
    _same_weights(ours, theirs, 1e-6)


def test_a_model_of_two_devices_goes_on_on_one(two_devices, tmp_path):
    with two_devices.scope():
        model = _fit(LearnedOptimizer(_lstm()), is_built=False)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    _same_weights(_go_on(loaded), _go_on(model), 1e-5)


# Saving and going on


@dataclasses.dataclass
class _Stopped:
    """A run that was kept in every way before it went on.

    Attributes:
        folder: a file of weights and a checkpoint.
        copies: the model, by what copied it.
        iterations: the number of its steps until then.
        wanted: its weights after it went on.
    """

    folder: Path
    copies: dict[str, keras.Model]
    iterations: int
    wanted: keras.Model


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> _Stopped:
    folder = tmp_path_factory.mktemp("stopped")
    model = _fit(LearnedOptimizer(_lstm(), [Route(_lstm(seed=1), kind="vector")]))
    model.save_weights(folder / "of.weights.h5")
    tf.train.Checkpoint(model=model, optimizer=model.optimizer).write(str(folder / "checkpoint"))
    copies = {"copy": copy.deepcopy(model), "pickle": pickle.loads(pickle.dumps(model))}
    iterations = int(model.optimizer.iterations)
    return _Stopped(folder, copies, iterations, _go_on(model))


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: LearnedOptimizer(_lstm()),
        lambda: LearnedOptimizer(_lstm(), chunk_size=10, state_dtype="bfloat16", weight_decay=0.1),
        lambda: LearnedOptimizer(SGD(0.1, 0.9), use_ema=True, gradient_accumulation_steps=2),
        lambda: LearnedOptimizer(_lstm(), [Route(_lstm(seed=1), kind="vector")], clipnorm=1.0),
        lambda: keras.optimizers.LossScaleOptimizer(LearnedOptimizer(_lstm())),
        lambda: LearnedOptimizer(
            _lstm(), learning_rate=keras.optimizers.schedules.ExponentialDecay(1.0, 2, 0.5)
        ),
    ],
    ids=["lstm", "chunks", "hand_designed", "routes", "loss_scale", "schedule"],
)
def test_a_loaded_model_goes_on_bit_for_bit(optimizer, tmp_path):
    model = _fit(optimizer())
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    _same_weights(_go_on(loaded), _go_on(model))
    for one, other in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_model_that_was_saved_before_its_first_step_is_trained_as_the_original(tmp_path):
    model = _model()
    model.compile(LearnedOptimizer(_lstm(), use_ema=True), loss="mse", jit_compile=False)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    _same_weights(_go_on(loaded), _go_on(model))


def test_a_new_process_that_imports_only_the_package_goes_on_bit_for_bit(tmp_path):
    model = _fit(LearnedOptimizer(_lstm(), [Route(SGD(0.1, 0.9), kind="vector")]))
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    program = f"""
import sys
import l2l_tf
import keras, numpy as np
data = np.load("data.npz")
model = keras.models.load_model("model.keras")
model.fit(data["x"], data["y"], batch_size={BATCH_SIZE}, shuffle=False, verbose=0)
np.savez("after.npz", *model.get_weights())
assert not {{"l2l_tf.problems", "l2l_tf.training"}} & sys.modules.keys()
"""
    subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2", "PATH": "/usr/bin:/bin"},
        check=True,
    )
    _go_on(model)
    with np.load(tmp_path / "after.npz") as after:
        for one, other in zip(after.values(), model.get_weights(), strict=True):
            # Another process has one device where this one has two, and so other thread pools.
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("how", ["copy", "pickle"])
def test_a_copied_model_goes_on_bit_for_bit(stopped, how):
    _same_weights(_go_on(stopped.copies[how]), stopped.wanted)


def _with_other_rules() -> keras.Model:
    """Returns an untrained model whose rules are of the same form, with other weights."""
    model = _model()
    optimizer = LearnedOptimizer(_lstm(seed=2), [Route(_lstm(seed=3), kind="vector")])
    model.compile(optimizer, loss="mse", jit_compile=False)
    return model


@pytest.mark.parametrize("restore_first", [False, True])
def test_a_checkpoint_goes_on_bit_for_bit_with_the_rule_it_was_made_with(stopped, restore_first):
    other = _with_other_rules()
    if not restore_first:
        other.optimizer.build(other.trainable_variables)
    checkpoint = tf.train.Checkpoint(model=other, optimizer=other.optimizer)
    status = checkpoint.read(str(stopped.folder / "checkpoint"))
    if restore_first:
        other.optimizer.build(other.trainable_variables)
    status.assert_existing_objects_matched()
    _same_weights(_go_on(other), stopped.wanted)


@pytest.mark.parametrize("built", [False, True])
def test_a_weights_file_goes_on_bit_for_bit(stopped, built):
    other = _with_other_rules()
    if built:
        other.optimizer.build(other.trainable_variables)
    other.load_weights(stopped.folder / "of.weights.h5")
    assert int(other.optimizer.iterations) == stopped.iterations
    _same_weights(_go_on(other), stopped.wanted)


class _Interrupt(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


def test_interrupted_training_goes_on_from_its_backup(tmp_path):
    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    with pytest.raises(KeyboardInterrupt):
        _fit(LearnedOptimizer(_lstm()), epochs=4, callbacks=[backup(), _Interrupt()])
    resumed = _fit(LearnedOptimizer(_lstm()), epochs=4, callbacks=[backup()], is_built=False)
    _same_weights(resumed, _fit(LearnedOptimizer(_lstm()), epochs=4))


def test_a_configuration_alone_makes_the_same_optimizer():
    optimizer = LearnedOptimizer(_lstm(), [Route(SGD(0.1), name="bias")], weight_decay=0.01)
    rebuilt = LearnedOptimizer.from_config(optimizer.get_config())
    assert rebuilt.get_config() == optimizer.get_config()
    _same_weights(_fit(rebuilt), _fit(optimizer))


def test_the_weights_of_the_rule_are_no_variables_of_optimizer_or_model():
    rule = _lstm()
    before = rule.get_weights()
    model = _fit(LearnedOptimizer(rule))
    names = {weight.name for weight in rule.weights}
    for one in (model, model.optimizer):
        assert not names & {variable.name for variable in one.variables}
    assert not _rule_of(model).trainable_variables
    # The optimizer has a copy: the user's rule can still be trained.
    assert rule.trainable_variables
    for one, other in zip(rule.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


# Side by side with other optimizers


def _multi_optimizer(patterns):
    optimizers = keras.optimizers
    return optimizers.MultiOptimizer(optimizers.OptimizerMap(optimizers.SGD(0.1), patterns))


def test_it_takes_its_share_of_a_models_variables_in_a_multi_optimizer():
    ours = _fit(_multi_optimizer({".*/bias": LearnedOptimizer(SGD(0.05, 0.9))}))
    theirs = _fit(_multi_optimizer({".*/bias": keras.optimizers.SGD(0.05, 0.9)}))
    _same_weights(ours, theirs, 1e-6)
    assert _moved(ours)


def test_a_multi_optimizer_with_it_is_saved_and_goes_on(tmp_path):
    model = _fit(_multi_optimizer({".*/bias": LearnedOptimizer(_lstm())}))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    _same_weights(_go_on(loaded), _go_on(model))


# By name


def test_a_rule_of_the_package_trains_a_model_by_its_name():
    optimizer = l2l_tf.load("mnist_rnnprop", learning_rate=0.5, global_clipnorm=1.0, name="mine")
    assert isinstance(optimizer, LearnedOptimizer)
    assert (optimizer.name, float(optimizer.learning_rate)) == ("mine", 0.5)
    model = _fit(optimizer)
    assert _moved(model)
    assert int(optimizer.num_skipped_steps) == 0
