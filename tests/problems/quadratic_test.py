import json

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.problems.quadratic import FAMILIES, Quadratic
from l2l_tf.problems.seeds import task_seeds
from tests.problems.shapes import assert_variables_are_parameters_without_batch_axes
from tests.reference import quadratic as reference

SEED = (11, 4)


def _draw(problem: Quadratic, seed=SEED, step: int = 0) -> list[np.ndarray]:
    """Returns theta, W and y of a task."""
    seed = tf.constant(seed)
    (theta,) = problem.initial_parameters(seed)
    return [tensor.numpy() for tensor in (theta, *problem.batch(seed, tf.constant(step)))]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_the_squared_distance_of_each_function(family):
    # float64, so that agreement to 12 digits leaves no room for another formula.
    problem = Quadratic(
        family, num_functions=3, num_dimensions=4, initial_stddev=1.0, dtype="float64"
    )
    theta, matrices, targets = _draw(problem)
    expected = [reference.loss(*one) for one in zip(matrices, targets, theta, strict=True)]
    losses = problem.loss([tf.constant(theta)], (matrices, targets))
    np.testing.assert_allclose(losses, expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_parameters_batch_and_losses_have_the_stated_shapes_and_dtype(dtype):
    problem = Quadratic(num_functions=3, num_dimensions=4, dtype=dtype)
    theta, matrices, targets = _draw(problem)
    losses = problem.loss([tf.constant(theta)], (matrices, targets))
    assert [tensor.shape for tensor in (theta, matrices, targets, losses)] == [
        (3, 4),
        (3, 4, 4),
        (3, 4),
        (3,),
    ]
    assert {tensor.dtype for tensor in (theta, matrices, targets, losses.numpy())} == {
        np.dtype(dtype)
    }


def test_float64_changes_the_precision_and_not_the_task():
    single, double = (_draw(Quadratic("gaussian", 5, dtype=d)) for d in ("float32", "float64"))
    for one, other in zip(single, double, strict=True):
        np.testing.assert_array_equal(one, other)


def test_parameter_shapes_and_num_coordinates_match_what_is_drawn():
    problem = Quadratic(num_functions=3, num_dimensions=4)
    assert problem.parameter_shapes == [(3, 4)]
    assert problem.num_coordinates == 12


def test_the_uniform_family_has_the_moments_of_the_uniform_distribution():
    # 100,000 and 10,000 entries; the tolerances are five standard errors.
    _, matrices, targets = _draw(Quadratic("uniform", num_functions=1000))
    for entries in (matrices, targets):
        assert entries.min() >= 0
        assert entries.max() < 1
        np.testing.assert_allclose(entries.mean(), 0.5, atol=5 * 12**-0.5 * entries.size**-0.5)
        np.testing.assert_allclose(entries.var(), 1 / 12, atol=5 * 180**-0.5 * entries.size**-0.5)


def test_the_gaussian_family_has_the_moments_of_the_standard_normal_distribution():
    # E x = 0, E x^2 = 1, E x^4 = 3 with variances 1, 2 and 96; five standard errors.
    _, matrices, targets = _draw(Quadratic("gaussian", num_functions=1000))
    for entries in (matrices, targets):
        for power, moment, variance in [(1, 0, 1), (2, 1, 2), (4, 3, 96)]:
            np.testing.assert_allclose(
                (entries.astype(np.float64) ** power).mean(),
                moment,
                atol=5 * (variance / entries.size) ** 0.5,
            )


@pytest.mark.parametrize("num_dimensions", [1, 2, 10])
def test_the_ill_conditioned_family_has_the_stated_singular_values(num_dimensions):
    problem = Quadratic("ill_conditioned", 50, num_dimensions)
    _, matrices, targets = _draw(problem)
    found = np.linalg.svd(matrices.astype(np.float64), compute_uv=False)
    # The Hessian's condition number is the square of this ratio, 100.
    expected = np.geomspace(num_dimensions**0.5, num_dimensions**0.5 / 100, num_dimensions)
    np.testing.assert_allclose(found, np.tile(expected, (50, 1)), rtol=1e-4)
    # Its directions are random: matrices of different functions have nothing in common.
    if num_dimensions == 10:
        units = matrices[:, 0] / np.linalg.norm(matrices[:, 0], axis=1, keepdims=True)
        cosines = (units @ units.T)[np.triu_indices(50, 1)]
        # 1,225 cosines of variance 1/10; five standard errors.
        np.testing.assert_allclose(cosines.mean(), 0, atol=5 * 0.1**0.5 / 1225**0.5)
        np.testing.assert_allclose((cosines**2).mean(), 0.1, atol=0.02)
    assert targets.std() == pytest.approx(1, abs=5 * (2 * targets.size) ** -0.5)


@pytest.mark.parametrize(
    # E||y||^2 = D E y_i^2, with variances D Var y_i^2 of 10 (1/5 - 1/9) and 10 * 2.
    ("family", "mean", "variance"),
    [("uniform", 10 / 3, 10 * (1 / 5 - 1 / 9)), ("gaussian", 10.0, 20.0)],
)
def test_a_task_that_starts_at_zero_starts_at_the_mean_squared_norm_of_y(family, mean, variance):
    problem = Quadratic(family, num_functions=2000, initial_stddev=0.0)
    theta, matrices, targets = _draw(problem)
    assert not theta.any()
    losses = problem.loss([tf.constant(theta)], (matrices, targets)).numpy()
    np.testing.assert_allclose(losses.mean(), mean, atol=5 * (variance / 2000) ** 0.5)


def test_parameters_matrices_and_targets_are_drawn_independently():
    # Draws that shared a seed would be equal, or correlated. 5,000 pairs: five standard errors.
    theta, matrices, targets = _draw(Quadratic("gaussian", 500, initial_stddev=1.0))
    draws = [theta.ravel(), matrices[:, 0].ravel(), matrices.ravel()[:5000], targets.ravel()]
    correlations = np.corrcoef(np.stack([draws[0], draws[1], draws[3]]))
    np.testing.assert_allclose(correlations, np.eye(3), atol=5 * 5000**-0.5)
    assert abs(np.corrcoef(draws[2], draws[3])[0, 1]) < 5 * 5000**-0.5


def test_a_functions_gradient_does_not_depend_on_how_many_others_run_beside_it():
    many, one = (Quadratic("gaussian", count, initial_stddev=1.0) for count in (64, 1))
    theta, matrices, targets = _draw(many)

    def gradient(problem, part):
        parameters = tf.constant(theta[part])
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            losses = problem.loss([parameters], (matrices[part], targets[part]))
        return tape.gradient(losses, parameters).numpy()

    together = gradient(many, slice(None))
    for index in (0, 17, 63):
        alone = gradient(one, slice(index, index + 1))[0]
        exact = reference.gradient(matrices[index], targets[index], theta[index])
        # Components are of order 10 and sums of some hundred products in float32.
        np.testing.assert_allclose(alone, exact, rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(together[index], alone, rtol=1e-5, atol=1e-4)


def test_the_batch_is_the_same_at_every_step():
    problem = Quadratic(num_functions=2)
    assert not problem.is_stochastic
    for first, later in zip(_draw(problem, step=0), _draw(problem, step=77), strict=True):
        np.testing.assert_array_equal(first, later)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_seed_names_the_same_task_eagerly_and_compiled(family, jit_compile):
    problem = Quadratic(family, num_functions=4)

    def draw(seed, step):
        return *problem.initial_parameters(seed), *problem.batch(seed, step)

    arguments = tf.constant(SEED), tf.constant(0)
    compiled = tf.function(draw, autograph=False, jit_compile=jit_compile)(*arguments)
    for one, other in zip(draw(*arguments), compiled, strict=True):
        # The bits drawn are the same; the logarithm and cosine of a normal draw may round apart.
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_the_same_seed_gives_the_same_task_and_another_seed_another():
    problem = Quadratic(num_functions=2)
    for one, same, other in zip(
        _draw(problem), _draw(problem), _draw(problem, (11, 5)), strict=True
    ):
        np.testing.assert_array_equal(one, same)
        assert not np.isclose(one, other).all()


def test_tasks_of_a_split_differ_and_so_do_the_functions_of_a_task():
    problem = Quadratic(num_functions=2)
    first, second = (_draw(problem, seed) for seed in task_seeds(0, "test", 0, 2).numpy())
    for one, other in zip(first, second, strict=True):
        assert len({one[0].tobytes(), one[1].tobytes(), other[0].tobytes()}) == 3


def test_the_initial_standard_deviation_scales_the_start_and_nothing_else():
    small, large = (Quadratic(num_functions=100, initial_stddev=s) for s in (0.01, 1.0))
    (start, *batch), (scaled_start, *scaled_batch) = _draw(small), _draw(large)
    np.testing.assert_allclose(start, 0.01 * scaled_start, rtol=1e-6)
    # 1,000 standard normal entries: the standard error of their deviation is 1 / sqrt(2,000).
    np.testing.assert_allclose(scaled_start.std(), 1.0, atol=5 * 2000**-0.5)
    for one, other in zip(batch, scaled_batch, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_paper_is_the_default():
    problem = Quadratic()
    assert problem.name == "quadratic_uniform"
    assert problem.num_functions == 128
    assert problem.parameter_shapes == [(128, 10)]


def test_a_problem_is_rebuilt_from_its_config():
    problem = Quadratic("gaussian", 3, 4, 0.5, "float64")
    config = json.loads(json.dumps(problem.get_config()))
    assert config == {
        "family": "gaussian",
        "num_functions": 3,
        "num_dimensions": 4,
        "initial_stddev": 0.5,
        "dtype": "float64",
    }
    rebuilt = Quadratic(**config)
    assert rebuilt.name == problem.name == "quadratic_gaussian"
    for one, other in zip(_draw(problem), _draw(rebuilt), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("family", "cauchy"),
        ("num_functions", 0),
        ("num_dimensions", -3),
        ("num_functions", 2.5),
        ("initial_stddev", -0.01),
        ("initial_stddev", float("nan")),
    ],
)
def test_an_argument_out_of_range_is_refused(argument, value):
    with pytest.raises(ValueError, match=f"^{argument} must"):
        Quadratic(**{argument: value})


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ValueError) as raised:
        Quadratic(dtype="int7")
    assert str(raised.value) == (
        "dtype must be 'float32' or 'float64'. Received: dtype='int7'. Leave it out for float32."
    )


@pytest.mark.parametrize("num_functions", [1, 3])
def test_its_functions_are_batch_axes_of_one_vector(num_functions):
    problem = Quadratic(num_functions=num_functions, num_dimensions=4)
    assert problem.batch_shape == (num_functions,)
    assert [spec.shape for spec in problem.variables] == [(4,)]
    assert_variables_are_parameters_without_batch_axes(problem)
