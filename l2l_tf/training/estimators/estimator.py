"""The interface of a meta-gradient estimator, and what it estimates the gradient of."""

import abc
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from l2l_tf.problems.problem import Problem, StackedProblem
from l2l_tf.rules.rule import Rule


class Run:
    """A rule on the tasks of one meta-step: what an estimator is given.

    Args:
        rule: the learned rule.
        problem: the problem whose tasks are run.
        num_tasks: M, how many of them at once.
        horizon: the largest number of steps of a trajectory.
        unroll_length: the largest number of steps of one estimate.

    Attributes:
        tasks: the M tasks side by side.
        weights: the trainable weights of the rule.
    """

    def __init__(
        self, rule: Rule, problem: Problem, num_tasks: int, horizon: int, unroll_length: int
    ):
        self.rule = rule
        self.problem = problem
        self.num_tasks = num_tasks
        self.horizon = horizon
        self.unroll_length = unroll_length
        self.tasks = StackedProblem(problem, num_tasks)
        self.weights: list[keras.Variable] = rule.trainable_variables  # type: ignore[attr-defined]


class Estimate(NamedTuple):
    """What one estimate gives to meta-training.

    Attributes:
        meta_loss: float `[]`, the loss whose gradient is estimated.
        gradients: one tensor for each of the rule's trainable weights.
        state: what the next estimate begins with.
    """

    meta_loss: tf.Tensor
    gradients: list[tf.Tensor]
    state: Any


class GradientEstimator(abc.ABC):
    """Estimates the gradient of a meta-loss with respect to a rule's weights, unroll by unroll.

    The trainer compiles `begin` and `estimate`; under a strategy each replica calls them for tasks
    of its own, and the trainer takes the mean of what they return.

    Attributes:
        has_episodes: whether the estimator decides itself when a trajectory ends. The trainer then
            calls `begin` once, and gives each estimate fresh seeds. Otherwise it calls `begin` for
            each trajectory, and gives its estimates the same seeds.
    """

    has_episodes: bool = False

    @abc.abstractmethod
    def begin(self, run: Run, seeds: tf.Tensor) -> Any:
        """Returns the state before the first estimate: a nest of tensors.

        Args:
            run: the rule and the tasks.
            seeds: of the tasks, int32 `[M, 2]`.
        """

    @abc.abstractmethod
    def estimate(self, run: Run, seeds: tf.Tensor, state: Any, num_steps: int) -> Estimate:
        """Returns an estimate from an unroll.

        Args:
            run: the rule and the tasks.
            seeds: of the tasks, int32 `[M, 2]`.
            state: what `begin` or the previous estimate returned.
            num_steps: the length of the unroll.
        """

    @abc.abstractmethod
    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, plain enough for JSON: part of what a run is."""

    def check(self, run: Run) -> None:  # noqa: B027, an estimator may take any
        """Raises ValueError if the gradients of a run can't be estimated."""

    def fingerprint(self) -> dict[str, Any]:
        """Returns what of the estimator makes a run what it is, for checkpoints and cards."""
        return {"estimator": {"class_name": type(self).__name__, "config": self.get_config()}}

    def description(self) -> dict[str, Any]:
        """Returns what it is and how it runs, for cards."""
        return self.fingerprint()

    def to_checkpoint(self, run: Run, state: Any) -> Any:
        """Returns a state in a form that does not depend on how the rule runs on this machine."""
        return state

    def from_checkpoint(self, run: Run, state: Any) -> Any:
        """Returns a state, given what `to_checkpoint` returned."""
        return state
