import functools

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.evaluation.unroll import Iterate, bind, start, unroll
from l2l_tf.problems import Quadratic, StackedProblem, task_seeds
from l2l_tf.rules import SGD, Adam, BoundToTensors, CoordinatewiseLSTM, StepInfo
from l2l_tf.rules.rule import NO_INFO
from tests.reference import lstm as lstm_reference
from tests.reference import optimizers as optimizer_reference
from tests.reference import quadratic as quadratic_reference
from tests.reference.trajectory import Trajectory, follow
from tests.training.toys import LinearRule, NoisyBowls, Parabolas, WeightDecay, walk_of_weight_decay

SEED = task_seeds(0, "train", 3, 1)[0]


def _lstm(dtype: str = "float32", **arguments) -> CoordinatewiseLSTM:
    """Returns a small rule that moves coordinates by some tenths in each step."""
    defaults = {"units": (4, 3), "preprocessing": "log_and_sign", "output_stddev": 3.0, "seed": 1}
    return CoordinatewiseLSTM(**defaults | arguments, dtype=dtype)


def _lstm_deltas(rule: CoordinatewiseLSTM, gradients: np.ndarray) -> np.ndarray:
    return lstm_reference.deltas(lstm_reference.Weights.of(rule), gradients, rule.p)


def _run(rule, problem, seed, lengths, **options):
    """Returns losses `[T + 1, F]` and the last iterate of consecutive compiled unrolls."""
    iterate = start(rule, problem, seed)
    losses = [iterate.losses[tf.newaxis]]

    @tf.function(autograph=False)
    def compiled(iterate, num_steps):
        return unroll(rule, problem, seed, iterate, num_steps, **options)

    for length in lengths:
        steps, iterate = compiled(iterate, length)
        losses.append(steps.losses)
    return tf.concat(losses, axis=0).numpy(), iterate


def _assert_same(one: Iterate, other: Iterate) -> None:
    tf.nest.assert_same_structure(one, other)
    for ours, theirs in zip(tf.nest.flatten(one), tf.nest.flatten(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def _quadratic_twin(problem: Quadratic, deltas_of, num_steps: int) -> tuple[Trajectory, np.ndarray]:
    """Returns the trajectory of a task's functions, and their losses `[T + 1, F]`, in NumPy."""
    matrices, targets = (part.numpy() for part in problem.batch(SEED, 0))
    shape = [problem.num_functions, problem.num_dimensions]
    functions = list(zip(matrices, targets, strict=True))

    def gradient_at(point: np.ndarray, step: int) -> np.ndarray:
        thetas = point.reshape(shape)
        parts = [
            quadratic_reference.gradient(matrix, target, theta)
            for (matrix, target), theta in zip(functions, thetas, strict=True)
        ]
        return np.concatenate(parts)

    begin = problem.initial_parameters(SEED)[0].numpy().reshape(-1)
    path = follow(deltas_of, gradient_at, begin, num_steps)
    losses = [
        [
            quadratic_reference.loss(matrix, target, theta)
            for (matrix, target), theta in zip(functions, point.reshape(shape), strict=True)
        ]
        for point in path.points
    ]
    return path, np.array(losses)


def _bowls_twin(problem: NoisyBowls, deltas_of, num_steps: int) -> tuple[Trajectory, np.ndarray]:
    """Returns the trajectory of a task's functions, and their losses `[T + 1, F]`, in NumPy."""
    shape = [problem.num_functions, 3]
    noise = [problem.batch(SEED, tf.constant(t)).numpy() for t in range(num_steps + 1)]

    def to_points(vector: np.ndarray) -> np.ndarray:
        # The vector holds all of the first parameter, [F, 2], then all of the second, [F].
        pairs, singles = np.split(vector, [2 * problem.num_functions])
        return np.concatenate([pairs.reshape([-1, 2]), singles[:, np.newaxis]], axis=1)

    def gradient_at(vector: np.ndarray, step: int) -> np.ndarray:
        gradient = 2 * problem.curvatures * (to_points(vector) - noise[step].astype(np.float64))
        return np.concatenate([gradient[:, :2].reshape(-1), gradient[:, 2]])

    pairs, singles = (part.numpy() for part in problem.initial_parameters(SEED))
    begin = np.concatenate([pairs.reshape(-1), singles])
    path = follow(deltas_of, gradient_at, begin, num_steps)
    losses = [
        (problem.curvatures * (to_points(vector) - noise[step]).reshape(shape) ** 2).sum(axis=1)
        for step, vector in enumerate(path.points)
    ]
    return path, np.array(losses)


# Agreement


@pytest.mark.parametrize("num_steps", [1, 2, 30])
def test_sgd_on_a_parabola_has_its_closed_form(num_steps):
    problem = Parabolas([0.5])
    losses, last = _run(SGD(0.1), problem, SEED, [num_steps])
    factor = 1 - 2 * 0.5 * 0.1
    # 30 float32 products.
    np.testing.assert_allclose(
        losses[:, 0], 0.5 * factor ** (2 * np.arange(num_steps + 1)), rtol=1e-5
    )
    np.testing.assert_allclose(last.parameters, [factor**num_steps], rtol=1e-5)
    assert last.step == num_steps


def test_sgd_on_quadratics_has_its_closed_form():
    problem = Quadratic("gaussian", num_functions=3, num_dimensions=4)
    losses, last = _run(SGD(0.02), problem, SEED, [25])
    matrices, targets = (part.numpy().astype(np.float64) for part in problem.batch(SEED, 0))
    begin = problem.initial_parameters(SEED)[0].numpy()
    final = last.parameters.numpy().reshape(3, 4)
    for index, (matrix, target) in enumerate(zip(matrices, targets, strict=True)):
        minimiser = np.linalg.solve(matrix, target)
        shrink = np.eye(4) - 2 * 0.02 * matrix.T @ matrix
        for step in (0, 1, 7, 25):
            theta = minimiser + np.linalg.matrix_power(shrink, step) @ (begin[index] - minimiser)
            expected = np.sum((matrix @ theta - target) ** 2)
            # Residuals of order 1 in float32.
            np.testing.assert_allclose(losses[step, index], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(final[index], theta, atol=1e-5)


@pytest.mark.parametrize(
    ("rule", "deltas_of", "dtype"),
    [
        (_lstm("float64"), None, "float64"),
        (_lstm(), None, "float32"),
        (Adam(0.1), lambda g: optimizer_reference.adam(g, 0.1, 0.9, 0.999, 1e-7), "float32"),
    ],
    ids=["lstm_float64", "lstm", "adam"],
)
@pytest.mark.parametrize("kind", [Quadratic, NoisyBowls])
def test_a_trajectory_is_that_of_numpy(rule, deltas_of, dtype, kind):
    if kind is Quadratic:
        problem = Quadratic(num_functions=2, num_dimensions=3, dtype=dtype)
        twin = _quadratic_twin
    else:
        problem, twin = NoisyBowls(dtype=dtype), _bowls_twin
    num_steps = 5
    path, expected_losses = twin(
        problem, deltas_of or functools.partial(_lstm_deltas, rule), num_steps
    )
    first = start(rule, problem, SEED)
    steps, last = tf.function(unroll, autograph=False)(
        rule, problem, SEED, first, num_steps, record=("gradients", "deltas")
    )
    # float32: numbers of order 10 at 7 digits, over 5 steps; Adam's 1 - beta_2^t has only 4 digits.
    tolerance = 1e-12 if dtype == "float64" else 3e-4 if deltas_of else 3e-5
    np.testing.assert_allclose(first.losses, expected_losses[0], atol=tolerance)
    np.testing.assert_allclose(first.gradient, path.gradients[0], atol=tolerance)
    np.testing.assert_allclose(steps.losses, expected_losses[1:], atol=tolerance)
    np.testing.assert_allclose(steps.gradients, path.gradients[1:], atol=tolerance)
    np.testing.assert_allclose(steps.deltas, path.deltas, atol=tolerance)
    np.testing.assert_allclose(last.parameters, path.points[-1], atol=tolerance)
    # The trajectory goes somewhere: it is not the tolerance that makes them agree.
    assert np.abs(path.points[-1] - path.points[0]).max() > 0.1


@pytest.mark.parametrize("problem", [Quadratic("gaussian", 2, 3), NoisyBowls()])
def test_eager_steps_are_those_of_a_graph(problem):
    rule = _lstm()
    first = start(rule, problem, SEED)
    eager_steps, eager = unroll(rule, problem, SEED, first, 4, record=("gradients", "deltas"))
    steps, compiled = tf.function(unroll, autograph=False)(
        rule, problem, SEED, first, 4, record=("gradients", "deltas")
    )
    for one, other in zip(
        tf.nest.flatten((steps, compiled)), tf.nest.flatten((eager_steps, eager)), strict=True
    ):
        # Numbers of order 10; the graph's optimizer may reorder float32 operations.
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.slow
def test_xla_agrees_within_rounding():
    rule, problem = _lstm(units=(3,)), NoisyBowls()

    def run(seed):
        first = start(rule, problem, seed)
        return unroll(rule, problem, seed, first, 4, record=("gradients", "deltas"))

    plain = tf.nest.flatten(tf.function(run, autograph=False)(SEED))
    for one, other in zip(
        tf.nest.flatten(tf.function(run, autograph=False, jit_compile=True)(SEED)),
        plain,
        strict=True,
    ):
        # Draws of normal numbers alone differ by 1e-6; numbers of order 10, over 4 steps.
        np.testing.assert_allclose(one, other, atol=1e-4)


# Properties


@functools.cache
def _whole(rule, problem):
    return _run(rule, problem, SEED, [100])


rules_on_problems = pytest.mark.parametrize(
    ("rule", "problem"),
    [(Adam(0.05), Quadratic("gaussian", 3, 4)), (_lstm(), NoisyBowls())],
    ids=["adam_on_quadratics", "lstm_on_bowls"],
)


@pytest.mark.parametrize(
    "lengths",
    [[20] * 5, [1] * 100, [30, 30, 30, 10]],
    ids=["5_of_20", "100_of_1", "3_of_30_and_10"],
)
@rules_on_problems
def test_how_a_trajectory_is_cut_into_unrolls_changes_nothing_at_all(rule, problem, lengths):
    losses, last = _whole(rule, problem)
    parts_losses, parts_last = _run(rule, problem, SEED, lengths)
    assert losses.shape == (101, problem.num_functions)
    np.testing.assert_array_equal(parts_losses, losses)
    _assert_same(parts_last, last)
    assert last.step == 100
    assert np.ptp(losses[-20:]) > 0


def test_recording_updates_changes_nothing_else():
    rule, problem = _lstm(), NoisyBowls()
    losses, last = _run(rule, problem, SEED, [6])
    recorded_losses, recorded_last = _run(rule, problem, SEED, [6], record=("gradients", "deltas"))
    np.testing.assert_array_equal(recorded_losses, losses)
    _assert_same(recorded_last, last)


def test_updates_are_recorded_only_when_asked_for():
    problem = Parabolas()
    steps, _ = unroll(SGD(0.1), problem, SEED, start(SGD(0.1), problem, SEED), 2)
    assert steps.gradients is None
    assert steps.deltas is None


def test_recorded_deltas_add_up_to_where_the_parameters_went():
    rule, problem = _lstm(), NoisyBowls()
    first = start(rule, problem, SEED)
    steps, last = unroll(rule, problem, SEED, first, 5, record=("gradients", "deltas"))
    assert steps.deltas.shape == steps.gradients.shape == (5, 6)
    points = first.parameters + tf.cumsum(steps.deltas)
    # Five float32 sums of numbers of order 1.
    np.testing.assert_allclose(points[-1], last.parameters, atol=1e-6)
    for step in range(1, 6):
        _, partly = unroll(rule, problem, SEED, first, step)
        np.testing.assert_allclose(points[step - 1], partly.parameters, atol=1e-6)
        np.testing.assert_allclose(steps.gradients[step - 1], partly.gradient, atol=1e-5)
        np.testing.assert_allclose(steps.losses[step - 1], partly.losses, atol=1e-5)


def test_permuting_coordinates_permutes_the_trajectory_of_a_coordinatewise_rule():
    rule = _lstm("float64")
    order = [2, 0, 1]
    plain = NoisyBowls(num_functions=1, dtype="float64")
    permuted = NoisyBowls(num_functions=1, order=order, dtype="float64")
    losses, last = _run(rule, plain, SEED, [10])
    permuted_losses, permuted_last = _run(rule, permuted, SEED, [10])
    np.testing.assert_allclose(permuted_losses, losses, atol=1e-12)
    np.testing.assert_allclose(permuted_last.parameters, last.parameters.numpy()[order], atol=1e-12)
    for ours, theirs in zip(
        tf.nest.flatten(permuted_last.rule_state), tf.nest.flatten(last.rule_state), strict=True
    ):
        np.testing.assert_allclose(ours, theirs.numpy()[order], atol=1e-12)


def test_a_rule_with_zero_output_weights_moves_nothing():
    rule, problem = CoordinatewiseLSTM(units=(3,), seed=0), NoisyBowls()
    first = start(rule, problem, SEED)
    steps, last = unroll(rule, problem, SEED, first, 4)
    np.testing.assert_array_equal(last.parameters, first.parameters)
    # The minibatch changes from step to step all the same.
    assert len(set(steps.losses.numpy()[:, 0])) == 4


def test_tasks_side_by_side_go_where_each_goes_alone():
    rule, problem = _lstm(), NoisyBowls()
    seeds = task_seeds(0, "train", 0, 3)
    together, _ = _run(rule, StackedProblem(problem, 3), seeds, [5])
    for index, seed in enumerate(seeds):
        alone, _ = _run(rule, problem, seed, [5])
        # The same float32 operations, but for how many coordinates a matrix product holds.
        np.testing.assert_allclose(together[:, 2 * index : 2 * index + 2], alone, rtol=1e-5)


def test_a_batch_that_does_not_depend_on_the_step_is_drawn_once_for_an_unroll():
    class Counting(Parabolas):
        num_draws = 0

        def batch(self, seed, step):
            self.num_draws += 1
            return super().batch(seed, step)

    problem = Counting()
    first = start(SGD(0.1), problem, SEED)
    problem.num_draws = 0
    unroll(SGD(0.1), problem, SEED, first, 7)
    assert problem.num_draws == 1
    problem.is_stochastic = True
    unroll(SGD(0.1), problem, SEED, first, 7)
    assert problem.num_draws == 1 + 7


# What a rule knows of a step


@pytest.mark.parametrize("lengths", [[5], [2, 3]], ids=["at_once", "in_two_unrolls"])
def test_a_rule_finds_the_step_the_losses_and_the_parameters_that_it_needs(lengths):
    rule, problem = WeightDecay(), NoisyBowls(dtype="float64")
    losses, last = _run(rule, problem, SEED, lengths)
    walk = walk_of_weight_decay(problem, SEED, 5)
    np.testing.assert_allclose(losses, walk.losses, rtol=1e-12)
    np.testing.assert_allclose(last.parameters, walk.vector(-1), rtol=1e-12)
    # It goes elsewhere than without each of them.
    for shrinkage in (0.0, 2.0):
        other = walk_of_weight_decay(problem, SEED, 5, shrinkage=shrinkage)
        assert np.abs(other.vector(-1) - walk.vector(-1)).max() > 1e-3


def test_so_it_does_for_each_of_several_tasks():
    rule, problem = WeightDecay(), NoisyBowls(num_functions=3, dtype="float64")
    seeds = task_seeds(0, "train", 0, 2)
    together, _ = _run(rule, StackedProblem(problem, 2), seeds, [5])
    for index, seed in enumerate(seeds):
        alone = walk_of_weight_decay(problem, seed, 5).losses
        np.testing.assert_allclose(together[:, 3 * index : 3 * index + 3], alone, rtol=1e-12)


def test_a_rule_that_needs_nothing_of_a_step_is_told_nothing():
    class Recorded(BoundToTensors):
        seen = None

        def initial_state(self):
            return ()

        def update(self, gradients, state, info=NO_INFO):
            self.seen = info
            return gradients, state

    problem = NoisyBowls()
    bound = Recorded(object(), problem.variables, problem.batch_shape)
    for needs in (set(), {"step"}, {"losses"}, {"parameters"}):
        bound.needs = frozenset(needs)
        unroll(bound, problem, SEED, start(bound, problem, SEED), 2)
        known = {name for name in StepInfo._fields if getattr(bound.seen, name) is not None}
        assert known == needs


# Rules that are bound already


def test_a_bound_rule_runs_as_the_rule_does():
    rule, problem = _lstm(), NoisyBowls()
    losses, last = _run(rule, problem, SEED, [4])
    bound_losses, bound_last = _run(bind(rule, problem), problem, SEED, [4])
    np.testing.assert_array_equal(bound_losses, losses)
    _assert_same(bound_last, last)


@pytest.mark.parametrize(
    "run", [start, lambda rule, problem, seed: unroll(rule, problem, seed, None, 2)]
)
def test_a_rule_that_is_bound_to_another_problem_is_refused(run):
    bound = bind(_lstm(), NoisyBowls(num_functions=3))
    with pytest.raises(ValueError) as raised:
        run(bound, NoisyBowls(), SEED)
    assert str(raised.value) == (
        "A bound rule must be run on the tensors that it was bound to. Received: tensors of shapes "
        "[(2, 2), (2,)] for a rule bound to [(3, 2), (3,)]. Bind the rule itself to them."
    )


# Derivatives


@pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "compiled"])
def test_losses_and_gradients_are_constants_to_a_tape_unless_asked_for(wrap):
    rule, problem = LinearRule(), Parabolas()

    @wrap
    def derivatives(second_derivatives):
        first = start(rule, problem, SEED)
        with tf.GradientTape(persistent=True) as tape:
            _, last = unroll(rule, problem, SEED, first, 3, second_derivatives=second_derivatives)
            loss, gradient, parameter = last.losses[0], last.gradient[0], last.parameters[0]
        zero = tf.UnconnectedGradients.ZERO
        return [
            tape.gradient(value, rule.bias.value, unconnected_gradients=zero)
            for value in (loss, gradient, parameter)
        ]

    # At weights of zero theta stays at 1, and moves by 1 for each step's bias.
    np.testing.assert_array_equal(derivatives(False), [0, 0, 3])
    np.testing.assert_array_equal(derivatives(True), [3 * 2, 3 * 2, 3])


# Hygiene


@rules_on_problems
def test_one_trace_serves_every_unroll_of_one_length_of_every_task(rule, problem):
    begin = tf.function(lambda seed: start(rule, problem, seed), autograph=False)

    @tf.function(autograph=False)
    def compiled(seed, iterate, num_steps):
        return unroll(rule, problem, seed, iterate, num_steps)

    for seed in task_seeds(0, "train", 0, 2):
        iterate = begin(seed)
        for length in (3, 3, 2):
            _, iterate = compiled(seed, iterate, length)
    assert begin.experimental_get_tracing_count() == 1
    assert compiled.experimental_get_tracing_count() == 2
