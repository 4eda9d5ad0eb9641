"""The interface of a problem: a family of functions to minimise."""

import abc
import functools
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from l2l_tf.checks import check_at_least
from l2l_tf.parameter_spec import ParameterSpec

# Up to this many tasks are written out one by one in the graph. Vectorizing is no faster for these
# (MLP, quadratics). It is slower if each task has its own kernels, which TensorFlow convolves in a
# loop.
_MAX_TASKS_APART = 8
# Added to losses, in their unit, before a logarithm.
_SMALLEST_SHARE = 0.01


class Problem(abc.ABC):
    """A family of functions to minimise. One draw from it is a task.

    A task is named by its seed, an integer tensor of shape `[2]`. Every draw depends only on the
    seed and the step. A task is therefore the same on every device, for every rule and for every
    unroll length. `l2l_tf.problems.seeds` provides the seeds.

    A task may hold several independent functions, F of them, each with its own parameters. Their
    losses stay separate, and gradients are those of the sum of the losses. The gradient of one
    function therefore does not depend on how many others run beside it.

    Subclasses implement the four abstract methods, and set these attributes where the default is
    wrong:
        name: identifies the problem in results and cards. It has no default.
        num_functions: F.
        is_stochastic: whether `batch` depends on the step. If it does not, it is drawn once per
            unroll.
        min_tasks_side_by_side: the least number of tasks to run side by side, if there are that
            many, even if they have more coordinates than suit a CPU. It is above one if
            `losses_of_tasks` makes each loss cheaper.
        loss_unit: a typical loss. Meta-training divides losses by it.
        is_logarithmic: whether meta-training then takes their logarithm, so that a loss that is
            halved counts alike wherever it is. Losses below a hundredth of the unit hardly count.
    """

    name: str
    num_functions: int = 1
    is_stochastic: bool = True
    min_tasks_side_by_side: int = 1
    loss_unit: float = 1.0
    is_logarithmic: bool = False

    @abc.abstractmethod
    def initial_parameters(self, seed: tf.Tensor) -> list[tf.Tensor]:
        """Returns a task's initial parameters: float tensors of static shapes."""

    @abc.abstractmethod
    def batch(self, seed: tf.Tensor, step: tf.Tensor) -> Any:
        """Returns the data for the loss at a step (an integer scalar): any nest of tensors."""

    @abc.abstractmethod
    def loss(self, parameters: list[tf.Tensor], batch: Any) -> tf.Tensor:
        """Returns the losses of the functions, float `[F]`."""

    @abc.abstractmethod
    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, as plain values for JSON."""

    def losses_of_tasks(self, parameters: list[tf.Tensor], batch: Any) -> tf.Tensor:
        """Returns the losses of M tasks side by side, float `[M, F]`.

        A few tasks are written out one by one, so that each costs the same as alone. Many tasks are
        vectorized, so that the graph stays small. A problem may override this if its tasks share
        something costly, such as a network's weights.

        Args:
            parameters: as for `loss`, with a leading axis of length M.
            batch: as for `loss`, each tensor with a leading axis of length M.
        """

        def loss(task: tuple[list[tf.Tensor], Any]) -> tf.Tensor:
            return self.loss(*task)

        num_tasks = parameters[0].shape[0]
        if num_tasks <= _MAX_TASKS_APART:
            return _run_apart(loss, (parameters, batch), num_tasks)
        # Layers that draw random numbers fall back to a loop, which is no reason to warn.
        return tf.vectorized_map(loss, (parameters, batch), warn=False)

    def normalized(self, losses: tf.Tensor) -> tf.Tensor:
        """Returns losses, float, of any shape, as they count in meta-training.

        They are in units of `loss_unit`. If the problem is logarithmic, they are the logarithms of
        those plus 0.01; a negative loss counts as 0.
        """
        losses = losses if self.loss_unit == 1 else losses / self.loss_unit
        if self.is_logarithmic:
            return tf.math.log(tf.maximum(losses, 0) + _SMALLEST_SHARE)
        return losses

    @property
    def components(self) -> "list[Problem]":
        """The problems that tasks are drawn from: here, only this one."""
        return [self]

    def choose(self, seed: int, index: int) -> int:
        """Returns the index of the component that a trajectory's tasks are drawn from."""
        return 0

    @functools.cached_property
    def parameter_shapes(self) -> list[tuple[int, ...]]:
        """The shapes of a task's parameters, inferred without computing any."""
        specs = _output_specs(self.initial_parameters, _SEED_SPEC)
        return [tuple(spec.shape) for spec in specs]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The leading axes of each parameter that are not part of its own shape.

        This is `(F,)` if each function has its own parameters along a leading axis. The default is
        empty: a task is then one function without such an axis.
        """
        return ()

    @property
    def variables(self) -> list[ParameterSpec]:
        """The path and shape of each parameter. Problems that know names may override this.

        The full shape of a parameter is `batch_shape` followed by the shape given here.
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
    """Base class for problems that modify another one; by default, it delegates to that problem.

    Args:
        problem: the wrapped problem.
        name: the name of the modified problem.
    """

    def __init__(self, problem: Problem, name: str):
        self.problem = problem
        self.name = name
        self.num_functions = problem.num_functions
        self.is_stochastic = problem.is_stochastic
        self.min_tasks_side_by_side = problem.min_tasks_side_by_side
        self.loss_unit = problem.loss_unit
        self.is_logarithmic = problem.is_logarithmic

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.problem.batch_shape

    @property
    def variables(self) -> list[ParameterSpec]:
        return self.problem.variables


class StackedProblem(Problem):
    """M tasks of a problem side by side, as one problem of M * F functions.

    Each parameter has a leading axis of length M. The wrapped problem takes a seed of shape `[2]`;
    this one takes seeds of shape `[M, 2]`, one for each task. Stacking serves to run several tasks
    in one meta-step, or one task with many learning rates at once.

    Memory grows with M.

    Args:
        problem: the problem to stack.
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
        self.loss_unit = problem.loss_unit
        self.is_logarithmic = problem.is_logarithmic

    def initial_parameters(self, seed: tf.Tensor) -> list[tf.Tensor]:
        return self._draw(self.problem.initial_parameters, seed, 0)

    def batch(self, seed: tf.Tensor, step: tf.Tensor) -> Any:
        return self._draw(lambda one: self.problem.batch(one, step), seed, 1)

    def loss(self, parameters: list[tf.Tensor], batch: Any) -> tf.Tensor:
        losses = self.problem.losses_of_tasks(parameters, batch)
        return tf.reshape(losses, [self.num_functions])

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
        """Returns a draw for each task, stacked along a leading axis."""
        if self.num_tasks <= _MAX_TASKS_APART:
            return _run_apart(draw, seed, self.num_tasks)
        return tf.map_fn(draw, seed, fn_output_signature=self._task_specs[index])

    @functools.cached_property
    def _task_specs(self) -> tuple[Any, Any]:
        """The specs of a task's parameters and batches."""
        return (
            _output_specs(self.problem.initial_parameters, _SEED_SPEC),
            _output_specs(self.problem.batch, _SEED_SPEC, tf.TensorSpec([], tf.int32)),
        )


_SEED_SPEC = tf.TensorSpec([2], tf.int32)


def _run_apart(function: Callable[[Any], Any], tasks: Any, num_tasks: int) -> Any:
    """Applies a function to each task and stacks the results along a leading axis of length M."""
    if num_tasks == 1:
        result = function(tf.nest.map_structure(lambda tensor: tf.squeeze(tensor, 0), tasks))
        return tf.nest.map_structure(lambda tensor: tf.expand_dims(tensor, 0), result)
    parts = [tf.unstack(tensor, num_tasks) for tensor in tf.nest.flatten(tasks)]
    results = [
        function(tf.nest.pack_sequence_as(tasks, list(task))) for task in zip(*parts, strict=True)
    ]
    return tf.nest.map_structure(lambda *tensors: tf.stack(tensors), *results)


def _output_specs(function: Callable[..., Any], *input_specs: tf.TensorSpec) -> Any:
    """Returns the specs of a function's outputs, without running it."""
    outputs = (
        tf.function(function, autograph=False)
        .get_concrete_function(*input_specs)
        .structured_outputs
    )
    return tf.nest.map_structure(tf.TensorSpec.from_tensor, outputs)
