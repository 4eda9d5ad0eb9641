import json
import math

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.problems.augmented import RandomlyScaled, WithConvexTerm, WithRandomGains
from l2l_tf.problems.problem import StackedProblem
from l2l_tf.problems.quadratic import Quadratic
from l2l_tf.problems.seeds import task_seeds
from tests.reference import quadratic as reference
from tests.training.toys import NoisyBowls

SEEDS = task_seeds(0, "train", 0, 9)
STEP = tf.constant(5)
# With one parameter and several functions; with two parameters and minibatches.
PROBLEMS = [Quadratic(num_functions=3, num_dimensions=4, initial_stddev=1.0), NoisyBowls()]
WRAPPERS = [RandomlyScaled, WithConvexTerm, lambda f: WithConvexTerm(RandomlyScaled(f))]


def _arrays(nest) -> list[np.ndarray]:
    return [tensor.numpy() for tensor in tf.nest.flatten(nest)]


# Random scaling


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_a_scaled_problem_is_the_problem_at_parameters_times_scales(problem):
    scaled = RandomlyScaled(problem)
    parameters = scaled.initial_parameters(SEEDS[0])
    batch, scales = scaled.batch(SEEDS[0], STEP)
    for own, theirs in zip(_arrays(batch), _arrays(problem.batch(SEEDS[0], STEP)), strict=True):
        np.testing.assert_array_equal(own, theirs)
    for parameter, scale, start in zip(
        parameters, scales, problem.initial_parameters(SEEDS[0]), strict=True
    ):
        np.testing.assert_allclose(parameter * scale, start, rtol=1e-6)
    moved = [parameter + 0.1 for parameter in parameters]
    np.testing.assert_allclose(
        scaled.loss(moved, (batch, scales)),
        problem.loss([x * scale for x, scale in zip(moved, scales, strict=True)], batch),
        rtol=1e-6,
    )


def test_losses_and_gradients_of_scaled_quadratics_are_those_of_their_formulas():
    scaled = RandomlyScaled(Quadratic(num_functions=3, num_dimensions=4, dtype="float64"))
    (theta,) = scaled.initial_parameters(SEEDS[0])
    batch = scaled.batch(SEEDS[0], STEP)
    (matrices, targets), (scales,) = batch
    theta += 0.1
    with tf.GradientTape() as tape:
        tape.watch(theta)
        losses = scaled.loss([theta], batch)
    gradients = tape.gradient(losses, theta)
    for row in range(3):
        function = matrices[row].numpy() * scales[row].numpy(), targets[row].numpy()
        np.testing.assert_allclose(
            losses[row], reference.loss(*function, theta[row].numpy()), rtol=1e-6
        )
        np.testing.assert_allclose(
            gradients[row], reference.gradient(*function, theta[row].numpy()), rtol=1e-5
        )


def test_logarithms_of_scales_are_uniform_up_to_the_range_on_both_sides():
    scaled = RandomlyScaled(Quadratic(num_functions=100, num_dimensions=100), 2.0)
    (scales,) = scaled.batch(SEEDS[0], STEP)[1]
    logarithms = np.sort(np.log(scales.numpy().ravel()))
    # 10,000 draws stay within .0163 of the distribution with a probability of .99 (Kolmogorov).
    quantiles = np.linspace(-2, 2, len(logarithms))
    assert np.abs(logarithms - quantiles).max() < 4 * 0.0163
    assert np.abs(logarithms).max() <= 2


def test_scales_differ_from_task_to_task_and_coordinate_to_coordinate_but_stay_over_steps():
    scaled = RandomlyScaled(NoisyBowls())
    first, again, other = (
        np.concatenate([part.ravel() for part in _arrays(scaled.batch(seed, step)[1])])
        for seed, step in [(SEEDS[0], STEP), (SEEDS[0], STEP + 1), (SEEDS[1], STEP)]
    )
    np.testing.assert_array_equal(first, again)
    assert len({*first, *other}) == len(first) + len(other)


# The convex term


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_the_convex_term_is_the_mean_square_of_scaled_distances(problem):
    with_term = WithConvexTerm(problem, num_dimensions=6, log_range=1.5)
    *own, x = with_term.initial_parameters(SEEDS[0])
    for ours, theirs in zip(
        _arrays(own), _arrays(problem.initial_parameters(SEEDS[0])), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert x.shape == (problem.num_functions, 6)
    assert not x.numpy().any()
    batch, scales, targets = with_term.batch(SEEDS[0], STEP)
    expected = problem.loss(own, batch).numpy()
    for function in range(problem.num_functions):
        distances = [
            float(scales[function, k]) * 0.3 - float(targets[function, k]) for k in range(6)
        ]
        expected[function] += sum(distance**2 for distance in distances) / 6
    np.testing.assert_allclose(
        with_term.loss([*own, x + 0.3], (batch, scales, targets)), expected, rtol=1e-5
    )


def test_targets_are_uniform_on_minus_one_to_one_and_scales_up_to_the_range():
    with_term = WithConvexTerm(Quadratic(num_functions=100, num_dimensions=1), 100)
    _, scales, targets = with_term.batch(SEEDS[0], STEP)
    quantiles = np.linspace(-1, 1, 10_000)
    for numbers in (targets.numpy(), np.log(scales.numpy())):
        # As above, for a distribution of width 2.
        assert np.abs(np.sort(numbers.ravel()) - quantiles).max() < 2 * 0.0163
    # Targets and scales are independent: their correlation is within 4 standard errors of zero.
    correlation = np.corrcoef(targets.numpy().ravel(), np.log(scales.numpy().ravel()))[0, 1]
    assert abs(correlation) < 4 / math.sqrt(10_000)


def test_the_term_differs_from_task_to_task_but_stays_over_steps():
    with_term = WithConvexTerm(NoisyBowls())
    first, again, other = (
        _arrays(with_term.batch(seed, step)[1:])
        for seed, step in [(SEEDS[0], STEP), (SEEDS[0], STEP + 1), (SEEDS[1], STEP)]
    )
    np.testing.assert_array_equal(first, again)
    assert not np.equal(first, other).any()


# Both


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
@pytest.mark.parametrize("wrap", WRAPPERS, ids=["scaled", "convex", "both"])
# One task, some that are written out, and some that are vectorized.
@pytest.mark.parametrize("num_tasks", [1, 3, 9])
def test_stacked_tasks_are_the_tasks_run_apart(problem, wrap, num_tasks):
    wrapped = wrap(problem)
    stacked = StackedProblem(wrapped, num_tasks)
    seeds = SEEDS[:num_tasks]
    parameters, batch = stacked.initial_parameters(seeds), stacked.batch(seeds, STEP)
    losses = tf.reshape(stacked.loss(parameters, batch), [num_tasks, -1])
    for task, seed in enumerate(seeds):
        own_parameters, own_batch = wrapped.initial_parameters(seed), wrapped.batch(seed, STEP)
        for whole, part in zip(
            tf.nest.flatten((parameters, batch)),
            tf.nest.flatten((own_parameters, own_batch)),
            strict=True,
        ):
            # A vectorized exponential may differ in its last bit.
            np.testing.assert_allclose(whole[task], part, rtol=3e-7)
        np.testing.assert_allclose(losses[task], wrapped.loss(own_parameters, own_batch), rtol=1e-5)


@pytest.mark.parametrize("wrap", WRAPPERS, ids=["scaled", "convex", "both"])
def test_a_wrapped_problem_says_what_it_is(wrap):
    for problem in PROBLEMS:
        wrapped = wrap(problem)
        assert wrapped.num_functions == problem.num_functions
        assert wrapped.is_stochastic == problem.is_stochastic
        shapes = [tuple(part.shape) for part in wrapped.initial_parameters(SEEDS[0])]
        assert wrapped.parameter_shapes == shapes
        assert json.dumps(wrapped.get_config())
        assert wrapped.name.startswith(problem.name)
        assert wrapped.name != problem.name


class _Counting(NoisyBowls):
    """Counts how often the losses of tasks side by side are asked for."""

    min_tasks_side_by_side = 4
    num_calls = 0

    def losses_of_tasks(self, parameters, batch):
        self.num_calls += 1
        return super().losses_of_tasks(parameters, batch)


@pytest.mark.parametrize("wrap", WRAPPERS, ids=["scaled", "convex", "both"])
@pytest.mark.parametrize("num_tasks", [1, 3, 9])
def test_tasks_side_by_side_share_what_those_of_the_problem_share(wrap, num_tasks):
    problem = _Counting()
    wrapped = wrap(problem)
    assert wrapped.min_tasks_side_by_side == 4
    stacked, seeds = StackedProblem(wrapped, num_tasks), SEEDS[:num_tasks]
    stacked.loss(stacked.initial_parameters(seeds), stacked.batch(seeds, STEP))
    assert problem.num_calls == 1


def test_the_parameters_of_the_convex_term_are_named_and_have_an_axis_of_their_own():
    names = [[spec.path for spec in wrap(PROBLEMS[1]).variables] for wrap in WRAPPERS]
    own = ["parameter_0", "parameter_1"]
    assert names == [own, [*own, "convex_term/x"], [*own, "convex_term/x"]]
    assert WithConvexTerm(PROBLEMS[1], 7).variables[-1].shape == (7,)


def test_configurations_hold_the_problems_and_every_argument():
    problem = PROBLEMS[0]
    assert WithConvexTerm(RandomlyScaled(problem, 2.0), 7, 0.5).get_config() == {
        "problem": {"problem": problem.get_config(), "log_range": 2.0},
        "num_dimensions": 7,
        "log_range": 0.5,
    }


@pytest.mark.parametrize("wrapper", [RandomlyScaled, WithConvexTerm])
def test_what_is_no_problem_is_refused(wrapper):
    with pytest.raises(TypeError, match=r"^problem must"):
        wrapper(3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: RandomlyScaled(PROBLEMS[0], 0.0),
            "log_range must be positive and at most 20. Received: log_range=0.0. "
            "Give, say, 1: scales from 1/e to e.",
        ),
        (
            lambda: RandomlyScaled(PROBLEMS[0], math.nan),
            "log_range must be positive and at most 20. Received: log_range=nan. "
            "Give, say, 1: scales from 1/e to e.",
        ),
        (
            lambda: WithConvexTerm(PROBLEMS[0], log_range=-1.0),
            "log_range must be not negative and at most 20. Received: log_range=-1.0. "
            "Give, say, 1: scales from 1/e to e.",
        ),
    ],
    ids=["no_scaling", "nan", "negative"],
)
def test_a_range_of_scales_that_is_none_is_refused(make, message):
    with pytest.raises(ValueError) as raised:
        make()
    assert str(raised.value) == message


def test_a_convex_term_without_dimensions_is_refused():
    with pytest.raises(ValueError, match=r"^num_dimensions must"):
        WithConvexTerm(PROBLEMS[0], 0)


def test_a_convex_term_may_have_no_scales():
    _, scales, _ = WithConvexTerm(PROBLEMS[0], log_range=0.0).batch(SEEDS[0], STEP)
    np.testing.assert_array_equal(scales, np.ones([3, 20]))


# Random gains


def test_initial_matrices_are_multiplied_by_factors_up_to_the_range():
    class Net(NoisyBowls):
        """A matrix and a vector beside an axis of functions."""

        def initial_parameters(self, seed):
            return [tf.ones([4, 2, 3]), tf.ones([4, 3])]

        @property
        def batch_shape(self):
            return (4,)

    problem = WithRandomGains(Net(), 0.5)
    matrices, vectors = zip(*map(problem.initial_parameters, SEEDS), strict=True)
    np.testing.assert_array_equal(vectors, np.ones([9, 4, 3]))
    logarithms = np.log([matrix.numpy() for matrix in matrices])
    # One factor for a task's matrix.
    assert np.ptp(logarithms.reshape(9, -1), axis=1).max() == 0
    assert 0.2 < np.abs(logarithms).max() <= 0.5
    assert logarithms.min() < 0 < logarithms.max()


def test_a_problem_with_random_gains_is_the_problem_otherwise():
    inner = NoisyBowls()
    problem = WithRandomGains(inner)
    assert problem.name == "noisy_bowls_gains"
    assert problem.get_config() == {"problem": inner.get_config(), "log_range": 0.5}
    parameters, batch = inner.initial_parameters(SEEDS[0]), problem.batch(SEEDS[0], STEP)
    np.testing.assert_array_equal(batch, inner.batch(SEEDS[0], STEP))
    np.testing.assert_array_equal(problem.loss(parameters, batch), inner.loss(parameters, batch))


@pytest.mark.parametrize("log_range", [0, -1, float("nan")])
def test_a_range_of_gains_that_is_none_is_refused(log_range):
    with pytest.raises(ValueError, match=r"^log_range must"):
        WithRandomGains(NoisyBowls(), log_range)
