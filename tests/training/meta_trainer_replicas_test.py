"""Meta-training on two devices of one process, against one device with the same tasks.

Sums of float32 in another order differ by parts in 10^7 of the largest term (measured over 20
meta-steps: 1.5e-7 of each tensor's largest weight). `CLOSE` leaves room for other processors.
"""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.problems import Problem
from l2l_tf.rules import CoordinatewiseLSTM
from l2l_tf.training.estimators import TruncatedBackpropagation
from l2l_tf.training.meta_settings import MetaTrainingSettings
from l2l_tf.training.meta_trainer import MetaTrainer
from tests.training.recorder import Recorder, StopAfter, fit_recorded
from tests.training.toys import LinearRule, NoisyBowls, Parabolas

CLOSE = 1e-5
# Two meta-epochs of two trajectories of two unrolls, of two tasks each.
SMALL = MetaTrainingSettings(
    num_steps=6,
    unroll_length=3,
    num_meta_epochs=2,
    trajectories_per_meta_epoch=2,
    tasks_per_meta_step=2,
    num_validation_tasks=2,
)
# By task.
CURVATURES = (1.0, 0.5, 2.0, 1.5, 0.7, 1.2, 0.9, 0.8)
ONE_DEVICE = tf.distribute.get_strategy()


def _trainer(
    strategy: tf.distribute.Strategy,
    problem: Problem,
    optimizer: Callable[[], keras.optimizers.Optimizer] = lambda: keras.optimizers.Adam(0.01),
    rule: Callable[[], keras.layers.Layer] = LinearRule,
    settings: MetaTrainingSettings = SMALL,
    **arguments,
) -> MetaTrainer:
    """Returns a trainer that was made with its rule and its optimizer under a strategy."""
    with strategy.scope():
        return MetaTrainer(rule(), problem, optimizer(), settings, **arguments)


def _small_lstm() -> CoordinatewiseLSTM:
    return CoordinatewiseLSTM((2,), "log_and_sign", output_stddev=1.0, seed=0)


def _assert_same_run(ours: Recorder, theirs: Recorder) -> None:
    """Asserts that two runs had the same weights and logs after every meta-step."""
    for one, other in zip(_histories(ours), _histories(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=CLOSE * np.abs(other).max())
    for kind in ("batch", "epoch"):
        for one, other in zip(ours.logs(kind), theirs.logs(kind), strict=True):
            assert one == pytest.approx(other, rel=CLOSE, nan_ok=True)


def _histories(recorder: Recorder) -> list[np.ndarray]:
    """Returns each weight at first and after each meta-step, `[meta-steps + 1, ...]`."""
    return [np.stack(values) for values in zip(*recorder.weights, strict=True)]


def _assert_same_on_both(trainer: MetaTrainer) -> None:
    """Asserts that both devices hold the same finite weights and the same optimizer."""
    for variable in [*trainer.rule.trainable_variables, *trainer.optimizer.variables]:
        first, second = (value.numpy() for value in variable.value.values)
        np.testing.assert_array_equal(first, second)
        assert np.isfinite(first).all()


# The same run


@pytest.fixture(scope="module")
def lstm_run(two_devices, deterministic_operations) -> tuple[MetaTrainer, Recorder]:
    """A run on two devices that was never stopped."""
    trainer = _trainer(two_devices, NoisyBowls(), rule=_small_lstm)
    return trainer, fit_recorded(trainer)


@pytest.mark.slow
def test_two_devices_give_the_weights_of_one_with_the_tasks_of_both(lstm_run):
    trainer, both = lstm_run
    one = fit_recorded(_trainer(ONE_DEVICE, NoisyBowls(), rule=_small_lstm))
    _assert_same_run(both, one)
    # Each meta-step changed some weight by far more than the tolerance.
    changes = [np.abs(np.diff(h, axis=0)).reshape(8, -1).max(axis=1) for h in _histories(one)]
    assert np.max(changes, axis=0).min() > 100 * CLOSE
    _assert_same_on_both(trainer)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("estimator", "num_tasks", "optimizer"),
    [
        (
            TruncatedBackpropagation(second_derivatives=True),
            2,
            lambda: keras.optimizers.SGD(1e-2, clipnorm=0.5),
        ),
        (
            TruncatedBackpropagation(chunk_size=1),
            2,
            lambda: keras.optimizers.AdamW(0.01, weight_decay=0.5),
        ),
        (
            TruncatedBackpropagation(),
            4,
            lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.75),
        ),
    ],
    ids=["second_derivatives_and_clipnorm", "chunks_and_weight_decay", "four_tasks_and_averages"],
)
def test_so_they_do_however_the_meta_gradient_is_taken_and_whatever_the_optimizer_makes_of_it(
    two_devices, estimator, num_tasks, optimizer
):
    settings = dataclasses.replace(SMALL, num_meta_epochs=1, tasks_per_meta_step=num_tasks)
    one, both = (
        fit_recorded(
            _trainer(
                strategy,
                Parabolas(CURVATURES),
                optimizer,
                settings=settings,
                estimator=estimator,
            )
        )
        for strategy in (ONE_DEVICE, two_devices)
    )
    _assert_same_run(both, one)


def test_clipping_is_of_the_mean_meta_gradient(two_devices):
    trainer = _trainer(
        two_devices,
        Parabolas(),
        lambda: keras.optimizers.SGD(1.0, global_clipnorm=0.5),
        settings=MetaTrainingSettings(5, 5, 1, 1, tasks_per_meta_step=2),
    )
    recorder = fit_recorded(trainer)
    # The gradient of each task is (60, 30): see meta_gradient_test.py.
    norm = np.hypot(60, 30)
    np.testing.assert_allclose(recorder.logs("batch")[0]["meta_gradient_norm"], norm, rtol=1e-6)
    expected = [-0.5 * 60 / norm, -0.5 * 30 / norm]
    np.testing.assert_allclose(trainer.rule.get_weights(), expected, rtol=1e-6)


# Non-finite meta-steps


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken_task", "value"), [(2, np.inf), (3, np.nan)], ids=["on_the_first", "on_the_second"]
)
def test_a_meta_step_that_is_not_finite_on_one_replica_is_skipped_on_both(
    two_devices, broken_task, value
):
    # Of the second pair of tasks one breaks at its fifth step, in the second of its two unrolls.
    curvatures = [*CURVATURES[:broken_task], value, *CURVATURES[broken_task + 1 :]]
    runs = []
    for strategy in (ONE_DEVICE, two_devices):
        problem = Parabolas(curvatures, first_step=5)
        trainer = _trainer(strategy, problem, validation_problem=Parabolas())
        runs.append(fit_recorded(trainer))
    single, recorder = runs
    assert [log["skipped_steps"] for log in recorder.logs("batch")] == [0, 0, 0, 1, 1, 1, 1, 1]
    assert not np.isfinite(recorder.logs("batch")[3]["meta_loss"])
    assert trainer.progress.num_skipped == 1
    assert trainer.progress.num_trajectories == 4
    assert trainer.optimizer.iterations == 7
    # Meta-step 3 changed no weight; all others did.
    changes = np.abs(np.diff(recorder.weights, axis=0)).max(axis=1)
    np.testing.assert_array_equal(changes > 0, [index != 3 for index in range(8)])
    _assert_same_on_both(trainer)
    # And training goes on as on one device, which skips the same.
    _assert_same_run(recorder, single)


# Validation


class Watched(Parabolas):
    """Keeps which tasks were started, in `started`."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.started: list[int] = []

    def initial_parameters(self, seed):
        def note(index):
            self.started.append(int(index))
            return np.float32(1)

        return [tf.ensure_shape(tf.numpy_function(note, [seed[1]], tf.float32), [])]


@pytest.mark.parametrize(
    ("num_tasks", "times"), [(2, 1), (4, 1), (1, 2), (3, 2)], ids=lambda number: str(number)
)
def test_validation_tasks_are_shared_where_they_can_be_and_run_on_both_otherwise(
    two_devices, num_tasks, times
):
    problem = Watched([0.5, 1.0, 2.0, 3.0])
    trainer = _trainer(
        two_devices,
        Parabolas(),
        settings=dataclasses.replace(SMALL, num_validation_tasks=num_tasks),
        validation_problem=problem,
    )
    problem.started.clear()
    trainer.rule.slope.assign(-0.1)
    validation_loss, curve = trainer.validate()
    assert sorted(problem.started) == sorted(list(range(num_tasks)) * times)
    # SGD with a rate of 0.1: x_t = (1 - 2 c / 10)^t.
    curvatures = np.array(problem.curvatures[:num_tasks])
    steps = np.arange(7)[:, np.newaxis]
    expected = np.mean(curvatures * (1 - 0.2 * curvatures) ** (2 * steps), axis=1)
    np.testing.assert_allclose(curve, expected, rtol=CLOSE)
    assert validation_loss == curve[-1]


# Stopping and resuming


def _all_values(trainer: MetaTrainer) -> list[np.ndarray]:
    """Returns the weights, the meta-optimizer's variables and then the best weights."""
    values = trainer.rule.get_weights() + [v.numpy() for v in trainer.optimizer.variables]
    trainer.load_best()
    _assert_same_on_both(trainer)
    return values + trainer.rule.get_weights()


@pytest.mark.slow
def test_a_run_stopped_in_the_middle_of_its_trajectories_ends_with_the_very_same_values(
    lstm_run, two_devices, tmp_path
):
    def make():
        return _trainer(two_devices, NoisyBowls(), rule=_small_lstm, checkpoint_dir=tmp_path)

    whole, _ = lstm_run
    stopped = make()
    # After the first unroll of the third trajectory, when there was a validation.
    stopped.fit([StopAfter(stopped, 5)])
    trainer = make()
    assert (trainer.progress.num_trajectories, trainer.progress.num_unrolls) == (2, 1)
    trainer.fit()
    assert trainer.finished
    for ours, theirs in zip(_all_values(trainer), _all_values(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert dataclasses.replace(trainer.progress, seconds=0) == dataclasses.replace(
        whole.progress, seconds=0
    )


@pytest.mark.parametrize("first_has", [1, 2])
def test_a_checkpoint_of_another_number_of_replicas_is_refused(two_devices, tmp_path, first_has):
    strategies = {1: ONE_DEVICE, 2: two_devices}
    trainer = _trainer(strategies[first_has], Parabolas(), checkpoint_dir=tmp_path)
    trainer.fit([StopAfter(trainer, 1)])
    other = 3 - first_has
    with pytest.raises(ValueError) as raised:
        _trainer(strategies[other], Parabolas(), checkpoint_dir=tmp_path)
    assert str(raised.value) == (
        "A run must be resumed with the settings it was started with. "
        f"Received: checkpoint={str(tmp_path / 'ckpt-1')!r} of a run with "
        f"{{'num_replicas': {first_has}}}, where this one has {{'num_replicas': {other}}}. "
        "Repeat the command that started it, or choose another folder."
    )


# Hygiene


@pytest.mark.slow
def test_each_replica_traces_once_for_each_unroll_length(two_devices):
    counts = []

    class Count(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            counts.append(trainer.rule.num_calls)

        def on_epoch_end(self, epoch, logs=None):
            counts.append(trainer.rule.num_calls)

    # What a trace for one replica comes to: a call for each trace of a loop's body.
    trainer = _trainer(ONE_DEVICE, Parabolas())
    trainer.fit([StopAfter(trainer, 1), Count()])
    (per_trace,) = counts
    assert per_trace > 0
    counts.clear()
    # Unrolls of 3, 3 and 1 steps.
    settings = dataclasses.replace(SMALL, num_steps=7)
    trainer = _trainer(two_devices, Parabolas(), settings=settings)
    trainer.fit([Count()])
    # Unrolls of 3 steps, of 1 step, the validation.
    traces = [1, 1, 2, 2, 2, 2, 3] + [3] * 7
    assert counts == [2 * per_trace * trace for trace in traces]


# Arguments that don't fit the strategy


@pytest.mark.parametrize("num_tasks", [1, 3])
def test_tasks_that_cannot_be_shared_evenly_are_refused(two_devices, num_tasks):
    with pytest.raises(ValueError) as raised:
        _trainer(
            two_devices,
            Parabolas(),
            settings=dataclasses.replace(SMALL, tasks_per_meta_step=num_tasks),
        )
    assert str(raised.value) == (
        "tasks_per_meta_step must be a multiple of the number of replicas. Received: "
        f"tasks_per_meta_step={num_tasks} with 2 replicas. Give each replica the same number of "
        "tasks."
    )


@pytest.mark.parametrize("stray", ["rule", "optimizer", "trainer"])
def test_a_rule_or_an_optimizer_of_another_strategy_than_the_trainers_is_refused(
    two_devices, stray
):
    def make(part, function):
        with (ONE_DEVICE if stray == part else two_devices).scope():
            return function()

    rule, optimizer = make("rule", LinearRule), make("optimizer", keras.optimizers.SGD)
    with pytest.raises(ValueError) as raised:
        make("trainer", lambda: MetaTrainer(rule, Parabolas(), optimizer, SMALL))
    trainers = "_DefaultDistributionStrategy" if stray == "trainer" else "MirroredStrategy"
    assert str(raised.value) == (
        "rule and optimizer must be made under the strategy of the trainer. Received: "
        f"rule={rule.name!r}, optimizer={optimizer.name!r} of another strategy than {trainers}. "
        "Make all three within one strategy.scope()."
    )


@pytest.mark.parametrize(
    "choice",
    [{"gradient_accumulation_steps": 2}, {"use_ema": True, "ema_overwrite_frequency": 3}],
    ids=["accumulation", "average"],
)
def test_what_keras_cannot_do_under_a_strategy_is_refused(two_devices, choice):
    with pytest.raises(ValueError) as raised:
        _trainer(two_devices, Parabolas(), lambda: keras.optimizers.SGD(0.1, **choice))
    assert str(raised.value) == (
        "optimizer must neither accumulate gradients nor overwrite weights with their average "
        "under a strategy, where Keras can't. Received: "
        f"gradient_accumulation_steps={choice.get('gradient_accumulation_steps')}, "
        f"ema_overwrite_frequency={choice.get('ema_overwrite_frequency')} under MirroredStrategy. "
        "Leave both out, or train on one device."
    )
