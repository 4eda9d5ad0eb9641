"""The interface of one rule's share of an optimizer's joint update."""

import abc
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from l2l_tf.rules.sums import sum_of_all


class Request(NamedTuple):
    """A group's input for a step.

    Attributes:
        gradients: the gradient of each variable of the group, in order and in its shape. With None,
            neither the variable nor its state changes.
        values: each variable that has a gradient, on the device of this step. None for the others.
        learning_rate: float `[]`.
        num_taken: int32 `[]`, the number of steps taken before.
        num_steps: int32 `[]`, the number of steps of the whole training, or zero if it is not
            known.
        seed: int32 `[2]`, the seed of this step and group for random rounding.
        age: int32 `[]`, the number of steps since the state was new. None is `num_taken`.
    """

    gradients: Sequence[tf.Tensor | None]
    values: Sequence[tf.Variable | None]
    learning_rate: Any
    num_taken: tf.Tensor
    num_steps: tf.Tensor
    seed: tf.Tensor
    age: tf.Tensor | None = None


class Step(NamedTuple):
    """A rule's proposed step, before it is decided whether to take it.

    Attributes:
        deltas: the delta of each variable that has a gradient, in order, times the learning rate.
            None for the others.
        size: float32 `[]`, the largest absolute value among the gradients.
        are_gradients_finite: bool `[]`.
        is_finite: bool `[]`, whether the rule's next state is finite.
        commit: applies the next state. Called in a branch of a `tf.cond`.
        revert: restores the old state. Called in the other branch.
    """

    deltas: list[tf.Tensor | None]
    size: tf.Tensor
    are_gradients_finite: tf.Tensor
    is_finite: tf.Tensor
    commit: Callable[[], None]
    revert: Callable[[], None]


class Group(abc.ABC):
    """Variables of a model that one rule updates, and the rule's state for them.

    Attributes:
        positions: the positions of the variables among those of the optimizer.
        needs_num_steps: whether the rule must know the number of steps of the whole training.
    """

    positions: list[int]
    needs_num_steps: bool = False

    @abc.abstractmethod
    def state_shapes(self, name: str) -> list[tuple[str, tuple[int, ...]]]:
        """Returns the names and shapes of the variables that `add_state` creates, in order."""

    @abc.abstractmethod
    def add_state(self, add_variable: Callable[..., Any], name: str) -> None:
        """Creates the variables of the state, with the rule's initial state.

        Args:
            add_variable: `keras.optimizers.Optimizer.add_variable`.
            name: the prefix of their names.
        """

    @property
    @abc.abstractmethod
    def state(self) -> Any:
        """The state's TensorFlow variables, as a nest."""

    @abc.abstractmethod
    def restart(self) -> None:
        """Has the rule start anew. What it could not measure again, it keeps."""

    @abc.abstractmethod
    def step(self, request: Request, state: Any) -> Step:
        """Computes one step of the rule without applying it.

        Args:
            request: the input.
            state: the value of `state`, on the device of this step.
        """


def size_of(gradients: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns the largest absolute value, float32 `[]`, capped at the largest float32."""
    present = [one for one in gradients if one.shape.num_elements()]
    if not present:
        return tf.zeros([])
    # Without a copy of each for its absolute values.
    largest = tf.reduce_max(tf.stack([tf.reduce_max(one) for one in present]))
    least = tf.reduce_min(tf.stack([tf.reduce_min(one) for one in present]))
    size = tf.maximum(largest, -least)
    return tf.cast(tf.minimum(size, tf.cast(tf.float32.max, size.dtype)), tf.float32)


def are_finite(
    tensors: Sequence[tf.Tensor], look: Callable[[], tf.Tensor] | None = None
) -> tf.Tensor:
    """Returns whether all numbers of all tensors are finite, bool `[]`.

    Args:
        tensors: the tensors.
        look: looks at each number, if that must be done. It may know numbers that need not be
            finite. By default, all must.
    """
    if not tensors:
        return tf.constant(True)
    # A finite sum implies finite terms, and is faster to check. The sum of many or large terms may
    # be infinite although they are finite; only then is each term checked.
    sums = [tf.cast(sum_of_all(tensor), tf.float32) for tensor in tensors]
    return tf.cond(
        tf.math.is_finite(tf.add_n(sums)),
        lambda: tf.constant(True),
        look or (lambda: tf.reduce_all([all_finite(tensor) for tensor in tensors])),
    )


def all_finite(tensor: tf.Tensor) -> tf.Tensor:
    """Returns whether all numbers of a tensor are finite, bool `[]`, looking at each."""
    return tf.reduce_all(tf.math.is_finite(tensor))


def times(delta: tf.Tensor, learning_rate: Any) -> tf.Tensor:
    """Returns a delta times the learning rate, in the delta's dtype."""
    return delta * keras.ops.cast(learning_rate, delta.dtype)
