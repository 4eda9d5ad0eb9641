import keras
import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.evaluation.unroll import bind, start, unroll
from l2l_tf.problems import Problem, Quadratic, StackedProblem, task_seeds
from l2l_tf.rules import CoordinatewiseLSTM, RNNprop, Route, RoutedRule
from l2l_tf.training.meta_gradient import meta_gradient
from tests.reference import lstm as lstm_reference
from tests.reference import quadratic as quadratic_reference
from tests.reference import truncated_backpropagation as reference
from tests.reference.trajectory import follow
from tests.rules.execution.arrangements import ARRANGEMENTS, of_problem
from tests.training.toys import (
    LearnedLength,
    LinearRule,
    NoisyBowls,
    Parabolas,
    WeightDecay,
    walk_of_weight_decay,
)

SEED = task_seeds(0, "train", 3, 1)[0]
STEP_WEIGHTS = [0.5, 0.0, 2.0, 1.0]


def _lstm(units=(3, 2), **arguments) -> CoordinatewiseLSTM:
    """Returns a small float64 rule that moves coordinates by some tenths in each step."""
    defaults = {"preprocessing": "log_and_sign", "output_stddev": 3.0, "seed": 1}
    return CoordinatewiseLSTM(units, **defaults | arguments, dtype="float64")


def _rnnprop() -> RNNprop:
    return RNNprop((4, 3), output_stddev=1.0, seed=0, dtype="float64")


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
    result = tf.function(meta_gradient, autograph=False)(
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
    value = np.asarray(weight.numpy())
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


# Steps of backpropagation


@pytest.mark.parametrize(("every", "chunk_size"), [(1, 0), (2, 0), (2, 8), (3, 8)])
@pytest.mark.parametrize("make_rule", [_lstm, _rnnprop], ids=["lstm", "rnnprop"])
def test_deltas_get_credit_to_the_end_though_states_are_constants_every_few_steps(
    make_rule, every, chunk_size
):
    problem = Quadratic(num_functions=6, initial_stddev=1.0, dtype="float64")
    step_weights = tf.constant([1.0, 0.5, 2.0, 3.0, 1.5], tf.float64)
    rule = make_rule()
    begin = start(rule, problem, SEED)
    steps, _ = unroll(rule, problem, SEED, begin, 5, ["gradients"])
    gradients = tf.concat([begin.gradient[tf.newaxis], steps.gradients], axis=0)
    expected = reference.gradient_over(rule, begin.rule_state, gradients, step_weights / 6, every)
    bound = bind(rule, problem).for_training(5, chunk_size)
    assert bound.is_replayed == bool(chunk_size)
    begin = start(bound, problem, SEED)
    result = meta_gradient(
        bound, problem, SEED, begin, 5, step_weights, backpropagation_steps=every
    )
    _assert_gradients_agree(result.gradients, expected, rtol=1e-10)
    np.testing.assert_allclose(result.losses, steps.losses, rtol=1e-12)


def test_as_many_steps_of_backpropagation_as_an_unroll_has_are_all():
    rule, problem = _lstm(), NoisyBowls(dtype="float64")
    begin = start(rule, problem, SEED)

    def gradients(every):
        result = meta_gradient(rule, problem, SEED, begin, 4, backpropagation_steps=every)
        return np.concatenate([tf.reshape(one, [-1]) for one in result.gradients])

    np.testing.assert_array_equal(gradients(4), gradients(None))
    assert np.abs(gradients(2) - gradients(None)).max() > 1e-3 * np.abs(gradients(None)).max()


# Rules cut up


# A rule with two tensors of state for each layer, one whose state is empty, and one with a scalar.
@pytest.mark.parametrize("make_rule", [_lstm, lambda: LinearRule(dtype="float64"), _rnnprop])
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_the_meta_gradient_of_a_rule_cut_up_is_that_of_the_whole(make_rule, arrangement):
    rule, problem = make_rule(), Quadratic(num_functions=6, initial_stddev=1.0, dtype="float64")
    # In the middle of a trajectory, with steps that do not count alike.
    step_weights = tf.constant(STEP_WEIGHTS, tf.float64)

    def gradient_of(rule):
        iterate = _later(rule, problem, SEED)
        return meta_gradient(rule, problem, SEED, iterate, 4, step_weights)

    whole = gradient_of(rule)
    cut = gradient_of(ARRANGEMENTS[arrangement](rule, of_problem(problem)))
    np.testing.assert_allclose(cut.meta_loss, whole.meta_loss, rtol=1e-12)
    np.testing.assert_allclose(cut.iterate.parameters, whole.iterate.parameters, rtol=1e-12)
    _assert_gradients_agree(cut.gradients, whole.gradients, rtol=1e-10)


def test_second_derivatives_side_by_side_are_those_of_the_whole():
    rule, problem = _lstm(), Quadratic(num_functions=6, initial_stddev=1.0, dtype="float64")

    def gradients_of(rule):
        iterate = start(rule, problem, SEED)
        return meta_gradient(rule, problem, SEED, iterate, 4, second_derivatives=True).gradients

    cut = ARRANGEMENTS["side_by_side"](rule, of_problem(problem))
    _assert_gradients_agree(gradients_of(cut), gradients_of(rule), rtol=1e-10)


def test_second_derivatives_in_chunks_are_refused():
    problem = NoisyBowls(dtype="float64")
    bound = bind(_lstm(), problem).for_training(4, chunk_size=3)
    with pytest.raises(ValueError) as raised:
        meta_gradient(bound, problem, SEED, start(bound, problem, SEED), 4, second_derivatives=0.5)
    assert str(raised.value) == (
        "second_derivatives need the tape of a whole unroll. "
        "Received: second_derivatives=0.5 with a rule in chunks. Leave out one of the two."
    )


@pytest.mark.parametrize(("chunk_size", "second_derivatives"), [(0, 0.0), (3, 0.0), (0, 1.0)])
def test_two_parts_of_equal_weights_learn_together_what_one_rule_learns(
    chunk_size, second_derivatives
):
    rule = _lstm()
    routes = [Route(_lstm(), name="parameter_0"), Route(_lstm(), kind="conv")]
    parts = RoutedRule(_lstm(), routes)
    problem = StackedProblem(NoisyBowls(num_functions=2, dtype="float64"), 3)
    seeds = task_seeds(0, "train", 0, 3)
    step_weights = tf.constant(STEP_WEIGHTS, tf.float64)

    def gradient_of(rule):
        rule = bind(rule, problem).for_training(4, chunk_size)
        iterate = _later(rule, problem, seeds)
        return meta_gradient(rule, problem, seeds, iterate, 4, step_weights, second_derivatives)

    whole, routed = gradient_of(rule), gradient_of(parts)
    np.testing.assert_allclose(routed.losses, whole.losses, rtol=1e-12)
    np.testing.assert_allclose(routed.iterate.parameters, whole.iterate.parameters, rtol=1e-12)
    first, conv, other = np.split(np.array(routed.gradients, object), 3)
    for wanted, *shares in zip(whole.gradients, first, conv, other, strict=True):
        np.testing.assert_allclose(sum(shares), wanted, rtol=1e-9, atol=1e-12)
    # Each has a share, but that for which there are no variables.
    assert all(np.abs(gradient).max() > 0 for gradient in [*first, *other])
    assert all(np.abs(gradient).max() == 0 for gradient in conv)


# Rules of whole tensors, and of more than gradients


@pytest.mark.parametrize("second_derivatives", [0.0, 1.0])
def test_a_rule_of_whole_tensors_learns_from_several_tasks_what_it_learns_from_each(
    second_derivatives,
):
    problem, seeds = NoisyBowls(dtype="float64"), task_seeds(0, "train", 0, 3)
    for rule in (LearnedLength(0.1, dtype="float64"), WeightDecay()):

        def gradients(problem, seed, rule=rule):
            iterate = _later(rule, problem, seed)
            arguments = (4, None, second_derivatives)
            return meta_gradient(rule, problem, seed, iterate, *arguments).gradients

        together = gradients(StackedProblem(problem, 3), seeds)
        alone = np.mean([gradients(problem, seed) for seed in seeds], axis=0)
        _assert_gradients_agree(together, alone, rtol=1e-10)


def test_the_meta_gradient_of_a_learned_length_is_that_of_the_unrolled_graph():
    rule, problem = LearnedLength(0.1, dtype="float64"), NoisyBowls(dtype="float64")
    iterate = _later(rule, problem, SEED)
    for second_derivatives in (False, True):
        arguments = (problem, SEED, iterate, 4, STEP_WEIGHTS, second_derivatives)
        _, expected = reference.meta_gradient(bind(rule, problem), *arguments)
        weights = tf.constant(STEP_WEIGHTS, tf.float64)
        result = meta_gradient(rule, problem, SEED, iterate, 4, weights, second_derivatives)
        _assert_gradients_agree(result.gradients, expected, rtol=1e-10)


def test_losses_and_parameters_that_a_rule_sees_are_constants_without_second_derivatives():
    rule, problem = WeightDecay(), NoisyBowls(dtype="float64")
    result = meta_gradient(
        rule,
        problem,
        SEED,
        start(rule, problem, SEED),
        4,
        tf.constant(STEP_WEIGHTS, tf.float64),
    )
    walk = walk_of_weight_decay(problem, SEED, 4)
    # theta_s = theta_0 + w (d_0 + ... + d_(s - 1)), where the directions d are constants.
    slopes = np.cumsum(walk.directions, axis=0)
    expected = [
        weight * (walk.gradients[step + 1] * slopes[step]).sum() / problem.num_functions
        for step, weight in enumerate(STEP_WEIGHTS)
    ]
    _assert_gradients_agree(result.gradients, [sum(expected)], rtol=1e-12)


@pytest.mark.parametrize("compiled", [False, True])
def test_with_second_derivatives_they_are_differentiated_truly(compiled):
    rule, problem = WeightDecay(), NoisyBowls(dtype="float64")
    run = tf.function(meta_gradient, autograph=False) if compiled else meta_gradient
    weights = tf.constant(STEP_WEIGHTS, tf.float64)
    result = run(rule, problem, SEED, start(rule, problem, SEED), 4, weights, 1.0)

    def meta_loss() -> float:
        walk = walk_of_weight_decay(problem, SEED, 4, weight=float(rule.weight.numpy()))
        return float(np.dot(STEP_WEIGHTS, walk.losses[1:].mean(axis=1)))

    np.testing.assert_allclose(result.meta_loss, meta_loss(), rtol=1e-12)
    expected = _central_differences(meta_loss, rule.weight)
    _assert_gradients_agree(result.gradients, [expected], rtol=1e-7)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_of_their_derivatives_too_the_share_passes_that_is_asked_for(share):
    rule, problem = WeightDecay(0.25, 0.5, dtype="float32"), Parabolas([0.5])
    first = start(rule, problem, SEED)
    result = meta_gradient(rule, problem, SEED, first, 6, second_derivatives=share)
    # x_(t+1) = x_t - w (x_t + k_t f_t x_t) with f_t = x_t^2 / 2 and k_t = 1 / (2 (t + 1)). Of what
    # flows back to x_t through the rule, the share passes; D_t stands for dx_t/dw.
    point, derivative, expected = 1.0, 0.0, 0.0
    for step in range(6):
        k = 0.5 / (step + 1)
        seen = 1 + k * 1.5 * point**2
        direction = -(point + k * point**3 / 2)
        derivative += direction - share * 0.25 * seen * derivative
        point += 0.25 * direction
        expected += point * derivative
    np.testing.assert_allclose(result.gradients[0], expected, rtol=1e-5)


# Agreement


@pytest.mark.parametrize("second_derivatives", [False, True])
def test_xla_gives_the_same_meta_gradient(second_derivatives):
    rule, problem = _lstm((2,)), Quadratic("uniform", 2, 3, dtype="float64")
    iterate = _later(rule, problem, SEED)

    def gradients_of(iterate):
        arguments = {"second_derivatives": second_derivatives}
        return meta_gradient(rule, problem, SEED, iterate, 3, **arguments).gradients

    # XLA rounds float64 otherwise; the uniform family's draws are exact, as Gaussian ones are not.
    compiled = tf.function(gradients_of, autograph=False, jit_compile=True)(iterate)
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
@pytest.mark.parametrize(
    ("problem", "second_derivatives"), list(zip(_problems(), [True, False], strict=True))
)
def test_a_task_beside_itself_has_the_meta_gradient_of_one(problem, second_derivatives):
    rule = _lstm()
    results = []
    for num_copies in (1, 2):
        stacked = StackedProblem(problem, num_copies)
        seeds = tf.tile(SEED[tf.newaxis], [num_copies, 1])
        first = start(rule, stacked, seeds)
        results.append(
            tf.function(meta_gradient, autograph=False)(
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
    together = tf.function(meta_gradient, autograph=False)(rule, stacked, seeds, first, 4)
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
            tf.function(meta_gradient, autograph=False)
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
    compiled = tf.function(
        lambda seed, iterate: meta_gradient(rule, problem, seed, iterate, 2), autograph=False
    )
    for seed in task_seeds(0, "train", 0, 2):
        iterate = start(rule, problem, seed)
        for _ in range(2):
            iterate = compiled(seed, iterate).iterate
    assert compiled.experimental_get_tracing_count() == 1
