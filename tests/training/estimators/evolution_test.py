"""Evolution strategies, against closed forms."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.problems import Quadratic, task_seeds
from l2l_tf.rules import CoordinatewiseLSTM
from l2l_tf.training import (
    EvolutionStrategies,
    MetaTrainer,
    MetaTrainingSettings,
    TruncatedBackpropagation,
)
from l2l_tf.training.estimators import Run
from tests.training.recorder import KeepCheckpoints, StopAfter
from tests.training.toys import LinearRule, Parabolas

CURVATURE, SLOPE, HORIZON, UNROLL = 0.4, -0.1, 6, 2


def _rule(slope: float = SLOPE) -> LinearRule:
    """Delta = slope * gradient: x_t = (1 + 2 c slope)^t x_0 on c x^2."""
    rule = LinearRule()
    rule.slope.assign(slope)
    return rule


def _run(num_pairs: int, problem=None, **arguments) -> Run:
    arguments = {"horizon": HORIZON, "unroll_length": UNROLL} | arguments
    return Run(_rule(), problem or Parabolas((CURVATURE,)), num_pairs, **arguments)


def _seeds(num_pairs: int, index: int) -> tf.Tensor:
    return task_seeds(3, "train", index * num_pairs, num_pairs)


def _exact_gradient(stddev: float) -> float:
    """Returns the slope's derivative of an episode's loss, smoothed by a Gaussian."""
    points, shares = np.polynomial.hermite_e.hermegauss(40)
    slopes = SLOPE + stddev * points
    steps = np.arange(1, HORIZON + 1)[:, np.newaxis]
    factors = 1 + 2 * CURVATURE * slopes
    derivatives = CURVATURE * 2 * steps * factors ** (2 * steps - 1) * 2 * CURVATURE
    return float((derivatives.sum(axis=0) * shares).sum() / shares.sum())


def _truncated_gradient() -> float:
    """Returns the same without what an unroll of two steps owes to those before it."""
    factor = 1 + 2 * CURVATURE * SLOPE
    starts = factor ** (2 * np.arange(0, HORIZON, UNROLL))
    within = np.arange(1, UNROLL + 1)
    derivatives = CURVATURE * 2 * within * factor ** (2 * within - 1) * 2 * CURVATURE
    return float(starts.sum() * derivatives.sum())


def _episode_gradients(estimator, num_pairs: int, num_episodes: int) -> np.ndarray:
    """Returns the slope's estimates, summed over the unrolls of each episode."""
    run = _run(num_pairs)
    estimate = tf.function(
        lambda seeds, state: estimator.estimate(run, seeds, state, UNROLL), autograph=False
    )
    begin = tf.function(lambda: estimator.begin(run, _seeds(num_pairs, 0)), autograph=False)
    state, sums = begin(), []
    for episode in range(num_episodes):
        total = 0.0
        for unroll in range(HORIZON // UNROLL):
            index = 1 + episode * HORIZON // UNROLL + unroll
            result = estimate(_seeds(num_pairs, index), state)
            state = result.state
            total += float(result.gradients[0])
        sums.append(total)
    return np.array(sums)


@pytest.mark.slow
@pytest.mark.parametrize("reuse_noise", [False, True])
def test_estimates_of_an_episode_add_up_to_its_exact_gradient_without_bias(reuse_noise):
    stddev = 0.05
    # The slope alone: the bias would add noise, and no information.
    estimator = EvolutionStrategies(
        stddev, weights="slope", is_staggered=False, reuse_noise=reuse_noise
    )
    gradients = _episode_gradients(estimator, num_pairs=100, num_episodes=36)
    exact = _exact_gradient(stddev)
    error = gradients.std(ddof=1) / np.sqrt(len(gradients))
    assert abs(gradients.mean() - exact) < 4 * error
    # The test has power: truncated back-propagation is biased by far more than the error.
    assert abs(_truncated_gradient() - exact) > 15 * error


def test_truncated_backpropagation_has_the_bias_that_the_toy_says():
    estimator, run = TruncatedBackpropagation(second_derivatives=1.0), _run(1)
    state, total = estimator.begin(run, _seeds(1, 0)), 0.0
    for _ in range(HORIZON // UNROLL):
        result = estimator.estimate(run, _seeds(1, 0), state, UNROLL)
        state = result.state
        total += float(result.gradients[0])
    assert total == pytest.approx(_truncated_gradient(), rel=1e-5)


def test_both_of_a_pair_run_the_same_task():
    # Curvatures so different that two tasks would differ by far more than a perturbation.
    problem = Parabolas((0.01, 3.0, 0.5, 40.0))
    run = Run(_rule(-0.01), problem, 8, HORIZON, UNROLL)
    estimator = EvolutionStrategies(1e-3, weights="slope")
    state = estimator.begin(run, _seeds(8, 0))
    result = estimator.estimate(run, _seeds(8, 1), state, UNROLL)
    # Of the loss's derivative of some hundreds; tasks apart would give ten times as much.
    assert 0 < abs(float(result.gradients[0])) < 2000


def test_only_chosen_weights_have_gradients():
    rule = CoordinatewiseLSTM((3,), seed=0, output_stddev=0.1)
    run = Run(rule, Quadratic(num_functions=2), 2, HORIZON, UNROLL)
    estimator = EvolutionStrategies(weights="output_")
    state = estimator.begin(run, _seeds(2, 0))
    result = estimator.estimate(run, _seeds(2, 1), state, UNROLL)
    for weight, gradient in zip(rule.trainable_variables, result.gradients, strict=True):
        assert gradient.shape == weight.shape
        assert bool(np.abs(gradient).max() > 0) == ("output_" in weight.path)


def test_weights_that_there_are_not_are_refused():
    with pytest.raises(ValueError, match="weights must match"):
        EvolutionStrategies(weights="kernel_9").begin(_run(1), _seeds(1, 0))


def test_an_episode_ends_at_its_horizon_and_another_task_begins():
    estimator, run = EvolutionStrategies(is_staggered=False), _run(2)
    state = estimator.begin(run, _seeds(2, 0))
    for index in range(1, 4):
        np.testing.assert_array_equal(state.iterates.step, [[2 * index - 2] * 2] * 2)
        np.testing.assert_array_equal(state.seeds, _seeds(2, 0))
        state = estimator.estimate(run, _seeds(2, index), state, UNROLL).state
    np.testing.assert_array_equal(state.iterates.step, [[0, 0]] * 2)
    np.testing.assert_array_equal(state.seeds, _seeds(2, 3))
    for noise in state.noise:
        np.testing.assert_array_equal(noise, np.zeros(noise.shape))
    np.testing.assert_array_equal(state.iterates.parameters, np.ones((2, 2, 1)))


def test_noise_adds_up_over_an_episode_or_stays():
    run = _run(3)
    for reuse_noise in (False, True):
        estimator = EvolutionStrategies(is_staggered=False, reuse_noise=reuse_noise)
        first = estimator.estimate(run, _seeds(3, 1), estimator.begin(run, _seeds(3, 0)), UNROLL)
        second = estimator.estimate(run, _seeds(3, 2), first.state, UNROLL)
        fresh = np.array(second.state.noise[0]) - np.array(first.state.noise[0])
        assert (np.abs(fresh) > 1e-4).all() != reuse_noise


def _begun(estimator, run: Run):
    """Returns the state at first, in one graph, as a trainer has it."""
    return tf.function(lambda: estimator.begin(run, _seeds(run.num_tasks, 0)), autograph=False)()


def test_horizons_are_drawn_between_their_bounds_in_whole_unrolls():
    run = _run(200, horizon=40, unroll_length=4)
    drawn = _begun(EvolutionStrategies(min_horizon=8, is_staggered=False), run)
    horizons = drawn.horizons.numpy()
    assert set(horizons) == set(range(8, 41, 4))
    # Log-uniform: as many below the geometric mean, 17.9, as above.
    assert 0.35 < np.mean(horizons < 17.9) < 0.65
    one = _begun(EvolutionStrategies(is_staggered=False), run)
    assert set(one.horizons.numpy()) == {40}


def test_the_first_episodes_are_cut_short_so_that_later_ones_do_not_end_together():
    run = _run(200, horizon=40, unroll_length=4)
    horizons = _begun(EvolutionStrategies(), run).horizons.numpy()
    assert set(horizons) == set(range(4, 41, 4))
    assert np.bincount(horizons // 4)[1:].min() > 5


def test_of_an_episode_the_last_steps_count_that_are_asked_for():
    stddev = 1e-3
    run = Run(_rule(), Parabolas((CURVATURE,)), 1, HORIZON, UNROLL)
    estimator = EvolutionStrategies(
        stddev, weights="slope", is_staggered=False, reuse_noise=True, counted_share=0.5
    )
    state, losses = estimator.begin(run, _seeds(1, 0)), []
    for unroll in range(HORIZON // UNROLL):
        result = estimator.estimate(run, _seeds(1, 1 + unroll), state, UNROLL)
        state = result.state
        losses.append(float(result.meta_loss))
    squares = CURVATURE * (1 + 2 * CURVATURE * SLOPE) ** (2 * np.arange(1, HORIZON + 1))
    np.testing.assert_allclose(losses, [0, squares[3], squares[4:].sum()], rtol=1e-3)


def test_losses_that_are_not_finite_count_as_the_largest():
    problem = Parabolas((float("nan"), 1.0))
    run = Run(_rule(), problem, 2, HORIZON, UNROLL)
    bounded = EvolutionStrategies(max_loss=7.0)
    state = bounded.begin(run, _seeds(2, 0))
    result = bounded.estimate(run, _seeds(2, 1), state, UNROLL)
    assert np.isfinite(result.gradients).all()
    _, even = _losses_of_tasks(run)
    assert float(result.meta_loss) == pytest.approx((2 * 7.0 + even) / 2, rel=1e-2)
    free = EvolutionStrategies()
    assert np.isnan(free.estimate(run, _seeds(2, 1), state, UNROLL).meta_loss)


def _losses_of_tasks(run: Run) -> tuple[float, float]:
    factor = 1 + 2 * 1.0 * SLOPE
    return float("nan"), factor**2 + factor**4


# In the trainer

SETTINGS = MetaTrainingSettings(
    num_steps=6,
    unroll_length=2,
    num_meta_epochs=3,
    trajectories_per_meta_epoch=2,
    tasks_per_meta_step=4,
    num_validation_tasks=2,
)


def _trainer(checkpoint_dir=None, estimator=None, settings=SETTINGS) -> MetaTrainer:
    rule = CoordinatewiseLSTM((3,), seed=0, output_stddev=0.1)
    return MetaTrainer(
        rule,
        Quadratic(num_functions=2, initial_stddev=1.0),
        keras.optimizers.Adam(0.01, clipnorm=1.0),
        settings,
        checkpoint_dir=checkpoint_dir,
        checkpoint_seconds=0,
        estimator=estimator or EvolutionStrategies(min_horizon=2, reuse_noise=True),
    )


@pytest.fixture(scope="module")
def whole(deterministic_operations, tmp_path_factory) -> tuple[MetaTrainer, Path]:
    """A run from beginning to end, and what would have been left of it after 8 meta-steps."""
    folder = tmp_path_factory.mktemp("whole")
    trainer, killed = _trainer(folder / "run"), folder / "killed"
    trainer.fit([KeepCheckpoints(folder / "run", killed, 8)])
    return trainer, killed


@pytest.mark.slow
def test_a_run_that_was_killed_ends_with_the_weights_of_one_that_was_not(whole):
    trainer, killed = whole
    resumed = _trainer(killed)
    assert (resumed.progress.num_trajectories, resumed.progress.num_unrolls) == (2, 2)
    resumed.fit()
    for one, same in zip(resumed.rule.get_weights(), trainer.rule.get_weights(), strict=True):
        np.testing.assert_array_equal(one, same)


@pytest.mark.slow
def test_on_two_devices_estimates_are_those_on_one(whole, two_devices):
    with two_devices.scope():
        together = _trainer()
    together.fit()
    for one, other in zip(together.rule.get_weights(), whole[0].rule.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_rule_learns_from_evolution_strategies_alone():
    settings = MetaTrainingSettings(
        num_steps=20,
        unroll_length=10,
        num_meta_epochs=1,
        trajectories_per_meta_epoch=30,
        tasks_per_meta_step=4,
        num_validation_tasks=4,
    )
    trainer = _trainer(settings=settings, estimator=EvolutionStrategies())
    before, _ = trainer.validate()
    trainer.fit()
    assert trainer.validate()[0] < 0.2 * before


def test_a_run_is_told_apart_by_its_estimator(tmp_path):
    trainer = _trainer(tmp_path)
    trainer.fit([StopAfter(trainer, 1)])
    with pytest.raises(ValueError, match="with the settings it was started with"):
        _trainer(tmp_path, EvolutionStrategies(0.02))


# What is refused


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"stddev": 0}, ValueError, "stddev"),
        ({"stddev": float("nan")}, ValueError, "stddev"),
        ({"weights": 3}, TypeError, "weights"),
        ({"weights": "("}, ValueError, "weights"),
        ({"min_horizon": 0}, ValueError, "min_horizon"),
        ({"min_horizon": 2.5}, ValueError, "min_horizon"),
        ({"max_loss": float("inf")}, ValueError, "max_loss"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        EvolutionStrategies(**arguments)


def test_a_horizon_of_whole_unrolls_is_asked_for():
    settings = MetaTrainingSettings(num_steps=7, unroll_length=2)
    with pytest.raises(ValueError, match="num_steps must be a multiple of unroll_length"):
        _trainer(settings=settings)


def test_a_curriculum_is_refused_where_episodes_have_horizons_of_their_own():
    settings = MetaTrainingSettings(num_steps=8, unroll_length=2, horizons=[4, 8])
    with pytest.raises(ValueError, match=r"^horizons must be left out"):
        _trainer(settings=settings)
    settings = MetaTrainingSettings(num_steps=8, unroll_length=8, drawn_horizons=[4, 8])
    with pytest.raises(ValueError, match=r"^drawn_horizons must be left out"):
        _trainer(settings=settings)


def test_what_is_no_estimator_is_refused():
    with pytest.raises(TypeError, match="estimator must be"):
        _trainer(estimator="evolution")
