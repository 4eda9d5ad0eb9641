import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.problems.problem import Problem, StackedProblem
from l2l_tf.problems.quadratic import Quadratic
from l2l_tf.problems.seeds import fold_in, task_seeds
from tests.problems.shapes import assert_variables_are_parameters_without_batch_axes
from tests.training.toys import NoisyBowls, Parabolas


def _draw(shape: list[int], seed: tf.Tensor) -> tf.Tensor:
    """Returns multiples of 1/1000 in [-1, 1): integers are the same under XLA, floats are not."""
    integers = tf.random.stateless_uniform(shape, seed, -1000, 1000, tf.int32, alg="philox")
    return tf.cast(integers, tf.float32) / 1000


class _Line(Problem):
    """F noisy lines: parameters of ranks 0 and 1, and a nest of tensors for a batch."""

    name = "line"
    num_functions = 2

    def __init__(self):
        self.ran_eagerly = False

    def initial_parameters(self, seed):
        self.ran_eagerly |= tf.executing_eagerly()
        numbers = _draw([3], fold_in(seed, 0))
        return [numbers[0], numbers[1:]]

    def batch(self, seed, step):
        noise = _draw([4, 2], fold_in(fold_in(seed, 1), step))
        return {"inputs": noise[:, 0], "outputs": (noise[:, 1],)}

    def loss(self, parameters, batch):
        offset, slopes = parameters
        lines = offset + slopes[:, tf.newaxis] * batch["inputs"]
        return tf.reduce_mean(tf.square(lines - batch["outputs"][0]), axis=1)

    def get_config(self):
        return {}


PROBLEMS = [Quadratic(num_functions=3, num_dimensions=4), _Line()]
# One task, some that are written out, and some that are vectorized.
NUMBERS_OF_TASKS = [1, 3, 9]


def test_parameter_shapes_are_read_off_without_drawing_any_parameters():
    problem = _Line()
    assert problem.parameter_shapes == [(), (2,)]
    assert problem.num_coordinates == 3
    assert not problem.ran_eagerly


@pytest.mark.parametrize(
    ("problem", "batch_shape", "shapes"),
    [
        (_Line(), (), [(), (2,)]),
        (NoisyBowls(), (2,), [(2,), ()]),
        (NoisyBowls(num_functions=1), (1,), [(2,), ()]),
        (Parabolas(), (), [()]),
    ],
    ids=lambda case: getattr(case, "name", ""),
)
def test_what_a_parameter_is_does_not_depend_on_tasks_and_functions(problem, batch_shape, shapes):
    assert problem.batch_shape == batch_shape
    expected = [(f"parameter_{index}", shape) for index, shape in enumerate(shapes)]
    assert problem.variables == expected
    assert_variables_are_parameters_without_batch_axes(problem)


@pytest.mark.parametrize("num_tasks", NUMBERS_OF_TASKS)
def test_of_stacked_stacks_both_axes_of_tasks_stand_first(num_tasks):
    stacked = StackedProblem(StackedProblem(NoisyBowls(), 3), num_tasks)
    assert stacked.batch_shape == (num_tasks, 3, 2)
    assert [spec.shape for spec in stacked.variables] == [(2,), ()]
    assert stacked.parameter_shapes == [(num_tasks, 3, 2, 2), (num_tasks, 3, 2)]


def test_a_problem_must_say_how_to_draw_and_what_to_minimise():
    with pytest.raises(TypeError, match=r"batch.*get_config.*initial_parameters.*loss"):
        Problem()


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
@pytest.mark.parametrize("num_tasks", NUMBERS_OF_TASKS)
def test_stacked_tasks_are_the_tasks_run_apart(problem, num_tasks):
    seeds = task_seeds(0, "train", 0, num_tasks)
    stacked = StackedProblem(problem, num_tasks)
    parameters, batch = stacked.initial_parameters(seeds), stacked.batch(seeds, tf.constant(5))
    losses = stacked.loss(parameters, batch)
    for task, seed in enumerate(seeds):
        own_parameters = problem.initial_parameters(seed)
        own_batch = problem.batch(seed, tf.constant(5))
        own = tf.nest.flatten((own_parameters, own_batch))
        for whole, part in zip(tf.nest.flatten((parameters, batch)), own, strict=True):
            np.testing.assert_array_equal(whole[task], part)
        # Losses of order 1, sums of some tens of float32 products in another order.
        np.testing.assert_allclose(
            tf.reshape(losses, [num_tasks, -1])[task],
            problem.loss(own_parameters, own_batch),
            rtol=1e-5,
        )


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
@pytest.mark.parametrize("num_tasks", NUMBERS_OF_TASKS)
def test_derivatives_of_stacked_tasks_are_those_of_the_tasks_run_apart(problem, num_tasks):
    seeds = task_seeds(0, "train", 0, num_tasks)

    def derivatives(problem, seed):
        """Returns the gradient, and the product of the Hessian with it."""
        parameters = problem.initial_parameters(seed)
        with tf.GradientTape() as outer:
            outer.watch(parameters)
            with tf.GradientTape() as inner:
                inner.watch(parameters)
                losses = problem.loss(parameters, problem.batch(seed, tf.constant(0)))
            gradient = inner.gradient(losses, parameters)
        vector = [tf.stop_gradient(part) for part in gradient]
        return [*gradient, *outer.gradient(gradient, parameters, vector)]

    together = derivatives(StackedProblem(problem, num_tasks), seeds)
    for task, seed in enumerate(seeds):
        for whole, part in zip(together, derivatives(problem, seed), strict=True):
            np.testing.assert_allclose(whole[task], part, rtol=1e-5, atol=1e-5)


def _operations(problem: Problem, seed_shape: list[int]) -> set[str]:
    """Returns the kinds of operations in the graph from a seed to losses."""

    def losses(seed):
        return problem.loss(problem.initial_parameters(seed), problem.batch(seed, tf.constant(0)))

    spec = tf.TensorSpec(seed_shape, tf.int32)
    graph = tf.function(losses, autograph=False).get_concrete_function(spec).graph
    return {operation.type for operation in graph.get_operations()}


def test_one_task_costs_what_it_costs_unstacked():
    problem = PROBLEMS[1]
    stacked = _operations(StackedProblem(problem, 1), [1, 2])
    # These make no copies.
    assert stacked - _operations(problem, [2]) <= {"Squeeze", "ExpandDims", "Reshape"}


def test_few_tasks_are_written_out_and_many_are_not():
    loops = {"While", "StatelessWhile"}
    assert not _operations(StackedProblem(PROBLEMS[1], 8), [8, 2]) & loops
    assert _operations(StackedProblem(PROBLEMS[1], 9), [9, 2]) & loops


def test_a_stacked_problem_has_a_leading_axis_of_tasks_and_the_functions_of_all():
    stacked = StackedProblem(_Line(), 3)
    assert stacked.parameter_shapes == [(3,), (3, 2)]
    assert stacked.num_coordinates == 9
    assert stacked.num_functions == 6
    batch = stacked.batch(task_seeds(0, "train", 0, 3), tf.constant(0))
    assert batch["inputs"].shape == (3, 4)
    assert batch["outputs"][0].shape == (3, 4)


def test_a_stacked_problem_keeps_the_name_and_the_kind_of_its_problem():
    for problem in PROBLEMS:
        stacked = StackedProblem(problem, 2)
        assert stacked.name == problem.name
        assert stacked.is_stochastic == problem.is_stochastic
    assert PROBLEMS[0].is_stochastic != PROBLEMS[1].is_stochastic


def test_tasks_of_one_seed_are_one_task():
    seeds = tf.tile(task_seeds(0, "test", 4, 1), [3, 1])
    stacked = StackedProblem(PROBLEMS[0], 3)
    parameters, batch = stacked.initial_parameters(seeds), stacked.batch(seeds, tf.constant(0))
    losses = tf.reshape(stacked.loss(parameters, batch), [3, -1])
    for tensor in (*parameters, *batch, losses):
        np.testing.assert_array_equal(tensor, tf.broadcast_to(tensor[:1], tensor.shape))


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("num_tasks", NUMBERS_OF_TASKS)
def test_stacked_tasks_are_the_same_when_compiled(jit_compile, num_tasks):
    stacked = StackedProblem(PROBLEMS[1], num_tasks)

    def losses(seeds, step):
        return stacked.loss(stacked.initial_parameters(seeds), stacked.batch(seeds, step))

    arguments = task_seeds(0, "train", 0, num_tasks), tf.constant(3)
    compiled = tf.function(losses, autograph=False, jit_compile=jit_compile)
    np.testing.assert_allclose(compiled(*arguments), losses(*arguments), rtol=1e-5)


def test_a_stacked_problem_tells_what_it_stacks():
    assert StackedProblem(PROBLEMS[0], 2).get_config() == {
        "problem": PROBLEMS[0].get_config(),
        "num_tasks": 2,
    }


def test_stacking_no_tasks_is_refused():
    with pytest.raises(ValueError, match=r"^num_tasks must"):
        StackedProblem(PROBLEMS[0], 0)
