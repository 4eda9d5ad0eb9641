"""The interface of a meta-gradient estimator, and its input."""

import abc
import copy
import re
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from l2l_tf.checks import check_instance
from l2l_tf.problems.problem import Problem, StackedProblem
from l2l_tf.rules.rule import Rule


class Run:
    """A rule on the tasks of one meta-step: an estimator's input.

    Args:
        rule: the learned rule.
        problem: the problem that the tasks are drawn from.
        num_tasks: M, the number of tasks side by side.
        horizon: the number of steps of a trajectory.
        unroll_length: the largest number of steps of one estimate.

    Attributes:
        tasks: the M tasks side by side.
        weights: the trainable weights of the rule.
    """

    def __init__(
        self,
        rule: Rule,
        problem: Problem,
        num_tasks: int,
        horizon: int | tf.Tensor,
        unroll_length: int,
    ):
        self.rule = rule
        self.problem = problem
        self.num_tasks = num_tasks
        self.horizon = horizon
        self.unroll_length = unroll_length
        self.tasks = StackedProblem(problem, num_tasks)
        self.weights: list[keras.Variable] = rule.trainable_variables  # type: ignore[attr-defined]

    def over(self, horizon: int | tf.Tensor) -> "Run":
        """Returns the same run with trajectories of another length."""
        other = copy.copy(self)
        other.horizon = horizon
        return other


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
    def estimate(
        self, run: Run, seeds: tf.Tensor, state: Any, num_steps: int | tf.Tensor
    ) -> Estimate:
        """Returns an estimate from an unroll.

        Args:
            run: the rule and the tasks.
            seeds: names the tasks, int32 `[M, 2]`.
            state: the state returned by `begin` or by the previous estimate.
            num_steps: the length of the unroll, an integer, or int32 `[]` if lengths are drawn.
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


def check_pattern(name: str, pattern: Any) -> None:
    """Raises TypeError or ValueError unless an argument is None or a regular expression."""
    what = "None or a string, a regular expression"
    check_instance(name, pattern, str | None, what, "Leave it out for all weights.")
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise ValueError(
            f"{name} must be a regular expression. Received: {name}={pattern!r}, where {error}. "
            "Escape what is meant literally (re.escape)."
        ) from error


def chosen_weights(pattern: str | None, run: Run) -> list[bool]:
    """Returns, for each of a rule's trainable weights, whether a pattern occurs in its path.

    Raises:
        ValueError: it occurs in none of them.
    """
    chosen = [pattern is None or re.search(pattern, one.path) is not None for one in run.weights]
    if not any(chosen):
        raise ValueError(
            "weights must match the path of a trainable weight. Received: "
            f"weights={pattern!r} with {[weight.path for weight in run.weights]}. Correct it."
        )
    return chosen


def check_counted_share(share: float) -> None:
    """Raises ValueError unless a share of steps whose losses count is in (0, 1]."""
    # Written so that NaN is out of range.
    if not 0 < share <= 1:
        raise ValueError(
            "counted_share must be in (0, 1]. "
            f"Received: counted_share={share}. Leave it out for all steps."
        )


def counted_steps(share: float, first: tf.Tensor, num_steps: Any, horizon: Any) -> tf.Tensor:
    """Returns which steps of an unroll are among the last ones of a trajectory, bool `[T]`.

    Args:
        share: the share of the trajectory's steps that count, of which there is at least one.
        first: the number of steps before the unroll, int32 `[]`.
        num_steps: T.
        horizon: the number of steps of the trajectory, an integer or int32 `[]`.
    """
    num_others = tf.cast((1 - share) * tf.cast(horizon, tf.float32), tf.int32)
    return first + tf.range(num_steps) >= tf.minimum(num_others, horizon - 1)
