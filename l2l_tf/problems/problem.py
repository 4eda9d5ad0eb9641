"""The interface of a problem: a family of functions to minimise."""

import abc
import functools
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from l2l_tf.checks import check_at_least
from l2l_tf.parameter_spec import ParameterSpec

# Up to this many tasks are written out one by one. Vectorizing is no faster (MLP, quadratics), and
# slower where a task has kernels of its own, which TensorFlow convolves in a loop.
_MAX_TASKS_APART = 8


class Problem(abc.ABC):
    """A family of functions to minimise, one draw of which is a task.

    A task is named by its seed, an integer tensor of shape `[2]`, and is the same whatever the
    device, the rule or the length of an unroll: every draw depends on the seed and the step alone
    (`l2l_tf.problems.seeds` hands seeds out).

    A task may hold several functions, F of them, that do not depend on each other, each with its
    own parameters. Their losses stay apart, and gradients are those of their sum, so that the
    gradient of one function does not depend on how many others run beside it.

    Subclasses implement the four abstract methods and set what has no right default here:
        name: identifies the problem in results and cards.
        num_functions: F.
        is_stochastic: whether `batch` depends on the step. Where it doesn't, it is drawn once for
            a whole unroll.
        min_tasks_side_by_side: how many tasks to run side by side, where there are so many, even
            if they have more coordinates than suit a CPU: more than one where `losses_of_tasks`
            makes a loss cheaper.
    """

    name: str
    num_functions: int = 1
    is_stochastic: bool = True
    min_tasks_side_by_side: int = 1

    @abc.abstractmethod
    def initial_parameters(self, seed: tf.Tensor) -> list[tf.Tensor]:
        """Returns a task's parameters at step 0: float tensors of static shapes."""

    @abc.abstractmethod
    def batch(self, seed: tf.Tensor, step: tf.Tensor) -> Any:
        """Returns what the loss at a step (an integer scalar) depends on: any nest of tensors."""

    @abc.abstractmethod
    def loss(self, parameters: list[tf.Tensor], batch: Any) -> tf.Tensor:
        """Returns the losses of the functions, float `[F]`."""

    @abc.abstractmethod
    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, plain enough for JSON."""

    def losses_of_tasks(self, parameters: list[tf.Tensor], batch: Any) -> tf.Tensor:
        """Returns the losses of M tasks side by side, float `[M, F]`.

        Few tasks are written out one by one, so that each of them costs what it costs alone, and
        many are vectorized, so that the graph stays small. A problem in which tasks share what is
        costly, such as the weights of a network, can do better.

        Args:
            parameters: as for `loss`, with a leading axis of length M.
            batch: as for `loss`, its tensors with a leading axis of length M.
        """

        def loss(task: tuple[list[tf.Tensor], Any]) -> tf.Tensor:
            return self.loss(*task)

        num_tasks = parameters[0].shape[0]
        if num_tasks <= _MAX_TASKS_APART:
            return _run_apart(loss, (parameters, batch), num_tasks)
        return tf.vectorized_map(loss, (parameters, batch))

    def normalized(self, losses: tf.Tensor) -> tf.Tensor:
        """Returns losses on a scale on which they compare with those of other problems.

        As they are, unless a problem overrides it.

        Args:
            losses: float, of any shape.
        """
        return losses

    @property
    def components(self) -> "list[Problem]":
        """The problems that tasks are drawn from: this one."""
        return [self]

    def choose(self, seed: int, index: int) -> int:
        """Returns which of the components the tasks of a trajectory are drawn from."""
        return 0

    @functools.cached_property
    def parameter_shapes(self) -> list[tuple[int, ...]]:
        """The shapes of a task's parameters, found without computing any."""
        specs = _output_specs(self.initial_parameters, _SEED_SPEC)
        return [tuple(spec.shape) for spec in specs]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The axes that stand before each parameter's own.

        `(F,)` where functions have parameters of their own, along a leading axis; empty, the
        default, where a task is one function without such an axis.
        """
        return ()

    @property
    def variables(self) -> list[ParameterSpec]:
        """What each parameter is, apart from batch axes; a problem that knows names may say them.

        The shape of each parameter is `batch_shape`, followed by its shape here.
        """
        return [
            ParameterSpec(f"parameter_{index}", shape[len(self.batch_shape) :])
            for index, shape in enumerate(self.parameter_shapes)
        ]

    @property
    def num_coordinates(self) -> int:
        """N, the number of scalar parameters of a task."""
        return sum(math.prod(shape) for shape in self.parameter_shapes)


class WrappedProblem(Problem):
    """The base of problems that change another one: all else is that problem's.

    Args:
        problem: the problem.
        name: the name of the changed one.
    """

    def __init__(self, problem: Problem, name: str):
        self.problem = problem
        self.name = name
        self.num_functions = problem.num_functions
        self.is_stochastic = problem.is_stochastic
        self.min_tasks_side_by_side = problem.min_tasks_side_by_side

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.problem.batch_shape

    @property
    def variables(self) -> list[ParameterSpec]:
        return self.problem.variables

    def normalized(self, losses: tf.Tensor) -> tf.Tensor:
        return self.problem.normalized(losses)


class StackedProblem(Problem):
    """M tasks of a problem side by side, as one problem of M * F functions.

    Each of its parameters has a leading axis of length M. Where the wrapped problem takes a seed of
    shape `[2]`, this one takes seeds of shape `[M, 2]`, one for each task. It serves to run several
    tasks in one meta-step, or one task under many learning rates at once.

    Memory grows with M.

    Args:
        problem: the problem whose tasks are run.
        num_tasks: M, at least 1.

    Raises:
        ValueError: `num_tasks` is less than 1.
    """

    def __init__(self, problem: Problem, num_tasks: int):
        advice = "Give the number of tasks to run side by side."
        check_at_least("num_tasks", num_tasks, 1, advice)
        self.problem = problem
        self.num_tasks = num_tasks
        self.name = problem.name
        self.num_functions = num_tasks * problem.num_functions
        self.is_stochastic = problem.is_stochastic

    def initial_parameters(self, seed: tf.Tensor) -> list[tf.Tensor]:
        return self._draw(self.problem.initial_parameters, seed, 0)

    def batch(self, seed: tf.Tensor, step: tf.Tensor) -> Any:
        return self._draw(lambda one: self.problem.batch(one, step), seed, 1)

    def loss(self, parameters: list[tf.Tensor], batch: Any) -> tf.Tensor:
        losses = self.problem.losses_of_tasks(parameters, batch)
        return tf.reshape(losses, [self.num_functions])

    def normalized(self, losses: tf.Tensor) -> tf.Tensor:
        return self.problem.normalized(losses)

    def get_config(self) -> dict[str, Any]:
        return {"problem": self.problem.get_config(), "num_tasks": self.num_tasks}

    @functools.cached_property
    def parameter_shapes(self) -> list[tuple[int, ...]]:
        return [(self.num_tasks, *shape) for shape in self.problem.parameter_shapes]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return (self.num_tasks, *self.problem.batch_shape)

    @property
    def variables(self) -> list[ParameterSpec]:
        return self.problem.variables

    def _draw(self, draw: Callable[[tf.Tensor], Any], seed: tf.Tensor, index: int) -> Any:
        """Returns what a function draws for each task, along a leading axis."""
        if self.num_tasks <= _MAX_TASKS_APART:
            return _run_apart(draw, seed, self.num_tasks)
        return tf.map_fn(draw, seed, fn_output_signature=self._task_specs[index])

    @functools.cached_property
    def _task_specs(self) -> tuple[Any, Any]:
        """What a task's parameters and batches look like."""
        return (
            _output_specs(self.problem.initial_parameters, _SEED_SPEC),
            _output_specs(self.problem.batch, _SEED_SPEC, tf.TensorSpec([], tf.int32)),
        )


_SEED_SPEC = tf.TensorSpec([2], tf.int32)


def _run_apart(function: Callable[[Any], Any], tasks: Any, num_tasks: int) -> Any:
    """Returns what a function of a task makes of each one, along a leading axis of length M."""
    if num_tasks == 1:
        result = function(tf.nest.map_structure(lambda tensor: tf.squeeze(tensor, 0), tasks))
        return tf.nest.map_structure(lambda tensor: tf.expand_dims(tensor, 0), result)
    parts = [tf.unstack(tensor, num_tasks) for tensor in tf.nest.flatten(tasks)]
    results = [
        function(tf.nest.pack_sequence_as(tasks, list(task))) for task in zip(*parts, strict=True)
    ]
    return tf.nest.map_structure(lambda *tensors: tf.stack(tensors), *results)


def _output_specs(function: Callable[..., Any], *input_specs: tf.TensorSpec) -> Any:
    """Returns what a function of tensors returns, as specs, without running it."""
    outputs = tf.function(function).get_concrete_function(*input_specs).structured_outputs
    return tf.nest.map_structure(tf.TensorSpec.from_tensor, outputs)
