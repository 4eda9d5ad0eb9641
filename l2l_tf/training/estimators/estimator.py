"""The interface of a meta-gradient estimator, and its input."""

import abc
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from l2l_tf.problems.problem import Problem, StackedProblem
from l2l_tf.rules.rule import Rule


class Run:
    """A rule on the tasks of one meta-step: an estimator's input.

    Args:
        rule: the learned rule.
        problem: the problem that the tasks are drawn from.
        num_tasks: M, the number of tasks side by side.
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
    """The result of one estimate.

    Attributes:
        meta_loss: float `[]`, the loss whose gradient is estimated.
        gradients: one tensor for each of the rule's trainable weights.
        state: the state for the next estimate.
    """

    meta_loss: tf.Tensor
    gradients: list[tf.Tensor]
    state: Any


class GradientEstimator(abc.ABC):
    """Estimates the gradient of a meta-loss with respect to a rule's weights, unroll by unroll.

    The trainer compiles `begin` and `estimate`. Under a strategy, each replica calls them for its
    own tasks, and the trainer averages the results.

    Attributes:
        has_episodes: whether the estimator itself decides when a trajectory ends. If so, the
            trainer calls `begin` once, and gives each estimate fresh seeds. Otherwise it calls
            `begin` for each trajectory, and gives all its estimates the same seeds.
    """

    has_episodes: bool = False

    @abc.abstractmethod
    def begin(self, run: Run, seeds: tf.Tensor) -> Any:
        """Returns the state before the first estimate: a nest of tensors.

        Args:
            run: the rule and the tasks.
            seeds: names the tasks, int32 `[M, 2]`.
        """

    @abc.abstractmethod
    def estimate(self, run: Run, seeds: tf.Tensor, state: Any, num_steps: int) -> Estimate:
        """Returns an estimate from an unroll.

        Args:
            run: the rule and the tasks.
            seeds: names the tasks, int32 `[M, 2]`.
            state: the state returned by `begin` or by the previous estimate.
            num_steps: the length of the unroll.
        """

    @abc.abstractmethod
    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, plain values for JSON; part of the fingerprint."""

    def check(self, run: Run) -> None:  # noqa: B027, an estimator may take any
        """Raises ValueError if the estimator can't handle a run."""

    def fingerprint(self) -> dict[str, Any]:
        """Returns the settings that affect the result of a run, for checkpoints and cards."""
        return {"estimator": {"class_name": type(self).__name__, "config": self.get_config()}}

    def description(self) -> dict[str, Any]:
        """Returns the estimator's settings, including how it runs, for cards."""
        return self.fingerprint()

    def to_checkpoint(self, run: Run, state: Any) -> Any:
        """Returns a state in a form independent of how the rule runs on this machine."""
        return state

    def from_checkpoint(self, run: Run, state: Any) -> Any:
        """Returns the state from which `to_checkpoint` made its result."""
        return state
