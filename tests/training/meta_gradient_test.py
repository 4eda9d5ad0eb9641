import keras
import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.problems import Problem, Quadratic, StackedProblem, task_seeds
from l2l_tf.rules import CoordinatewiseLSTM
from l2l_tf.training.meta_gradient import meta_gradient
from l2l_tf.training.unroll import start, unroll
from tests.reference import lstm as lstm_reference
from tests.reference import quadratic as quadratic_reference
from tests.reference import truncated_backpropagation as reference
from tests.reference.trajectory import follow
from tests.training.toys import LinearRule, NoisyBowls, Parabolas

SEED = task_seeds(0, "train", 3, 1)[0]
STEP_WEIGHTS = [0.5, 0.0, 2.0, 1.0]


def _lstm(units=(3, 2), **arguments) -> CoordinatewiseLSTM:
    """Returns a small float64 rule that moves coordinates by some tenths in each step."""
    defaults = {"preprocessing": "log_and_sign", "output_stddev": 3.0, "seed": 1}
    return CoordinatewiseLSTM(units, **defaults | arguments, dtype="float64")


def _problems() -> list[Problem]:
    return [Quadratic("gaussian", 2, 3, dtype="float64"), NoisyBowls(dtype="float64")]


def _later(rule, problem, seed):
    """Returns where the first unroll of a trajectory ends and the second begins."""
    return unroll(rule, problem, seed, start(rule, problem, seed), 3)[1]


def _assert_gradients_agree(gradients, expected, rtol: float) -> None:
    """Holds each gradient to what is expected, relative to the largest of its entries."""
    assert len(gradients) == len(expected)
    for ours, theirs in zip(gradients, expected, strict=True):
        scale = np.abs(theirs).max()
        assert scale > 0
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=rtol * scale)


# Published and closed-form values


def test_one_meta_step_on_a_parabola_gives_the_original_codes_values():
    rule, problem = LinearRule(), Parabolas()
    result = meta_gradient(rule, problem, SEED, start(rule, problem, SEED), 5)
    # x stays at 1 with gradient 2: step t's delta counts in 5 - t losses, each with slope 2.
    np.testing.assert_array_equal(result.meta_loss, 5)
    np.testing.assert_array_equal(result.losses, np.ones([5, 1]))
    np.testing.assert_array_equal(result.gradients, [2 * 2 * (5 + 4 + 3 + 2 + 1), 30])
    keras.optimizers.Adam(0.01).apply(result.gradients, rule.trainable_variables)
    steps, last = unroll(rule, problem, SEED, start(rule, problem, SEED), 5)
    # Source: the tests of github.com/google-deepmind/learning-to-learn. Adam's 1 - beta_2 has four
    # digits in float32: its step of 0.01 is off by 1e-7, and x by ten times that.
    np.testing.assert_allclose(last.parameters, [0.8558812], atol=2e-6)
    np.testing.assert_allclose(steps.losses[-1], [0.7325326], atol=4e-6)


def test_with_second_derivatives_a_linear_rule_on_a_parabola_has_its_closed_form():
    rule, problem = LinearRule(), Parabolas([0.5])
    rule.slope.assign(-0.3)
    first = start(rule, problem, SEED)
    # f = x^2 / 2 has slope x, so x_t = (1 + w)^t and L = sum of (1 + w)^(2t) / 2.
    full = meta_gradient(rule, problem, SEED, first, 4, second_derivatives=True)
    steps = np.arange(1, 5)
    np.testing.assert_allclose(full.gradients[0], np.sum(steps * 0.7 ** (2 * steps - 1)), rtol=1e-6)
    # With the slopes taken as constants, x_t = 1 + w sum of g_s, and g_s = 0.7^s.
    plain = meta_gradient(rule, problem, SEED, first, 4)
    expected = sum(0.7**t * sum(0.7**s for s in range(t)) for t in steps)
    np.testing.assert_allclose(plain.gradients[0], expected, rtol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.9, 1.0])
def test_of_second_derivatives_the_share_passes_that_is_asked_for(share):
    rule, problem = LinearRule(), Parabolas([0.5])
    rule.slope.assign(-1.8)
    first = start(rule, problem, SEED)
    result = meta_gradient(rule, problem, SEED, first, 6, second_derivatives=share)
    # x_(t+1) = x_t + w g_t with g_t = x_t, which lets the share pass of what flows back through it:
    # D_(t+1) = x_t + (1 + share w) D_t, where D_t stands for dx_t/dw.
    point, derivative, expected = 1.0, 0.0, 0.0
    for _ in range(6):
        point, derivative = -0.8 * point, point + (1 - share * 1.8) * derivative
        expected += point * derivative
    np.testing.assert_allclose(result.gradients[0], expected, rtol=1e-6)
    full = meta_gradient(rule, problem, SEED, first, 6, second_derivatives=1)
    np.testing.assert_array_equal(result.losses, full.losses)


# Derivatives


@pytest.mark.slow
@pytest.mark.parametrize("second_derivatives", [False, True])
@pytest.mark.parametrize("preprocessing", ["none", "log_and_sign"])
def test_the_meta_gradient_is_that_of_finite_differences(preprocessing, second_derivatives):
    num_functions, num_dimensions, num_steps = 2, 2, 4
    problem = Quadratic("gaussian", num_functions, num_dimensions, dtype="float64")
    rule = _lstm((2, 2), preprocessing=preprocessing, output_scale=0.5)
    p = None if preprocessing == "none" else rule.p
    functions = list(zip(*(part.numpy() for part in problem.batch(SEED, 0)), strict=True))
    begin = problem.initial_parameters(SEED)[0].numpy().reshape(-1)

    def deltas_of(gradients: np.ndarray) -> np.ndarray:
        return lstm_reference.deltas(lstm_reference.Weights.of(rule), gradients, p, 0.5)

    def gradient_at(point: np.ndarray, step: int) -> np.ndarray:
        thetas = point.reshape(num_functions, num_dimensions)
        return np.concatenate(
            [
                quadratic_reference.gradient(*function, theta)
                for function, theta in zip(functions, thetas, strict=True)
            ]
        )

    seen = follow(deltas_of, gradient_at, begin, num_steps).gradients[:-1]

    def meta_loss() -> float:
        if second_derivatives:
            points = follow(deltas_of, gradient_at, begin, num_steps).points[1:]
        else:
            # What the rule reads stays as it was; the losses are those where its deltas lead.
            points = begin + np.cumsum(deltas_of(seen), axis=0)
        total = 0.0
        for weight, point in zip(STEP_WEIGHTS, points, strict=True):
            thetas = point.reshape(num_functions, num_dimensions)
            for function, theta in zip(functions, thetas, strict=True):
                total += weight * quadratic_reference.loss(*function, theta) / num_functions
        return total

    expected = [_central_differences(meta_loss, weight) for weight in rule.trainable_variables]
    result = tf.function(meta_gradient)(
        rule,
        problem,
        SEED,
        start(rule, problem, SEED),
        num_steps,
        tf.constant(STEP_WEIGHTS, tf.float64),
        second_derivatives,
    )
    np.testing.assert_allclose(result.meta_loss, meta_loss(), rtol=1e-12)
    # Differences of width 1e-5 err by 1e-10 times third derivatives, and round by 1e-11.
    _assert_gradients_agree(result.gradients, expected, rtol=1e-6)


def _central_differences(function, weight: keras.Variable, width: float = 1e-5) -> np.ndarray:
    """Returns the derivatives of a function with respect to each entry of a weight it reads."""
    value = weight.numpy()
    result = np.zeros_like(value)
    for index in np.ndindex(value.shape):
        ends = []
        for sign in (1, -1):
            moved = value.copy()
            moved[index] += sign * width
            weight.assign(moved)
            ends.append(function())
        result[index] = (ends[0] - ends[1]) / (2 * width)
    weight.assign(value)
    return result


@pytest.mark.parametrize("second_derivatives", [False, True])
@pytest.mark.parametrize("step_weights", [None, STEP_WEIGHTS])
@pytest.mark.parametrize("begin", [start, _later], ids=["first_unroll", "second_unroll"])
@pytest.mark.parametrize("problem", _problems(), ids=lambda problem: problem.name)
def test_the_meta_gradient_is_that_of_the_unrolled_graph(
    problem, begin, step_weights, second_derivatives
):
    rule = _lstm()
    iterate = begin(rule, problem, SEED)
    expected_loss, expected = reference.meta_gradient(
        rule, problem, SEED, iterate, 4, step_weights, second_derivatives
    )
    weights = None if step_weights is None else tf.constant(step_weights, tf.float64)
    result = meta_gradient(rule, problem, SEED, iterate, 4, weights, second_derivatives)
    np.testing.assert_allclose(result.meta_loss, expected_loss, rtol=1e-12)
    # float64 sums in another order.
    _assert_gradients_agree(result.gradients, expected, rtol=1e-10)


def test_second_derivatives_make_a_difference():
    # Else the tests of the one could pass with the other's formula.
    rule, problem = _lstm(), _problems()[0]
    first = start(rule, problem, SEED)
    plain, full = (
        meta_gradient(rule, problem, SEED, first, 4, second_derivatives=choice).gradients
        for choice in (False, True)
    )
    assert tf.linalg.global_norm([a - b for a, b in zip(plain, full, strict=True)]) > 1e-3


# Agreement


@pytest.mark.parametrize("second_derivatives", [False, True])
def test_xla_gives_the_same_meta_gradient(second_derivatives):
    rule, problem = _lstm(), Quadratic("uniform", 2, 3, dtype="float64")
    iterate = _later(rule, problem, SEED)

    def gradients_of(iterate):
        arguments = {"second_derivatives": second_derivatives}
        return meta_gradient(rule, problem, SEED, iterate, 3, **arguments).gradients

    # XLA rounds float64 otherwise; the uniform family's draws are exact, as Gaussian ones are not.
    compiled = tf.function(gradients_of, jit_compile=True)(iterate)
    _assert_gradients_agree(compiled, gradients_of(iterate), rtol=1e-9)


@pytest.mark.parametrize("second_derivatives", [False, True])
def test_a_compiled_meta_gradient_is_the_eager_one(second_derivatives):
    rule, problem = _lstm(), _problems()[1]
    first = start(rule, problem, SEED)
    arguments = (rule, problem, SEED, first, 3, None, second_derivatives)
    eager = tf.nest.flatten(meta_gradient(*arguments))
    compiled = tf.nest.flatten(tf.function(meta_gradient)(*arguments))
    for one, other in zip(compiled, eager, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("second_derivatives", [False, True])
def test_losses_and_iterate_are_those_of_the_unroll(second_derivatives):
    rule, problem = _lstm(), _problems()[1]
    first = start(rule, problem, SEED)
    weights = tf.constant(STEP_WEIGHTS, tf.float64)
    result = meta_gradient(rule, problem, SEED, first, 4, weights, second_derivatives)
    steps, last = unroll(rule, problem, SEED, first, 4)
    np.testing.assert_array_equal(result.losses, steps.losses)
    tf.nest.map_structure(np.testing.assert_array_equal, result.iterate, last)
    expected = np.sum(np.array(STEP_WEIGHTS) * steps.losses.numpy().mean(axis=1))
    np.testing.assert_allclose(result.meta_loss, expected, rtol=1e-12)


# Properties


@pytest.mark.slow
@pytest.mark.parametrize("second_derivatives", [False, True])
@pytest.mark.parametrize("problem", _problems(), ids=lambda problem: problem.name)
def test_a_task_beside_itself_has_the_meta_gradient_of_one(problem, second_derivatives):
    rule = _lstm()
    results = []
    for num_copies in (1, 2):
        stacked = StackedProblem(problem, num_copies)
        seeds = tf.tile(SEED[tf.newaxis], [num_copies, 1])
        first = start(rule, stacked, seeds)
        results.append(
            tf.function(meta_gradient)(
                rule, stacked, seeds, first, 3, second_derivatives=second_derivatives
            )
        )
    one, two = results
    np.testing.assert_allclose(two.meta_loss, one.meta_loss, rtol=1e-12)
    _assert_gradients_agree(two.gradients, one.gradients, rtol=1e-10)


def test_the_meta_gradient_of_tasks_side_by_side_is_the_mean_of_each_alone():
    rule, problem = _lstm(), _problems()[1]
    seeds = task_seeds(0, "train", 0, 3)
    stacked = StackedProblem(problem, 3)
    first = start(rule, stacked, seeds)
    together = tf.function(meta_gradient)(rule, stacked, seeds, first, 4)
    alone = [
        meta_gradient(rule, problem, seed, start(rule, problem, seed), 4).gradients
        for seed in seeds
    ]
    means = [np.mean(parts, axis=0) for parts in zip(*alone, strict=True)]
    _assert_gradients_agree(together.gradients, means, rtol=1e-10)


def test_permuting_coordinates_leaves_the_meta_gradient_alone():
    rule = _lstm()
    plain, permuted = (
        NoisyBowls(num_functions=1, order=order, dtype="float64")
        for order in ([0, 1, 2], [2, 0, 1])
    )
    results = [
        meta_gradient(rule, problem, SEED, start(rule, problem, SEED), 4)
        for problem in (plain, permuted)
    ]
    _assert_gradients_agree(results[0].gradients, results[1].gradients, rtol=1e-10)


def test_a_weight_without_effect_has_a_gradient_of_zero():
    class RuleWithSpareWeight(LinearRule):
        def __init__(self):
            super().__init__()
            self.built = False
            self.spare = self.add_weight(name="spare", shape=(2,), initializer="ones")
            self.built = True

    rule, problem = RuleWithSpareWeight(), Parabolas()
    first = start(rule, problem, SEED)
    for wrap in (lambda function: function, tf.function):
        result = wrap(meta_gradient)(rule, problem, SEED, first, 2)
        assert len(result.gradients) == 3
        np.testing.assert_array_equal(result.gradients[2], [0, 0])


def test_a_frozen_weight_has_no_gradient():
    rule, problem = LinearRule(), Parabolas()
    rule.bias.trainable = False
    result = meta_gradient(rule, problem, SEED, start(rule, problem, SEED), 5)
    np.testing.assert_array_equal(result.gradients, [60])


# Hygiene


class _Deep(Problem):
    """A parabola behind many layers, whose activations a backward pass may or may not need."""

    name = "deep"
    is_stochastic = False

    def __init__(self, depth: int):
        self.depth = depth

    def initial_parameters(self, seed):
        return [tf.ones([2])]

    def batch(self, seed, step):
        return tf.ones([2, 5])

    def loss(self, parameters, batch):
        activations = parameters[0][tf.newaxis] @ batch
        for _ in range(self.depth):
            activations = tf.tanh(activations)
        return tf.reduce_sum(tf.square(activations), axis=1)

    def get_config(self):
        return {"depth": self.depth}


@pytest.mark.parametrize("second_derivatives", [False, True])
def test_an_unroll_keeps_no_activations_of_the_optimizee_but_for_second_derivatives(
    second_derivatives,
):
    def num_values_kept(depth: int) -> int:
        rule, problem = LinearRule(), _Deep(depth)
        graph = (
            tf.function(meta_gradient)
            .get_concrete_function(
                rule,
                problem,
                SEED,
                start(rule, problem, SEED),
                3,
                second_derivatives=second_derivatives,
            )
            .graph
        )
        # What a loop keeps for its backward pass it carries along, a list for each value.
        loops = [op for op in graph.get_operations() if op.type in ("While", "StatelessWhile")]
        assert len(loops) == 2
        return max(len(loop.outputs) for loop in loops)

    assert (num_values_kept(8) > num_values_kept(1)) == second_derivatives


def test_one_trace_serves_every_unroll_of_every_task():
    rule, problem = _lstm(), NoisyBowls(dtype="float64")
    compiled = tf.function(lambda seed, iterate: meta_gradient(rule, problem, seed, iterate, 2))
    for seed in task_seeds(0, "train", 0, 2):
        iterate = start(rule, problem, seed)
        for _ in range(2):
            iterate = compiled(seed, iterate).iterate
    assert compiled.experimental_get_tracing_count() == 1
