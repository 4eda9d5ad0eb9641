import dataclasses
import functools
import json
import resource
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.evaluation.evaluation import evaluate, task_groups
from l2l_tf.evaluation.unroll import start, unroll
from l2l_tf.problems import Quadratic, StackedProblem, task_seeds
from l2l_tf.rules import SGD, CoordinatewiseLSTM, GeneralRule, Route, RoutedRule
from l2l_tf.rules.execution import side_by_side
from l2l_tf.training.estimators import TruncatedBackpropagation
from l2l_tf.training.meta_gradient import meta_gradient
from l2l_tf.training.meta_settings import MetaProgress, MetaTrainingSettings
from l2l_tf.training.meta_trainer import MetaTrainer
from l2l_tf.training.replicas import Replicas
from tests.training.recorder import Recorder, StopAfter, fit_recorded
from tests.training.toys import (
    LearnedLength,
    LearnedMomentum,
    LinearRule,
    NoisyBowls,
    Parabolas,
    WeightDecay,
)

# Four trajectories of three unrolls (3, 3 and 1 steps) in two meta-epochs.
SMALL = MetaTrainingSettings(
    num_steps=7, unroll_length=3, num_meta_epochs=2, trajectories_per_meta_epoch=2
)


def _settings(**changes) -> MetaTrainingSettings:
    return dataclasses.replace(SMALL, **changes)


def _sgd(learning_rate: float = 1.0, **arguments) -> keras.optimizers.Optimizer:
    """Returns a meta-optimizer whose steps are the meta-gradients themselves."""
    return keras.optimizers.SGD(learning_rate, **arguments)


# Settings


@pytest.mark.parametrize(
    ("num_steps", "unroll_length", "lengths"),
    [
        (100, 20, [20] * 5),
        (7, 3, [3, 3, 1]),
        (5, 5, [5]),
        (4, 20, [4]),
        (3, 1, [1, 1, 1]),
        (1, 1, [1]),
    ],
)
def test_the_last_unroll_of_a_trajectory_is_shorter_where_it_must_be(
    num_steps, unroll_length, lengths
):
    settings = _settings(num_steps=num_steps, unroll_length=unroll_length)
    assert settings.unroll_lengths == lengths
    assert settings.num_meta_steps == 2 * 2 * len(lengths)


@pytest.mark.parametrize(
    "name",
    [
        "num_steps",
        "unroll_length",
        "num_meta_epochs",
        "trajectories_per_meta_epoch",
        "tasks_per_meta_step",
        "num_validation_tasks",
        "patience",
    ],
)
@pytest.mark.parametrize("value", [0, -3])
def test_a_count_below_one_is_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} must"):
        _settings(**{name: value})


def test_a_count_that_is_no_integer_is_refused():
    with pytest.raises(TypeError, match=r"^num_steps must"):
        MetaTrainingSettings(num_steps=2.5)


@pytest.mark.parametrize("seed", [0, -1, 2**31, 2**63 - 1, -(2**63)])
def test_every_seed_of_64_bits_is_allowed(seed):
    assert _settings(seed=seed).seed == seed


@pytest.mark.parametrize("seed", [2**63, -(2**63) - 1])
def test_a_seed_beyond_64_bits_is_refused(seed):
    with pytest.raises(ValueError) as raised:
        _settings(seed=seed)
    assert str(raised.value) == (
        "seed must be a signed integer of 64 bits, from -2^63 to 2^63 - 1. "
        f"Received: seed={seed}. Give, say, 0."
    )


def test_an_unknown_validation_metric_is_refused():
    with pytest.raises(ValueError, match=r"^validation_metric must"):
        _settings(validation_metric="loss")


@pytest.mark.parametrize("ratio", [0.5, -1.0, np.nan])
def test_a_ratio_that_would_go_back_from_better_weights_is_refused(ratio):
    with pytest.raises(ValueError) as raised:
        _settings(backtrack_ratio=ratio)
    assert str(raised.value) == (
        "backtrack_ratio must be 0 or at least 1. "
        f"Received: backtrack_ratio={ratio}. Give, say, 1.5."
    )


# Horizons of 2, 4 and 8 steps; a meta-epoch has 16.
GROWING = MetaTrainingSettings(
    num_steps=8,
    unroll_length=2,
    num_meta_epochs=6,
    trajectories_per_meta_epoch=2,
    horizons=(2, 4, 8),
)


def test_a_meta_epoch_of_shorter_trajectories_has_as_many_more_of_them():
    assert [GROWING.trajectories_of_meta_epoch(stage) for stage in range(3)] == [8, 4, 2]
    assert [GROWING.unroll_lengths_of(stage) for stage in range(3)] == [[2], [2] * 2, [2] * 4]
    assert [GROWING.validation_horizon(stage) for stage in range(3)] == [4, 8, 8]
    assert [GROWING.last_meta_epoch(stage) for stage in range(3)] == [2, 4, 6]
    assert GROWING.num_meta_steps == 6 * 8


@pytest.mark.parametrize("horizons", [(2, 4), (4, 2, 8), (2, 2, 8), (0, 8), (2.0, 8), (8, 16)])
def test_horizons_that_do_not_ascend_to_the_last_are_refused(horizons):
    with pytest.raises(ValueError) as raised:
        dataclasses.replace(GROWING, horizons=horizons)
    assert str(raised.value) == (
        "horizons must be counts of steps that ascend to num_steps. Received: "
        f"horizons={list(horizons)} with num_steps=8. Give, say, [100, 200, 500, 1000] with "
        "num_steps=1000."
    )


@pytest.mark.parametrize("horizons", [(3, 8), (6, 8)])
def test_horizons_of_which_a_meta_epoch_holds_no_whole_number_are_refused(horizons):
    with pytest.raises(ValueError) as raised:
        dataclasses.replace(GROWING, horizons=horizons)
    assert str(raised.value) == (
        "horizons must be multiples of unroll_length and divide the steps of a meta-epoch, "
        "num_steps * trajectories_per_meta_epoch. "
        f"Received: horizons={list(horizons)} with unroll_length=2 and 16 steps. "
        "Change one of them."
    )


DRAWN = MetaTrainingSettings(
    num_steps=8,
    unroll_length=8,
    num_meta_epochs=2,
    trajectories_per_meta_epoch=4,
    drawn_horizons=(2, 4, 8),
)


def test_drawn_horizons_depend_on_the_seed_and_the_index_alone():
    horizons = [DRAWN.horizon_of(0, index) for index in range(300)]
    assert horizons == [DRAWN.horizon_of(0, index) for index in range(300)]
    # Binomial with a mean of 100 and a standard deviation of 8.2.
    assert all(65 < horizons.count(one) < 135 for one in (2, 4, 8))
    other = dataclasses.replace(DRAWN, seed=-1)
    assert horizons != [other.horizon_of(0, index) for index in range(300)]


@pytest.mark.parametrize("horizons", [(2, 4), (2, 8, 16), (0, 8), (2.0, 8)])
def test_drawn_horizons_of_which_the_last_is_not_the_largest_are_refused(horizons):
    with pytest.raises(ValueError) as raised:
        dataclasses.replace(DRAWN, drawn_horizons=horizons)
    assert str(raised.value) == (
        "drawn_horizons must be counts of steps, of which num_steps is the largest, and "
        f"unroll_length as large as that. Received: drawn_horizons={list(horizons)} with "
        "num_steps=8, unroll_length=8. Give, say, [50, 100, 200] with 200 for both."
    )


def test_drawn_horizons_that_take_several_unrolls_or_grow_are_refused():
    with pytest.raises(ValueError, match=r"^drawn_horizons must be counts of steps"):
        dataclasses.replace(DRAWN, unroll_length=4)
    with pytest.raises(ValueError, match=r"^drawn_horizons must be left out where horizons grow"):
        dataclasses.replace(DRAWN, horizons=(8,))


def test_more_horizons_than_meta_epochs_are_refused():
    with pytest.raises(ValueError) as raised:
        dataclasses.replace(GROWING, num_meta_epochs=2)
    assert str(raised.value) == (
        "horizons must be no more than the meta-epochs. Received: horizons=[2, 4, 8] with "
        "num_meta_epochs=2. Give each stage a meta-epoch at least."
    )


# What a meta-step is


def test_one_meta_step_on_a_parabola_gives_the_original_codes_value():
    settings = MetaTrainingSettings(5, 5, num_meta_epochs=1, trajectories_per_meta_epoch=1)
    trainer = MetaTrainer(LinearRule(), Parabolas(), keras.optimizers.Adam(0.01), settings)
    trainer.fit()
    validation_loss, curve = trainer.validate()
    # Source: the tests of github.com/google-deepmind/learning-to-learn; float32 Adam: see
    # meta_gradient_test.py. The weights are -0.01 each, and so x goes to 0.98 x - 0.01.
    np.testing.assert_allclose(validation_loss, 0.7325326, atol=4e-6)
    points = [1.0]
    for _ in range(5):
        points.append(0.98 * points[-1] - 0.01)
    np.testing.assert_allclose(curve, np.square(points), atol=4e-6)


def _expected_changes(
    rule, problem, settings: MetaTrainingSettings, rate: float
) -> list[np.ndarray]:
    """Returns a rule's weights after each meta-step of gradient descent, written out in a loop."""
    weights = [rule.get_weights()]
    for trajectory in range(settings.num_meta_epochs * settings.trajectories_per_meta_epoch):
        first_task = trajectory * settings.tasks_per_meta_step
        seeds = task_seeds(settings.seed, "train", first_task, settings.tasks_per_meta_step)
        iterates = [start(rule, problem, seed) for seed in seeds]
        for length in settings.unroll_lengths:
            results = [
                meta_gradient(rule, problem, seed, iterate, length)
                for seed, iterate in zip(seeds, iterates, strict=True)
            ]
            iterates = [result.iterate for result in results]
            gradients = np.mean([result.gradients for result in results], axis=0)
            rule.set_weights([w - rate * g for w, g in zip(weights[-1], gradients, strict=True)])
            weights.append(rule.get_weights())
    return weights


@pytest.mark.slow
# The last two are no coordinatewise rules.
@pytest.mark.parametrize(
    ("make_rule", "num_tasks"),
    [
        (LinearRule, 1),
        (LinearRule, 3),
        (LearnedLength, 3),
        (lambda: WeightDecay(dtype="float32"), 3),
    ],
    ids=["one_task", "three_tasks", "learned_length", "weight_decay"],
)
def test_a_meta_step_applies_the_mean_meta_gradient_of_its_tasks(make_rule, num_tasks):
    problem = NoisyBowls()
    settings = _settings(
        trajectories_per_meta_epoch=1,
        tasks_per_meta_step=num_tasks,
        num_validation_tasks=2,
        seed=3,
    )
    trainer = MetaTrainer(make_rule(), problem, _sgd(1e-3), settings)
    recorder = fit_recorded(trainer)
    expected = _expected_changes(make_rule(), problem, settings, rate=1e-3)
    assert len(recorder.weights) == len(expected) == 1 + 6
    # Meta-gradients of order 10 in float32, times 1e-3, 6 times.
    np.testing.assert_allclose(recorder.weights, expected, rtol=1e-4, atol=1e-7)
    # Every meta-step changed the weights by far more than that.
    assert np.abs(np.diff(expected, axis=0)).max(axis=1).min() > 1e-5
    evaluation = evaluate(trainer.rule, problem, task_seeds(3, "validation", 0, 2), 7)
    np.testing.assert_allclose(trainer.validate()[1], evaluation.curve, rtol=1e-4)


def test_step_weights_weigh_the_steps_of_every_unroll_and_the_last_ones_those_of_a_shorter_one():
    settings = _settings(num_meta_epochs=1, trajectories_per_meta_epoch=1)
    estimator = TruncatedBackpropagation(step_weights=(1.0, 2.0, 5.0))
    trainer = MetaTrainer(LinearRule(), Parabolas(), _sgd(0.0), settings, estimator=estimator)
    # With a rule that stands still, every loss is 1.
    meta_losses = [log["meta_loss"] for log in fit_recorded(trainer).logs("batch")]
    np.testing.assert_allclose(meta_losses, [8.0, 8.0, 5.0])


def test_second_derivatives_are_taken_where_the_estimator_says_so():
    changes = {}
    for choice in (False, True):
        rule = LinearRule()
        rule.slope.assign(-0.3)
        settings, estimator = MetaTrainingSettings(4, 4, 1, 1), TruncatedBackpropagation(choice)
        MetaTrainer(rule, Parabolas([0.5]), _sgd(), settings, estimator=estimator).fit()
        changes[choice] = float(rule.slope + 0.3)
    steps = np.arange(1, 5)
    # The closed forms of meta_gradient_test.py.
    full = np.sum(steps * 0.7 ** (2 * steps - 1))
    plain = sum(0.7**t * sum(0.7**s for s in range(t)) for t in steps)
    np.testing.assert_allclose([changes[True], changes[False]], [-full, -plain], rtol=1e-5)


def test_clipping_belongs_to_the_optimizer_and_the_logged_norm_is_that_before_it():
    settings = MetaTrainingSettings(5, 5, num_meta_epochs=1, trajectories_per_meta_epoch=1)
    rule = LinearRule()
    recorder = fit_recorded(MetaTrainer(rule, Parabolas(), _sgd(global_clipnorm=0.5), settings))
    # The gradient is (60, 30): see meta_gradient_test.py.
    norm = np.hypot(60, 30)
    np.testing.assert_allclose(recorder.logs("batch")[0]["meta_gradient_norm"], norm, rtol=1e-6)
    np.testing.assert_allclose(rule.get_weights(), [-0.5 * 60 / norm, -0.5 * 30 / norm], rtol=1e-6)


def test_meta_gradients_may_be_accumulated_over_meta_steps():
    settings = MetaTrainingSettings(5, 5, num_meta_epochs=1, trajectories_per_meta_epoch=2)
    optimizer = _sgd(1e-3, gradient_accumulation_steps=2)
    recorder = fit_recorded(MetaTrainer(LinearRule(), Parabolas(), optimizer, settings))
    # The gradient is (60, 30) both times: see meta_gradient_test.py.
    expected = [[0, 0], [0, 0], [-0.06, -0.03]]
    np.testing.assert_allclose(recorder.weights, expected, rtol=1e-6)


def test_the_schedule_belongs_to_the_optimizer_and_counts_meta_steps():
    # A rate of zero from the third meta-step on.
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [1e-3, 0.0])
    trainer = MetaTrainer(LinearRule(), Parabolas(), keras.optimizers.SGD(schedule), SMALL)
    changes = np.abs(np.diff(fit_recorded(trainer).weights, axis=0)).max(axis=1)
    assert (changes[:2] > 0).all()
    assert (changes[2:] == 0).all()
    assert len(changes) == 12


# What a run is


def test_training_lowers_the_validation_loss():
    settings = MetaTrainingSettings(10, 5, num_meta_epochs=3, trajectories_per_meta_epoch=5)
    rule = CoordinatewiseLSTM((3,), output_scale=0.1, seed=0)
    problem = Quadratic("gaussian", num_functions=4, num_dimensions=2)
    trainer = MetaTrainer(rule, problem, keras.optimizers.Adam(0.03), settings)
    before, _ = trainer.validate()
    logs = fit_recorded(trainer).logs("epoch")
    assert trainer.finished
    assert logs[-1]["validation_loss"] < 0.7 * before
    assert trainer.progress.num_trajectories == 15
    assert trainer.progress.num_validations == 3
    assert trainer.progress.num_skipped == 0
    assert trainer.progress.seconds > 0


def test_callbacks_see_meta_steps_as_batches_and_meta_epochs_as_epochs():
    trainer = MetaTrainer(LinearRule(), Parabolas(), _sgd(1e-3), SMALL)
    recorder = fit_recorded(trainer)
    kinds = [event if isinstance(event, str) else event[:2] for event in recorder.events]
    epochs = [
        [("epoch begins", epoch), *(("batch", batch) for batch in range(6)), ("epoch", epoch)]
        for epoch in range(2)
    ]
    assert kinds == ["train begins", *epochs[0], *epochs[1], "train ends"]
    assert recorder.params == {"verbose": 1, "epochs": 2, "steps": 6}
    for log in recorder.logs("batch"):
        assert set(log) == {"meta_loss", "meta_gradient_norm", "skipped_steps"}
    for log in recorder.logs("epoch"):
        assert set(log) == {
            "meta_loss",
            "meta_gradient_norm",
            "skipped_steps",
            "validation_loss",
            "best_validation_loss",
        }
    for log in recorder.logs("batch") + recorder.logs("epoch"):
        assert all(isinstance(value, float | int) for value in log.values())
    # The rule stands still in the first unroll: three losses of 1.
    assert recorder.logs("batch")[0]["meta_loss"] == 3


@pytest.mark.parametrize("metric", ["final_loss", "mean_loss"])
def test_the_validation_loss_is_that_of_evaluating_the_rule(metric):
    rule, problem = LinearRule(), Quadratic("gaussian", num_functions=3, num_dimensions=2)
    rule.slope.assign(-0.05)
    settings = _settings(num_validation_tasks=2, validation_metric=metric, seed=5)
    validation_loss, curve = MetaTrainer(rule, problem, _sgd(), settings).validate()
    evaluation = evaluate(rule, problem, task_seeds(5, "validation", 0, 2), 7)
    # Means of float32 losses, in float32 and in float64.
    np.testing.assert_allclose(curve, evaluation.curve, rtol=1e-5)
    np.testing.assert_allclose(validation_loss, getattr(evaluation, metric), rtol=1e-5)
    assert curve.shape == (8,)


@pytest.fixture(scope="module")
def evaluated_tasks() -> np.ndarray:
    """The losses of five tasks side by side, of two functions each: float `[T + 1, 5 * 2]`."""
    seeds = task_seeds(SMALL.seed, "validation", 0, 5)
    rule = CoordinatewiseLSTM((3,), seed=0)
    return evaluate(rule, NoisyBowls(num_functions=2), seeds, SMALL.num_steps).losses


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_tasks", "max_coordinates"),
    # One group of one task; two groups, the last filled up; two of two; each task alone; two groups
    # of three, the last filled up.
    [(1, 2 * 6), (3, 2 * 6), (4, 3 * 6), (4, 1), (5, 3 * 6)],
)
def test_validation_tasks_in_groups_give_what_they_give_side_by_side(
    evaluated_tasks, num_tasks, max_coordinates, monkeypatch
):
    problem = NoisyBowls(num_functions=2)
    assert problem.num_coordinates == 6
    rule = CoordinatewiseLSTM((3,), seed=0)
    settings = _settings(num_validation_tasks=num_tasks)
    trainer = MetaTrainer(rule, problem, _sgd(), settings)
    in_groups = functools.partial(task_groups, max_coordinates=max_coordinates)
    monkeypatch.setattr("l2l_tf.training.meta_trainer.task_groups", in_groups)
    wanted = evaluated_tasks[:, : num_tasks * 2].mean(axis=1)
    np.testing.assert_allclose(trainer.validate()[1], wanted, rtol=1e-5)


def test_a_rule_of_double_precision_is_validated_in_it():
    problem = Quadratic(num_functions=3, num_dimensions=2, dtype="float64")
    trainer = MetaTrainer(CoordinatewiseLSTM((3,), dtype="float64", seed=0), problem, _sgd(), SMALL)
    _, curve = trainer.validate()
    seeds = task_seeds(SMALL.seed, "validation", 0, SMALL.num_validation_tasks)
    wanted = evaluate(trainer.rule, problem, seeds, SMALL.num_steps).curve
    assert curve.dtype == np.float64
    np.testing.assert_allclose(curve, wanted, rtol=1e-12)


def test_validation_tasks_stay_the_same_and_a_validation_changes_nothing():
    # Without progress of the rule, there is none of the validation loss.
    rule = LinearRule()
    rule.slope.assign(-0.1)
    trainer = MetaTrainer(rule, NoisyBowls(), _sgd(0.0), SMALL)
    before, _ = trainer.validate()
    recorder = fit_recorded(trainer)
    assert [log["validation_loss"] for log in recorder.logs("epoch")] == [before] * 2
    assert trainer.validate()[0] == before
    # While training tasks change from trajectory to trajectory.
    assert len({log["meta_loss"] for log in recorder.logs("batch")}) == 12


def test_a_rule_may_be_validated_on_another_problem():
    trainer = MetaTrainer(
        LinearRule(), Parabolas(), _sgd(), SMALL, validation_problem=Parabolas([4.0])
    )
    assert trainer.validate()[0] == 4


def test_the_best_weights_are_those_of_the_lowest_validation_loss():
    class Shifting(keras.callbacks.Callback):
        """Sets the slope before each validation, in the last meta-step of its meta-epoch."""

        slopes = (-0.1, -0.5, -0.4)

        def on_epoch_begin(self, epoch, logs=None):
            rule.slope.assign(self.slopes[epoch])

    rule = LinearRule()
    settings = MetaTrainingSettings(2, 2, num_meta_epochs=3, trajectories_per_meta_epoch=1)
    trainer = MetaTrainer(rule, Parabolas(), _sgd(0.0), settings)
    recorder = Recorder(trainer)
    trainer.fit([Shifting(), recorder])
    # x_t = (1 + 2 w)^t: with w = -1/2 the minimum is reached.
    logs = recorder.logs("epoch")
    np.testing.assert_allclose(
        [log["validation_loss"] for log in logs], [0.8**4, 0.0, 0.2**4], rtol=1e-5
    )
    np.testing.assert_allclose(
        [log["best_validation_loss"] for log in logs], [0.8**4, 0.0, 0.0], rtol=1e-5
    )
    assert trainer.progress.best_meta_epoch == 2
    assert rule.slope == np.float32(-0.4)
    trainer.load_best()
    assert rule.slope == -0.5
    assert rule.bias == 0


class _Slopes(keras.callbacks.Callback):
    """Sets the slope before each validation."""

    def __init__(self, rule, *slopes: float):
        super().__init__()
        self.rule, self.slopes = rule, list(slopes)

    def on_train_batch_end(self, batch, logs=None):
        self.rule.slope.assign(self.slopes.pop(0))


def _pretrained(slope: float, num_meta_epochs: int = 2, **arguments) -> MetaTrainer:
    rule = LinearRule()
    rule.slope.assign(slope)
    settings = MetaTrainingSettings(2, 2, num_meta_epochs, trajectories_per_meta_epoch=1)
    return MetaTrainer(rule, Parabolas(), _sgd(0.0), settings, is_pretrained=True, **arguments)


def test_weights_that_were_learned_before_are_kept_where_no_meta_epoch_is_better():
    trainer = _pretrained(-0.4)
    recorder = Recorder(trainer)
    trainer.fit([_Slopes(trainer.rule, -0.1, -0.2), recorder])
    # x_2 = (1 + 2 w)^2, and the loss is its square.
    losses = [
        [log["validation_loss"], log["best_validation_loss"]] for log in recorder.logs("epoch")
    ]
    np.testing.assert_allclose(losses, [[0.8**4, 0.2**4], [0.6**4, 0.2**4]], rtol=1e-5)
    assert (trainer.progress.best_meta_epoch, trainer.progress.num_validations) == (0, 2)
    trainer.load_best()
    assert trainer.rule.slope == np.float32(-0.4)


def test_weights_that_were_learned_before_give_way_to_better_ones():
    trainer = _pretrained(-0.2)
    trainer.fit([_Slopes(trainer.rule, -0.1, -0.4)])
    assert trainer.progress.best_meta_epoch == 2
    trainer.load_best()
    assert trainer.rule.slope == np.float32(-0.4)


def test_weights_that_were_learned_before_and_diverge_are_not_kept():
    trainer = _pretrained(1e30)
    trainer.fit([_Slopes(trainer.rule, 1e30, -0.1)])
    assert trainer.progress.best_meta_epoch == 2


@pytest.mark.parametrize("num_meta_steps", [0, 1])
def test_weights_that_were_learned_before_are_still_the_best_after_a_stop(tmp_path, num_meta_steps):
    first = _pretrained(-0.4, checkpoint_dir=tmp_path)
    if num_meta_steps:
        first.fit([_Slopes(first.rule, -0.1), StopAfter(first, num_meta_steps)])
    else:
        first.request_stop()
        first.fit()
    second = _pretrained(-0.4, checkpoint_dir=tmp_path)
    assert second.progress.num_trajectories == num_meta_steps
    second.fit([_Slopes(second.rule, -0.1, -0.1)])
    second.load_best()
    assert second.rule.slope == np.float32(-0.4)
    np.testing.assert_allclose(second.progress.best_validation_loss, 0.2**4, rtol=1e-5)


def test_averages_of_weights_that_are_gone_back_to_begin_with_them():
    rule = LinearRule()
    rule.slope.assign(-0.4)
    settings = MetaTrainingSettings(2, 2, 2, trajectories_per_meta_epoch=1, backtrack_ratio=1.0)
    optimizer = _sgd(1.0, use_ema=True, ema_momentum=0.75)
    trainer = MetaTrainer(rule, Parabolas(), optimizer, settings, is_pretrained=True)
    recorder = fit_recorded(trainer)
    # Both meta-steps were taken from the initial weights, far over the aim.
    assert trainer.progress.num_backtracks == 1
    np.testing.assert_array_equal(recorder.weights[1], recorder.weights[2])
    slope, bias = 0.75 * np.array([-0.4, 0.0]) + 0.25 * np.array(recorder.weights[2])
    x = 1.0
    for _ in range(2):
        x += slope * 2 * x + bias
    np.testing.assert_allclose(recorder.logs("epoch")[1]["validation_loss"], x**2, rtol=1e-4)


def test_that_weights_were_learned_before_changes_nothing_of_how_they_are_trained():
    def weights(**arguments):
        problem, optimizer = NoisyBowls(), keras.optimizers.Adam(0.01)
        trainer = MetaTrainer(LinearRule(), problem, optimizer, SMALL, **arguments)
        return fit_recorded(trainer).weights

    np.testing.assert_array_equal(weights(is_pretrained=True), weights())


def test_training_gone_astray_goes_on_from_the_best_weights():
    class Astray(keras.callbacks.Callback):
        """Sets the slope before each validation, and notes what training goes on from after it."""

        slopes = (-0.4, -0.39, 1.0, np.nan)

        def __init__(self):
            super().__init__()
            self.seen = []

        def on_train_batch_end(self, batch, logs=None):
            rule.slope.assign(self.slopes[len(self.seen)])

        def on_epoch_end(self, epoch, logs=None):
            self.seen.append([rule.slope.numpy()] + [v.numpy() for v in optimizer.variables])

    rule, optimizer = LinearRule(), keras.optimizers.Adam(1e-3)
    settings = MetaTrainingSettings(
        2, 2, num_meta_epochs=4, trajectories_per_meta_epoch=1, backtrack_ratio=5.0
    )
    trainer = MetaTrainer(rule, Parabolas(), optimizer, settings)
    astray = Astray()
    trainer.fit([astray])
    best, worse, back, back_again = astray.seen
    # x_2 = (1 + 2 w)^2 gives a loss of .2^4, then .22^4 = 1.5 of it, then 81, then none.
    assert trainer.progress.best_meta_epoch == 1
    assert trainer.progress.num_backtracks == 2
    assert worse[0] == np.float32(-0.39)
    for later in (back, back_again):
        assert later[0] == best[0] == np.float32(-0.4)
        # Momenta too; the number of meta-steps and the learning rate go on.
        np.testing.assert_array_equal(later[3:], best[3:])
    assert not np.array_equal(worse[3:], best[3:])
    assert [values[1] for values in astray.seen] == [1, 2, 3, 4]


def test_averages_of_weights_are_validated_and_kept_and_training_goes_on_from_the_weights():
    rule, validation_problem = LinearRule(), Parabolas([0.7])
    optimizer = _sgd(1e-3, use_ema=True, ema_momentum=0.75)
    trainer = MetaTrainer(rule, Parabolas(), optimizer, SMALL, validation_problem)
    plain = MetaTrainer(LinearRule(), Parabolas(), _sgd(1e-3), SMALL)
    recorder = fit_recorded(trainer)
    np.testing.assert_array_equal(recorder.weights, fit_recorded(plain).weights)
    averages = []
    for slope, bias in recorder.weights[1:]:
        weights = np.array([slope, bias])
        averages.append(0.75 * averages[-1] + 0.25 * weights if averages else weights)
    expected = []
    for slope, bias in (averages[5], averages[11]):
        x = 1.0
        for _ in range(SMALL.num_steps):
            x += slope * 2 * 0.7 * x + bias
        expected.append(0.7 * x**2)
    losses = [log["validation_loss"] for log in recorder.logs("epoch")]
    # Float32 weights and 7 steps.
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert trainer.progress.best_validation_loss == min(losses)
    trainer.load_best()
    best = averages[5 if trainer.progress.best_meta_epoch == 1 else 11]
    np.testing.assert_allclose(np.array(rule.get_weights()), best, rtol=1e-6)
    assert not np.allclose(best, np.array(recorder.weights[-1]), rtol=0.01)


def test_before_the_first_validation_the_best_weights_are_the_initial_ones():
    rule = LinearRule()
    rule.slope.assign(-0.25)
    trainer = MetaTrainer(rule, Parabolas(), _sgd(), SMALL)
    rule.slope.assign(3.0)
    trainer.load_best()
    assert rule.slope == -0.25
    assert trainer.progress.best_meta_epoch == 0


def test_a_validation_that_is_not_finite_is_never_the_best():
    trainer = MetaTrainer(
        LinearRule(), Parabolas(), _sgd(0.0), SMALL, validation_problem=Parabolas([np.nan])
    )
    recorder = fit_recorded(trainer)
    assert all(np.isnan(log["validation_loss"]) for log in recorder.logs("epoch"))
    assert trainer.progress.best_meta_epoch == 0
    assert trainer.progress.best_validation_loss == np.inf


def test_a_runs_description_is_json_and_says_what_was_run():
    rule = CoordinatewiseLSTM((3,), seed=0)
    trainer = MetaTrainer(rule, Quadratic(num_functions=2), keras.optimizers.Adam(0.02), SMALL)
    description = json.loads(json.dumps(trainer.description()))
    assert description["rule"]["config"]["units"] == [3]
    np.testing.assert_allclose(description["optimizer"]["config"]["learning_rate"], 0.02)
    assert description["problem"] == "quadratic_uniform"
    assert description["num_steps"] == 7
    assert description["progress"]["num_trajectories"] == 0


# A curriculum


class Slopes(keras.callbacks.Callback):
    """Sets a rule's slope before each validation, and notes what training goes on from."""

    def __init__(self, rule: LinearRule, *slopes: float):
        super().__init__()
        self.rule = rule
        self.slopes = slopes
        self.later = []

    def on_epoch_begin(self, epoch, logs=None):
        self.rule.slope.assign(self.slopes[epoch])

    def on_epoch_end(self, epoch, logs=None):
        self.later.append(float(self.rule.slope))


def test_a_stage_ends_without_improvement_or_with_its_share_and_hands_on_its_best_weights():
    rule = LinearRule()
    trainer = MetaTrainer(rule, Parabolas(), _sgd(0.0), GROWING)
    recorder = Recorder(trainer)
    # Stage 0 improves in both of its meta-epochs, stage 1 does not in its first, stage 2 goes on
    # whatever happens.
    slopes = Slopes(rule, -0.1, -0.2, -0.1, 0.0, -0.3, -0.25)
    trainer.fit([slopes, recorder])
    logs = recorder.logs("epoch")
    assert [log["validation_horizon"] for log in logs] == [4, 4, 8, 8, 8, 8]
    # x_t = (1 + 2 w)^t, and the loss is its square.
    losses = [0.8**8, 0.6**8, 0.8**16, 1, 0.4**16, 0.5**16]
    np.testing.assert_allclose([log["validation_loss"] for log in logs], losses, rtol=1e-4)
    # The best of stage 0 is measured anew, over the steps that stage 1 is validated on.
    best = [0.8**8, 0.6**8, 0.6**16, 0.6**16, 0.4**16, 0.4**16]
    np.testing.assert_allclose([log["best_validation_loss"] for log in logs], best, rtol=1e-4)
    np.testing.assert_allclose(slopes.later, [-0.1, -0.2, -0.2, 0.0, -0.3, -0.25])
    progress = trainer.progress
    assert (progress.stage, progress.best_meta_epoch, progress.num_stale) == (2, 5, 1)
    # Two meta-epochs of 8 trajectories, one of 4 and three of 2: 8 meta-steps each.
    assert progress.num_trajectories == 2 * 8 + 4 + 3 * 2
    assert [event[1] for event in recorder.events if event[0] == "batch"] == list(range(8)) * 6
    trainer.load_best()
    np.testing.assert_allclose(rule.slope, -0.3)


def test_each_trajectory_has_the_horizon_that_is_drawn_for_it():
    rule = LinearRule()
    rule.slope.assign(-0.1)
    trainer = MetaTrainer(rule, Parabolas(), _sgd(0.0), DRAWN)
    recorder = Recorder(trainer)
    trainer.fit([recorder])
    horizons = [DRAWN.horizon_of(0, index) for index in range(8)]
    assert len(set(horizons)) > 1
    # x_t = .8^t, and a meta-loss is the sum of its squares from 1 to the horizon.
    expected = [sum(0.64**step for step in range(1, horizon + 1)) for horizon in horizons]
    losses = [log["meta_loss"] for log in recorder.logs("batch")]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    # All are validated over the largest.
    np.testing.assert_allclose(recorder.logs("epoch")[0]["validation_loss"], 0.64**8, rtol=1e-4)


def test_a_rule_in_chunks_takes_trajectories_of_drawn_lengths():
    def weights(chunk_size):
        rule = CoordinatewiseLSTM((3,), seed=0, output_stddev=0.1)
        estimator = TruncatedBackpropagation(chunk_size=chunk_size)
        optimizer = keras.optimizers.Adam(0.01)
        MetaTrainer(rule, NoisyBowls(), optimizer, DRAWN, estimator=estimator).fit()
        return rule.get_weights()

    for whole, cut in zip(weights(0), weights(2), strict=True):
        np.testing.assert_allclose(cut, whole, rtol=1e-4, atol=1e-6)


def test_going_back_by_a_ratio_is_refused_where_logarithms_count():
    problem = Parabolas()
    problem.is_logarithmic = True
    settings = dataclasses.replace(DRAWN, backtrack_ratio=1.5)
    with pytest.raises(ValueError, match=r"^backtrack_ratio must be 0 for problems whose"):
        MetaTrainer(LinearRule(), problem, _sgd(0.0), settings)


@pytest.mark.slow
def test_a_run_with_drawn_horizons_that_was_stopped_is_one_that_was_not(
    tmp_path, deterministic_operations
):
    def make(folder):
        return MetaTrainer(
            LearnedMomentum(),
            NoisyBowls(),
            keras.optimizers.Adam(0.1, use_ema=True, ema_momentum=0.5),
            DRAWN,
            checkpoint_dir=folder,
            estimator=TruncatedBackpropagation(1.0, rematerializes=True, max_norm=1e6),
        )

    _assert_stops_change_nothing(make, tmp_path, [1, 5], _ended(make(None)))


def test_step_weights_are_refused_where_horizons_are_drawn():
    estimator = TruncatedBackpropagation(step_weights=[1.0] * 8)
    trainer = MetaTrainer(LinearRule(), Parabolas(), _sgd(0.0), DRAWN, estimator=estimator)
    with pytest.raises(ValueError, match=r"^step_weights must be None where the lengths"):
        trainer.fit()


def test_a_rule_that_must_know_the_horizon_is_told_that_of_its_trajectory():
    settings = dataclasses.replace(DRAWN, trajectories_per_meta_epoch=2)
    rule = GeneralRule(seed=0)
    problem = NoisyBowls()
    estimator = TruncatedBackpropagation(1.0, rematerializes=True)
    trainer = MetaTrainer(rule, problem, _sgd(0.0), settings, estimator=estimator)
    recorder = Recorder(trainer)
    trainer.fit([recorder])
    for index, log in enumerate(recorder.logs("batch")):
        seeds = task_seeds(0, "train", index, 1)
        tasks = StackedProblem(problem, 1)
        steps, _ = unroll(
            rule, tasks, seeds, start(rule, tasks, seeds), settings.horizon_of(0, index)
        )
        np.testing.assert_allclose(log["meta_loss"], steps.losses.numpy().mean(1).sum(), rtol=1e-4)


def test_patience_lets_a_stage_go_on_after_a_validation_without_improvement():
    rule = LinearRule()
    settings = dataclasses.replace(GROWING, num_meta_epochs=12, patience=2)
    trainer = MetaTrainer(rule, Parabolas(), _sgd(0.0), settings)
    recorder = Recorder(trainer)
    # In stage 0: better, worse, better, worse, which is the last of its share. In stage 1: twice
    # worse than the best of stage 0.
    slopes = Slopes(rule, -0.1, 0.0, -0.2, 0.0, 0.0, -0.1, *[0.0] * 6)
    trainer.fit([slopes, recorder])
    horizons = [log["validation_horizon"] for log in recorder.logs("epoch")]
    assert horizons == [4] * 4 + [8] * 8
    np.testing.assert_allclose(slopes.later[:7], [-0.1, 0.0, -0.2, -0.2, 0.0, -0.2, 0.0])
    # Trajectories of meta-epochs 5 and 6 have 4 steps, those after them 8.
    assert trainer.progress.num_trajectories == 4 * 8 + 2 * 4 + 6 * 2


def test_a_best_rule_that_diverges_over_the_next_horizon_is_followed_by_any_that_does_not():
    rule = LinearRule()
    # From step 5 on there is no loss: over 4 steps all is well.
    problem = Parabolas([np.inf], first_step=5, last_step=8)
    settings = dataclasses.replace(GROWING, num_meta_epochs=3)
    trainer = MetaTrainer(rule, Parabolas(), _sgd(0.0), settings, validation_problem=problem)
    trainer.fit()
    assert trainer.progress.best_validation_loss == np.inf
    assert trainer.progress.best_meta_epoch == 1


# Non-finite meta-steps


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_meta_step_that_is_not_finite_is_skipped_and_its_trajectory_given_up(value):
    # Task 1 breaks at its fifth step, in the second of its three unrolls.
    problem = Parabolas([1.0, value, 1.0, 1.0], first_step=5)
    optimizer = keras.optimizers.Adam(1e-3)
    trainer = MetaTrainer(LinearRule(), problem, optimizer, SMALL, validation_problem=Parabolas())
    slots = []

    class Slots(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            slots.append([variable.numpy() for variable in optimizer.variables])

    recorder = Recorder(trainer)
    trainer.fit([recorder, Slots()])
    skipped = [log["skipped_steps"] for log in recorder.logs("batch")]
    # 3 unrolls of task 0, 2 of task 1, then a new meta-epoch with 3 of task 2 and of task 3.
    assert skipped == [0, 0, 0, 0, 1] + [1] * 6
    assert [event[1] for event in recorder.events if event[0] == "batch"] == [
        *(0, 1, 2, 3, 5),
        *range(6),
    ]
    assert not np.isfinite(recorder.logs("batch")[4]["meta_loss"])
    assert trainer.progress.num_skipped == 1
    assert trainer.progress.num_trajectories == 4
    # Meta-step 4 changed nothing, neither weights nor the optimizer; all others did.
    changes = np.abs(np.diff(recorder.weights, axis=0)).max(axis=1)
    np.testing.assert_array_equal(changes > 0, [index != 4 for index in range(11)])
    for before, after in zip(slots[3], slots[4], strict=True):
        np.testing.assert_array_equal(before, after)
    assert optimizer.iterations == 10
    assert np.isfinite(recorder.weights).all()


def test_after_a_skipped_meta_step_the_next_task_starts_anew():
    # What follows the broken task 1 is what follows when the run has no task 1 at all.
    broken = Parabolas([1.0, np.nan, 2.0, 3.0])
    trainer = MetaTrainer(LinearRule(), broken, _sgd(1e-3), SMALL, validation_problem=Parabolas())
    recorder = fit_recorded(trainer)
    whole = Parabolas([1.0, 2.0, 3.0])
    settings = _settings(num_meta_epochs=3, trajectories_per_meta_epoch=1)
    other = fit_recorded(MetaTrainer(LinearRule(), whole, _sgd(1e-3), settings))
    weights = recorder.weights
    np.testing.assert_array_equal(weights[:4] + weights[5:], other.weights)


def test_a_meta_gradient_that_is_not_finite_is_skipped_though_its_loss_is_finite():
    # A loss of 1e30 at the fourth step: its square in the norm of the meta-gradient overflows.
    problem = Parabolas([1e30])
    settings = MetaTrainingSettings(2, 2, 1, 1)
    trainer = MetaTrainer(LinearRule(), problem, _sgd(), settings)
    recorder = fit_recorded(trainer)
    (log,) = recorder.logs("batch")
    assert np.isfinite(log["meta_loss"])
    assert not np.isfinite(log["meta_gradient_norm"])
    assert log["skipped_steps"] == 1
    np.testing.assert_array_equal(recorder.weights[0], recorder.weights[1])


# Stopping and resuming


def _lstm_trainer(folder: Path | None, chunk_size: int | None = None) -> MetaTrainer:
    """Returns a new trainer of a small LSTM, as a new process would make it: 8 meta-steps."""
    return MetaTrainer(
        CoordinatewiseLSTM((2,), "log_and_sign", output_stddev=1.0, seed=0),
        NoisyBowls(),
        keras.optimizers.Adam(0.01),
        _settings(num_steps=6),
        checkpoint_dir=folder,
        estimator=TruncatedBackpropagation(chunk_size=chunk_size),
    )


def _all_values(trainer: MetaTrainer) -> list[np.ndarray]:
    """Returns the weights, the meta-optimizer's variables and then the best weights."""
    values = trainer.rule.get_weights() + [v.numpy() for v in trainer.optimizer.variables]
    trainer.load_best()
    return values + trainer.rule.get_weights()


class Ended(NamedTuple):
    """What a run that was never stopped ended with; its weights are those after each meta-step."""

    values: list[np.ndarray]
    weights: list[list[np.ndarray]]
    progress: MetaProgress


def _ended(trainer: MetaTrainer) -> Ended:
    weights = fit_recorded(trainer).weights
    assert trainer.finished
    return Ended(_all_values(trainer), weights, dataclasses.replace(trainer.progress, seconds=0))


@pytest.fixture(scope="module")
def whole_lstm(deterministic_operations) -> Ended:
    return _ended(_lstm_trainer(None))


def _assert_stops_change_nothing(make, folder: Path, stops: list[int], whole: Ended) -> None:
    """Stops a run again and again, each time after some more meta-steps, and goes on anew.

    At each meta-step, it must have the very same weights as the run that was never stopped.
    """
    num_before = 0
    for stop in [*stops, None]:
        trainer = make(folder)
        recorder = Recorder(trainer)
        trainer.fit([recorder] + ([StopAfter(trainer, stop - num_before)] if stop else []))
        assert trainer.finished == (stop is None)
        for ours, theirs in zip(
            recorder.weights, whole.weights[num_before : stop and stop + 1], strict=True
        ):
            for one, other in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(one, other)
        num_before = stop
    assert dataclasses.replace(trainer.progress, seconds=0) == whole.progress
    for ours, theirs in zip(_all_values(trainer), whole.values, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_a_run_stopped_anywhere_and_resumed_ends_with_the_very_same_values(tmp_path, whole_lstm):
    # After the first meta-step, within a trajectory; at the last meta-step of a meta-epoch; and at
    # the last of all. At the end of a trajectory, and within the second meta-epoch: below.
    _assert_stops_change_nothing(_lstm_trainer, tmp_path, [1, 4, 8], whole_lstm)


@pytest.mark.slow
def test_so_does_one_that_goes_back_to_its_best_weights(tmp_path, deterministic_operations):
    def make(folder):
        return MetaTrainer(
            LearnedMomentum(),
            NoisyBowls(),
            keras.optimizers.Adam(0.1),
            _settings(num_steps=6, num_meta_epochs=4, backtrack_ratio=1.0),
            checkpoint_dir=folder,
        )

    whole = _ended(make(None))
    # Meta-epochs have 4 meta-steps. It goes back after the second and the last.
    assert whole.progress.num_backtracks == 2
    # Before it goes back to what it has found before the stop, after that, and before again.
    _assert_stops_change_nothing(make, tmp_path, [5, 9, 15], whole)


@pytest.mark.slow
def test_so_does_one_whose_horizons_grow(tmp_path, deterministic_operations):
    def make(folder):
        return MetaTrainer(
            LearnedMomentum(),
            NoisyBowls(),
            keras.optimizers.Adam(0.3, use_ema=True, ema_momentum=0.5),
            dataclasses.replace(GROWING, num_meta_epochs=4, trajectories_per_meta_epoch=1),
            checkpoint_dir=folder,
        )

    whole = _ended(make(None))
    assert whole.progress.stage == 2
    # Meta-epochs have 4 meta-steps: within stage 0, at its end, in stages 1 and 2.
    _assert_stops_change_nothing(make, tmp_path, [3, 4, 6, 11], whole)


@pytest.mark.slow
def test_a_rule_side_by_side_learns_the_same_and_can_be_stopped_too(
    tmp_path, whole_lstm, one_thread_per_operation, monkeypatch
):
    monkeypatch.setattr(side_by_side, "PART_SIZE", 3)
    apart = _ended(_lstm_trainer(None))
    _assert_stops_change_nothing(_lstm_trainer, tmp_path, [1], apart)
    for ours, theirs in zip(apart.weights[-1], whole_lstm.weights[-1], strict=True):
        # Sums over coordinates in another order.
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def _parts_trainer(folder: Path | None, chunk_size: int | None = None) -> MetaTrainer:
    def lstm(seed):
        return CoordinatewiseLSTM((2,), "log_and_sign", output_stddev=1.0, seed=seed)

    return MetaTrainer(
        RoutedRule(lstm(0), [Route(lstm(1), name="parameter_0")]),
        NoisyBowls(),
        keras.optimizers.Adam(0.01),
        _settings(num_steps=6, tasks_per_meta_step=2, num_validation_tasks=2),
        checkpoint_dir=folder,
        estimator=TruncatedBackpropagation(chunk_size=chunk_size),
    )


@pytest.fixture(scope="module")
def whole_parts(deterministic_operations) -> Ended:
    return _ended(_parts_trainer(None))


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [None, 3])
def test_a_rule_with_parts_learns_in_all_of_them_and_can_be_stopped_too(
    tmp_path, whole_parts, chunk_size
):
    def make(folder):
        return _parts_trainer(folder, chunk_size)

    whole = whole_parts if chunk_size is None else _ended(make(None))
    changes = zip(whole.weights[0], whole.weights[-1], strict=True)
    assert all((one != other).any() for one, other in changes)
    _assert_stops_change_nothing(make, tmp_path, [3], whole)


def test_a_rule_with_parts_is_validated_by_all_of_them():
    trainer = _parts_trainer(None)
    evaluation = evaluate(trainer.rule, NoisyBowls(), task_seeds(0, "validation", 0, 2), 6)
    np.testing.assert_allclose(trainer.validate()[1], evaluation.curve, rtol=1e-4)


def _resumed(make, folder, forms, monkeypatch) -> MetaTrainer:
    """Returns a trainer that took another form each time it was stopped, within a trajectory.

    A form is a chunk size and a part size.
    """
    for index, (chunk_size, part_size) in enumerate(forms):
        with monkeypatch.context() as patch:
            if part_size:
                patch.setattr(tf.config.threading, "get_intra_op_parallelism_threads", lambda: 1)
                patch.setattr(side_by_side, "PART_SIZE", part_size)
            trainer = make(folder, chunk_size)
            assert trainer.progress.num_unrolls == (index > 0)
            is_last = index == len(forms) - 1
            # Trajectories have two unrolls.
            trainer.fit([] if is_last else [StopAfter(trainer, 2 if index else 1)])
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "forms", "whole"),
    [
        (_lstm_trainer, [(4, 0), (None, 2), (5, 2), (None, 0)], "whole_lstm"),
        (_parts_trainer, [(None, 2), (5, 0)], "whole_parts"),
    ],
    ids=["lstm", "parts"],
)
def test_a_run_goes_on_in_chunks_and_parts_of_another_size(
    tmp_path, make, forms, whole, request, monkeypatch
):
    whole = request.getfixturevalue(whole)
    resumed = _resumed(make, tmp_path, forms, monkeypatch)
    assert resumed.progress.num_trajectories == whole.progress.num_trajectories
    assert resumed.progress.best_meta_epoch == whole.progress.best_meta_epoch
    for ours, theirs in zip(_all_values(resumed), whole.values, strict=True):
        # Sums over coordinates in another order.
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_where_another_size_is_the_same_arithmetic_it_ends_with_the_very_same_values(
    tmp_path, whole_lstm, monkeypatch
):
    # The six coordinates of a task are one chunk or all of them.
    resumed = _resumed(_lstm_trainer, tmp_path, [(None, 0), (0, 6)], monkeypatch)
    for ours, theirs in zip(_all_values(resumed), whole_lstm.values, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_description_says_the_size_of_chunks_though_it_makes_no_other_run():
    descriptions = [_lstm_trainer(None, size).description() for size in (None, 4)]
    assert [one.pop("chunk_size") for one in descriptions] == [None, 4]
    assert descriptions[0] == descriptions[1]


@pytest.mark.slow
def test_a_rule_of_whole_tensors_can_be_stopped_too(tmp_path, deterministic_operations):
    def make(folder):
        rule, optimizer = WeightDecay(dtype="float32"), keras.optimizers.Adam(0.01)
        settings = _settings(tasks_per_meta_step=2, num_validation_tasks=3)
        return MetaTrainer(rule, NoisyBowls(), optimizer, settings, checkpoint_dir=folder)

    _assert_stops_change_nothing(make, tmp_path, [2], _ended(make(None)))


@pytest.mark.slow
def test_so_does_a_run_with_averages_of_its_weights(tmp_path, deterministic_operations):
    def make(folder):
        optimizer = keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.75)
        settings = _settings(num_steps=6)
        return MetaTrainer(
            LearnedMomentum(), NoisyBowls(), optimizer, settings, checkpoint_dir=folder
        )

    # At the end of a trajectory; at that of a meta-epoch; and within a trajectory of the second.
    _assert_stops_change_nothing(make, tmp_path, [2, 4, 7], _ended(make(None)))


def test_the_best_weights_survive_a_stop(tmp_path):
    def make(slope: float) -> MetaTrainer:
        rule = LinearRule()
        trainer = MetaTrainer(rule, Parabolas(), _sgd(0.0), SMALL, checkpoint_dir=tmp_path)
        rule.slope.assign(slope)
        return trainer

    # x_t = (1 + 2 w)^t: the first meta-epoch's rule reaches the minimum, the second's does not.
    first = make(-0.5)
    first.fit([StopAfter(first, 7)])
    assert first.progress.num_validations == 1
    second = make(-0.1)
    second.fit()
    assert second.progress.best_meta_epoch == 1
    second.load_best()
    assert second.rule.slope == -0.5


@pytest.mark.slow
def test_a_stopped_trainer_goes_on_when_it_is_fit_again(whole_lstm):
    stopped = _lstm_trainer(None)
    stopped.fit([StopAfter(stopped, 3)])
    assert not stopped.finished
    stopped.fit()
    assert stopped.finished
    for ours, theirs in zip(_all_values(stopped), whole_lstm.values, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_stop_requested_before_the_first_meta_step_is_heeded(tmp_path):
    trainer = MetaTrainer(LinearRule(), Parabolas(), _sgd(), SMALL, checkpoint_dir=tmp_path)
    trainer.request_stop()
    recorder = fit_recorded(trainer)
    assert recorder.events == ["train begins", "train ends"]


def test_a_stop_requested_while_processes_agree_on_stopping_is_heeded(monkeypatch):
    trainer = MetaTrainer(LinearRule(), Parabolas(), _sgd(), SMALL)
    answers = []

    def any_with_a_signal(replicas, flags):
        # The flags were read before the signal came.
        if not answers:
            trainer.request_stop()
        answers.append(list(flags))
        return answers[-1]

    monkeypatch.setattr(Replicas, "any", any_with_a_signal)
    recorder = fit_recorded(trainer)
    assert answers[0] == [False]
    assert len(recorder.logs("batch")) == 1
    assert not trainer.finished


def test_resuming_a_finished_run_does_nothing(tmp_path):
    def make():
        rule, optimizer = LinearRule(), keras.optimizers.Adam(0.01)
        return MetaTrainer(rule, Parabolas(), optimizer, SMALL, checkpoint_dir=tmp_path)

    first = make()
    first.fit()
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    second = make()
    assert second.finished
    recorder = fit_recorded(second)
    assert recorder.events == ["train begins", "train ends"]
    assert second.progress == first.progress
    np.testing.assert_array_equal(second.rule.get_weights(), first.rule.get_weights())
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files


@pytest.mark.slow
def test_a_full_disk_ends_training_which_then_goes_on_from_the_checkpoint_before(
    tmp_path, deterministic_operations
):
    class FillDisk(keras.callbacks.Callback):
        """Lets no file of this process grow beyond 1000 bytes, from the fifth meta-step on."""

        def on_train_batch_end(self, batch, logs=None):
            if trainer.progress.num_trajectories == 1 and trainer.progress.num_unrolls == 2:
                resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))

    def make(folder):
        rule, optimizer = LinearRule(), keras.optimizers.Adam(0.01)
        return MetaTrainer(
            rule, Parabolas(), optimizer, SMALL, checkpoint_dir=folder, checkpoint_seconds=0.0
        )

    whole, trainer = make(None), make(tmp_path)
    whole.fit()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(OSError) as raised:
            trainer.fit([FillDisk()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    message = str(raised.value)
    assert message.startswith(
        f"A checkpoint must be writable. Received: folder={str(tmp_path)!r}, "
    )
    assert message.endswith(
        "; the checkpoint before this one is whole, and the same command goes on from it."
    )
    resumed = make(tmp_path)
    assert (resumed.progress.num_trajectories, resumed.progress.num_unrolls) == (1, 1)
    resumed.fit()
    np.testing.assert_array_equal(resumed.rule.get_weights(), whole.rule.get_weights())


@pytest.mark.parametrize(("seconds", "num_checkpoints"), [(0.0, 12 + 2), (1e6, 2)])
def test_checkpoints_are_written_when_due_and_after_each_validation(
    tmp_path, seconds, num_checkpoints
):
    MetaTrainer(
        LinearRule(),
        Parabolas(),
        _sgd(1e-3),
        SMALL,
        checkpoint_dir=tmp_path,
        checkpoint_seconds=seconds,
    ).fit()
    # The two latest are kept.
    kept = [f"ckpt-{index}.index" for index in (num_checkpoints - 1, num_checkpoints)]
    assert sorted(path.name for path in tmp_path.glob("*.index")) == sorted(kept)


@pytest.fixture(scope="module")
def one_meta_step(tmp_path_factory) -> tuple[Path, LinearRule]:
    """The folder of a run that was stopped after its first meta-step, and its rule."""
    folder, rule = tmp_path_factory.mktemp("one_meta_step"), LinearRule()
    optimizer = keras.optimizers.Adam(0.01)
    trainer = MetaTrainer(rule, Parabolas(), optimizer, SMALL, checkpoint_dir=folder)
    trainer.fit([StopAfter(trainer, 1)])
    return folder, rule


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (
            {"settings": _settings(num_steps=8)},
            "{'num_steps': 7}, where this one has {'num_steps': 8}",
        ),
        (
            {"settings": _settings(seed=1, unroll_length=2)},
            "{'seed': 0, 'unroll_length': 3}, where this one has {'seed': 1, 'unroll_length': 2}",
        ),
        (
            {"problem": Parabolas([2.0]), "validation_problem": Parabolas()},
            "{'problem_config.curvatures': [1.0]}, where this one has "
            "{'problem_config.curvatures': [2.0]}",
        ),
    ],
    ids=["horizon", "seed", "problem"],
)
def test_a_checkpoint_of_another_run_is_refused(one_meta_step, change, difference):
    folder, _ = one_meta_step
    same = {"problem": Parabolas(), "settings": SMALL, "checkpoint_dir": folder}
    with pytest.raises(ValueError) as raised:
        MetaTrainer(LinearRule(), optimizer=keras.optimizers.Adam(0.01), **same | change)
    assert str(raised.value) == (
        "A run must be resumed with the settings it was started with. "
        f"Received: checkpoint={str(folder / 'ckpt-1')!r} of a run with {difference}. "
        "Repeat the command that started it, or choose another folder."
    )


@pytest.mark.parametrize("part", ["rule", "optimizer"])
def test_a_checkpoint_of_another_rule_or_optimizer_is_refused(one_meta_step, part):
    folder, _ = one_meta_step
    rule = CoordinatewiseLSTM((2,)) if part == "rule" else LinearRule()
    optimizer = keras.optimizers.Adam(0.01 if part == "rule" else 0.02)
    with pytest.raises(ValueError) as raised:
        MetaTrainer(rule, Parabolas(), optimizer, SMALL, checkpoint_dir=folder)
    assert str(raised.value).startswith(
        "A run must be resumed with the settings it was started with. "
        f"Received: checkpoint={str(folder / 'ckpt-1')!r} of a run with {{'{part}."
    )


def test_a_run_goes_on_in_a_process_where_keras_numbers_its_objects_otherwise(one_meta_step):
    folder, before = one_meta_step
    rule, optimizer = LinearRule(name="another_name"), keras.optimizers.Adam(0.01)
    trainer = MetaTrainer(rule, Parabolas(), optimizer, SMALL, checkpoint_dir=folder)
    assert trainer.progress.num_unrolls == 1
    np.testing.assert_array_equal(rule.get_weights(), before.get_weights())


# Hygiene


def test_one_trace_for_each_unroll_length_serves_all_meta_steps():
    rule = LinearRule()
    counts = []

    class Count(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            counts.append(rule.num_calls)

        def on_epoch_end(self, epoch, logs=None):
            counts.append(rule.num_calls)

    trainer = MetaTrainer(rule, NoisyBowls(), keras.optimizers.Adam(1e-3), SMALL)
    trainer.fit([Count()])
    # A call for each trace of a loop's body: unrolls of 3 steps, of 1 step, the validation.
    per_trace = counts[0]
    assert per_trace > 0
    traces = [1, 1, 2, 2, 2, 2, 3] + [3] * 7
    assert counts == [per_trace * trace for trace in traces]


@pytest.mark.slow
def test_memory_does_not_grow_over_200_meta_steps():
    def resident_bytes() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * 4096

    sizes = []

    class Measure(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            sizes.append(resident_bytes())

    settings = MetaTrainingSettings(4, 2, num_meta_epochs=1, trajectories_per_meta_epoch=125)
    problem = Quadratic(num_functions=32)
    trainer = MetaTrainer(
        CoordinatewiseLSTM((8,), seed=0), problem, keras.optimizers.Adam(1e-3), settings
    )
    trainer.fit([Measure()])
    assert len(sizes) == 250
    # After 50 meta-steps all is traced and allocated. An iterate, of 320 coordinates with 18 floats
    # each, has 23 kB: kept from every meta-step, they would come to 4.6 MB.
    assert sizes[-1] - sizes[49] < 2e6


def test_the_problem_may_hold_several_functions():
    problem = NoisyBowls(num_functions=2)
    settings = MetaTrainingSettings(3, 3, 1, 1, tasks_per_meta_step=2)
    trainer = MetaTrainer(LinearRule(), problem, _sgd(), settings)
    recorder = fit_recorded(trainer)
    seeds = task_seeds(0, "train", 0, 2)
    stacked = StackedProblem(problem, 2)
    rule = LinearRule()
    expected = meta_gradient(rule, stacked, seeds, start(rule, stacked, seeds), 3)
    np.testing.assert_allclose(
        recorder.logs("batch")[0]["meta_loss"],
        expected.losses.numpy().mean(axis=1).sum(),
        rtol=1e-6,
    )


# Arguments of another kind


def test_chunks_of_a_rule_that_is_not_coordinatewise_are_refused():
    estimator = TruncatedBackpropagation(chunk_size=2)
    with pytest.raises(ValueError, match=r"^chunk_size must be None or 0 for a rule that is not"):
        MetaTrainer(LearnedLength(), Parabolas(), _sgd(), _settings(), estimator=estimator)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("", "must not be empty. Received: checkpoint_dir=''. Give '.' for the current folder."),
        (
            "/tmp/\udcfc",
            "must be in UTF-8, since TensorFlow takes no other paths. Received: "
            "checkpoint_dir=b'/tmp/\\xfc'. Rename what is not, or choose another place.",
        ),
    ],
    ids=["empty", "latin_1"],
)
def test_a_folder_that_tensorflow_can_not_name_is_refused(folder, message):
    with pytest.raises(ValueError) as raised:
        MetaTrainer(LinearRule(), Parabolas(), _sgd(), SMALL, checkpoint_dir=folder)
    assert str(raised.value) == f"checkpoint_dir {message}"


def test_a_folder_that_is_no_path_is_refused():
    with pytest.raises(TypeError) as raised:
        MetaTrainer(LinearRule(), Parabolas(), _sgd(), SMALL, checkpoint_dir=3)
    assert str(raised.value) == (
        "checkpoint_dir must be a path. Received: checkpoint_dir=3. Name a file or folder."
    )


def test_checkpoints_go_to_a_home_folder_of_any_letters(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "käte日本"))
    arguments = (LinearRule(), Parabolas(), _sgd(), SMALL)
    trainer = MetaTrainer(*arguments, checkpoint_dir="~/run")
    trainer.fit([StopAfter(trainer, 1)])
    assert (tmp_path / "käte日本" / "run" / "ckpt-1.index").exists()
    again = MetaTrainer(LinearRule(), Parabolas(), _sgd(), SMALL, checkpoint_dir="~/run")
    assert again.progress.num_unrolls == 1


def test_a_hand_designed_rule_is_not_trained():
    rule = SGD(0.1)
    with pytest.raises(TypeError) as raised:
        MetaTrainer(rule, Parabolas(), _sgd(), _settings())
    assert str(raised.value) == (
        "rule must be a learned rule: a Keras layer with trainable weights. "
        f"Received: rule={rule!r}. Hand-designed rules are tuned, not trained."
    )


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"rule": keras.layers.Dense(1)}, "rule"),
        ({"problem": keras.Sequential([])}, "problem"),
        ({"validation_problem": keras.Sequential([])}, "validation_problem"),
        ({"settings": {}}, "settings"),
    ],
)
def test_arguments_of_another_kind_are_refused(arguments, name):
    given = {"rule": LinearRule(), "problem": Parabolas(), "optimizer": _sgd(), "settings": SMALL}
    with pytest.raises(TypeError, match=f"^{name} must"):
        MetaTrainer(**given | arguments)


def test_an_optimizer_that_is_none_of_keras_is_refused():
    with pytest.raises(TypeError, match=r"^optimizer must"):
        MetaTrainer(LinearRule(), Parabolas(), "adam", _settings())


def test_the_trainer_cuts_backpropagation_off_as_its_estimator_says():
    def weights(**arguments):
        rule = CoordinatewiseLSTM((3,), output_stddev=1.0, seed=0)
        settings = MetaTrainingSettings(3, 3, 1, 1)
        estimator = TruncatedBackpropagation(**arguments)
        trainer = MetaTrainer(
            rule,
            NoisyBowls(),
            keras.optimizers.SGD(1.0),
            settings,
            estimator=estimator,
        )
        trainer.fit()
        return np.concatenate([weight.ravel() for weight in rule.get_weights()])

    whole, cut = weights(), weights(backpropagation_steps=1)
    np.testing.assert_array_equal(weights(backpropagation_steps=10**6), whole)
    assert np.abs(cut - whole).max() > 1e-4
