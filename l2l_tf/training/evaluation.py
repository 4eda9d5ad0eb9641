"""Rules run on fresh tasks: the curves that everything reported comes from."""

import dataclasses

import numpy as np
import tensorflow as tf

from l2l_tf.problems.problem import Problem, StackedProblem
from l2l_tf.rules.rule import Rule
from l2l_tf.rules.side_by_side import arrange
from l2l_tf.training.unroll import start, unroll

# How many of the last losses make up the final loss of a problem with minibatches.
NUM_FINAL_MINIBATCHES = 5


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The losses of R runs of one rule: one run for each function of each task.

    A run whose loss stops being finite has diverged: its loss counts as infinite from there on, and
    so do its final and its mean loss. No run is dropped.

    Attributes:
        losses: float `[T + 1, R]`, before each of the T steps and after the last.
        num_final: over how many of its last losses a run's final loss is averaged.
    """

    losses: np.ndarray
    num_final: int = 1

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
        """The standard error of `final_loss`; NaN for a single run or a diverged one."""
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
        """How many runs had a loss that was not finite."""
        return int(np.isinf(self.losses[-1]).sum())

    @property
    def curve(self) -> np.ndarray:
        """The loss at each iterate averaged over runs, float `[T + 1]`."""
        return self.losses.mean(axis=1)


def evaluate(rule: Rule, problem: Problem, seeds: tf.Tensor, num_steps: int) -> Evaluation:
    """Runs a rule on tasks and returns the loss of each function at each step.

    Args:
        rule: a learned or hand-designed rule.
        problem: the problem that the tasks are drawn from.
        seeds: the tasks, int32 `[M, 2]`. A coordinatewise rule runs them side by side in one call
            for each step, another rule one after the other.
        num_steps: T.

    Raises:
        ValueError: the seeds have another shape or name no task, or T is below 1.
    """
    seeds = tf.convert_to_tensor(seeds)
    if seeds.shape.rank != 2 or seeds.shape[1] != 2 or not seeds.shape[0]:
        raise ValueError(
            "seeds must be of shape [M, 2], one for each of M tasks. "
            f"Received: seeds.shape={seeds.shape}. Draw them with task_seeds."
        )
    if num_steps < 1:
        raise ValueError(
            f"num_steps must be at least 1. Received: num_steps={num_steps}. Give a horizon."
        )
    num_tasks = seeds.shape[0] if rule.is_coordinatewise else 1
    stacked = StackedProblem(problem, num_tasks)
    rule = arrange(rule, stacked.num_coordinates)

    def run_from_start(seeds: tf.Tensor) -> tf.Tensor:
        first = start(rule, stacked, seeds)
        steps, _ = unroll(rule, stacked, seeds, first, num_steps)
        return tf.concat([first.losses[tf.newaxis], steps.losses], axis=0)

    run = tf.function(run_from_start).get_concrete_function(tf.TensorSpec([num_tasks, 2], tf.int32))
    losses = [run(part).numpy() for part in tf.split(seeds, seeds.shape[0] // num_tasks)]
    return Evaluation(
        _with_divergence(np.concatenate(losses, axis=1)),
        num_final=min(NUM_FINAL_MINIBATCHES, num_steps) if problem.is_stochastic else 1,
    )


def _with_divergence(losses: np.ndarray) -> np.ndarray:
    """Returns losses `[T + 1, R]`, in float64, infinite from the first that is not finite on."""
    has_diverged = np.logical_or.accumulate(~np.isfinite(losses), axis=0)
    return np.where(has_diverged, np.inf, losses.astype(np.float64))
