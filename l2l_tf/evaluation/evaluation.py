"""Evaluation of rules on fresh tasks, the source of all reported curves."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from l2l_tf.checks import check_at_least, check_instance
from l2l_tf.evaluation.unroll import bind, start, unroll
from l2l_tf.problems.problem import Problem, StackedProblem
from l2l_tf.rules.rule import FlatLayout, Rule

METRICS = ("final_loss", "mean_loss")
"""The numbers of an evaluation by which rules can be ranked."""
# The number of last losses that are averaged into the final loss of a problem with minibatches.
NUM_FINAL_MINIBATCHES = 5
# The number of coordinates that run side by side. On a CPU, their state should fit into the cache
# (with 2^20, a 2 x 20 LSTM takes twice as long per coordinate). On a GPU, they should keep it busy.
MAX_COORDINATES = {"CPU": 2**15, "GPU": 2**20}


def num_final_losses(problem: Problem, num_steps: int) -> int:
    """Returns the number of last losses that are averaged into a run's final loss."""
    return min(NUM_FINAL_MINIBATCHES, num_steps) if problem.is_stochastic else 1


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The losses of R runs of one rule: one run for each function of each task.

    A run diverges when its loss is first not finite. From then on its loss counts as infinite, and
    so do its final loss and its mean loss. No run is dropped.

    Attributes:
        losses: float `[T + 1, R]`, before each of the T steps and after the last.
        num_final: the number of last losses that are averaged into a run's final loss.
        parameters: float `[M, N]`, the parameters of each task after its last step. None if not
            requested.
    """

    losses: np.ndarray
    num_final: int = 1
    parameters: Any = None

    @property
    def final_losses(self) -> np.ndarray:
        """The final loss of each run, float `[R]`."""
        return self.losses[-self.num_final :].mean(axis=0)

    @property
    def final_loss(self) -> float:
        """The final loss, averaged over runs."""
        return float(self.final_losses.mean())

    @property
    def final_loss_stderr(self) -> float:
        """The standard error of `final_loss`. NaN if there is only one run, or one has diverged."""
        num_runs = self.losses.shape[1]
        if num_runs == 1 or self.num_diverged:
            return float("nan")
        return float(self.final_losses.std(ddof=1) / np.sqrt(num_runs))

    @property
    def mean_loss(self) -> float:
        """The loss averaged over steps 1 to T and over runs."""
        return float(self.losses[1:].mean())

    @property
    def num_diverged(self) -> int:
        """The number of runs with a loss that was not finite."""
        return int(np.isinf(self.losses[-1]).sum())

    @property
    def curve(self) -> np.ndarray:
        """The loss at each iterate, averaged over runs, float `[T + 1]`."""
        return self.losses.mean(axis=1)


def evaluate(
    rule: Rule,
    problem: Problem,
    seeds: tf.Tensor,
    num_steps: int,
    max_coordinates: int | None = None,
    keep_parameters: bool = False,
) -> Evaluation:
    """Runs a rule on tasks and returns the loss of each function at each step.

    Many tasks run side by side, in one call for each step. Up to rounding, losses equal those of
    tasks run one after another.

    Args:
        rule: a learned or hand-designed rule.
        problem: the problem that the tasks are drawn from.
        seeds: the tasks, int32 `[M, 2]`.
        num_steps: T.
        max_coordinates: the number of coordinates that run side by side. Tasks with more in total
            run in groups of equal size, one after another. One task always runs whole. The default
            suits the device (`MAX_COORDINATES`) and the problem (`min_tasks_side_by_side`).
        keep_parameters: whether to return the parameters after the last step.

    Raises:
        TypeError: the rule or the problem is none, or the seeds are no integers.
        ValueError: the seeds have the wrong shape or are empty, or T or `max_coordinates` is below
            1.
    """
    advice = "Load a saved rule with l2l_tf.load_rule, or choose one of l2l_tf.rules."
    check_instance("rule", rule, Rule, "a rule", advice)
    seeds = _checked_seeds(seeds)
    return evaluate_rates(
        lambda _: rule,
        problem,
        seeds,
        [0.0] * seeds.shape[0],
        num_steps,
        max_coordinates,
        keep_parameters,
    )


def evaluate_rates(
    make_rule: Callable[[tf.Tensor], Rule],
    problem: Problem,
    seeds: tf.Tensor,
    learning_rates: Sequence[float],
    num_steps: int,
    max_coordinates: int | None = None,
    keep_parameters: bool = False,
) -> Evaluation:
    """Runs each task with its own learning rate.

    Args:
        make_rule: returns a rule for a vector of learning rates, float32 `[N]`, where N counts the
            coordinates of the tasks that run side by side; see `BASELINES`.
        problem: the problem that the tasks are drawn from.
        seeds: the tasks, int32 `[M, 2]`. A task may be repeated.
        learning_rates: M learning rates, one for each task.
        num_steps: T.
        max_coordinates: the number of coordinates that run side by side, as in `evaluate`.
        keep_parameters: whether to return the parameters after the last step, as in `evaluate`.

    Raises:
        TypeError: the problem is none, or the seeds are no integers.
        ValueError: the seeds have the wrong shape or are empty, or T or `max_coordinates` is below
            1.
    """
    advice = "Evaluate the components of a mixture one by one."
    check_instance("problem", problem, Problem, "a Problem", advice)
    seeds = _checked_seeds(seeds)
    check_at_least("num_steps", num_steps, 1, "Give a horizon.")
    if max_coordinates is not None:
        advice = "Leave it out, or give a positive number."
        check_at_least("max_coordinates", max_coordinates, 1, advice)
    num_tasks = seeds.shape[0]
    groups = task_groups(num_tasks, problem, max_coordinates)
    group_size = groups.shape[1]
    stacked = StackedProblem(problem, group_size)

    def run_from_start(seeds: tf.Tensor, rates: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        rule = bind(make_rule(_rate_of_each_coordinate(stacked, rates)), stacked).for_steps()
        first = start(rule, stacked, seeds)
        steps, last = unroll(rule, stacked, seeds, first, num_steps)
        return tf.concat([first.losses[tf.newaxis], steps.losses], axis=0), last.parameters

    run = tf.function(run_from_start, autograph=False).get_concrete_function(
        tf.TensorSpec([group_size, 2], tf.int32), tf.TensorSpec([group_size], tf.float32)
    )
    rates = np.array(learning_rates, np.float32)
    losses, parameters = [], []
    for group in groups:
        group_losses, vector = run(tf.gather(seeds, group), tf.constant(rates[group]))
        losses.append(group_losses.numpy())
        if keep_parameters:
            of_tasks = FlatLayout(stacked.parameter_shapes).unflatten(vector)
            flat = [tf.reshape(parameter, [group_size, -1]) for parameter in of_tasks]
            parameters.append(tf.concat(flat, axis=1).numpy())
    num_runs = num_tasks * problem.num_functions
    return Evaluation(
        _with_divergence(np.concatenate(losses, axis=1)[:, :num_runs]),
        num_final=num_final_losses(problem, num_steps),
        parameters=np.concatenate(parameters)[:num_tasks] if keep_parameters else None,
    )


def task_groups(num_tasks: int, problem: Problem, max_coordinates: int | None = None) -> np.ndarray:
    """Returns the indices of tasks in groups of equal size, int `[G, M']`.

    The last group is filled up with the first tasks, so that all groups share one trace.

    Args:
        num_tasks: M.
        problem: the problem of the tasks.
        max_coordinates: the largest number of coordinates in a group. One task always runs whole.
            The default suits the device and the problem.
    """
    min_tasks = 1
    if max_coordinates is None:
        has_gpu = tf.config.list_physical_devices("GPU")
        max_coordinates = MAX_COORDINATES["GPU" if has_gpu else "CPU"]
        # To save memory, no more than on a GPU.
        most = MAX_COORDINATES["GPU"] // problem.num_coordinates
        min_tasks = max(1, min(problem.min_tasks_side_by_side, most))
    num_tasks_at_once = max(min_tasks, max_coordinates // problem.num_coordinates)
    num_groups = math.ceil(num_tasks / num_tasks_at_once)
    group_size = math.ceil(num_tasks / num_groups)
    order = np.arange(num_groups * group_size) % num_tasks
    return order.reshape(num_groups, group_size)


def _checked_seeds(seeds: Any) -> tf.Tensor:
    """Returns seeds as int32 `[M, 2]`."""
    tensor = tf.convert_to_tensor(seeds)
    if tensor.shape.rank != 2 or tensor.shape[1] != 2 or not tensor.shape[0]:
        raise ValueError(
            "seeds must be of shape [M, 2], one for each of M tasks. "
            f"Received: seeds.shape={tensor.shape}. Draw them with l2l_tf.problems.task_seeds."
        )
    if tensor.dtype not in (tf.int32, tf.int64):
        raise TypeError(
            "seeds must be integers. "
            f"Received: seeds.dtype={tensor.dtype.name}. Draw them with l2l_tf.problems.task_seeds."
        )
    return tf.cast(tensor, tf.int32)


def _rate_of_each_coordinate(stacked: StackedProblem, rates: tf.Tensor) -> tf.Tensor:
    """Expands the rates `[M]` of tasks that run side by side to all their coordinates, `[N]`."""
    shapes = stacked.parameter_shapes
    return FlatLayout(shapes).flatten(
        [tf.broadcast_to(tf.reshape(rates, [-1] + [1] * (len(s) - 1)), s) for s in shapes]
    )


def _with_divergence(losses: np.ndarray) -> np.ndarray:
    """Returns losses `[T + 1, R]` in float64, set to infinity from the first non-finite one on."""
    has_diverged = np.logical_or.accumulate(~np.isfinite(losses), axis=0)
    return np.where(has_diverged, np.inf, losses.astype(np.float64))
