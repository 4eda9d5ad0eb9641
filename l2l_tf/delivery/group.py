"""The interface of one rule's share of an optimizer's joint update."""

import abc
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf


class Request(NamedTuple):
    """What a group is told of a step.

    Attributes:
        gradients: of each variable of the group, in order, of its shape; None: it has none, and
            neither it nor the state for it changes.
        values: each variable that has a gradient, on the device of this step; None for the others.
        learning_rate: float `[]`.
        num_taken: int32 `[]`, how many steps were taken before.
        seed: int32 `[2]`, of this step and group, for what is rounded at random.
    """

    gradients: Sequence[tf.Tensor | None]
    values: Sequence[tf.Variable | None]
    learning_rate: Any
    num_taken: tf.Tensor
    seed: tf.Tensor


class Step(NamedTuple):
    """What a step of a rule would do, before it is known whether it is taken.

    Attributes:
        deltas: of each variable that has a gradient, in order, times the learning rate; None for
            the others.
        size: float32 `[]`, the largest absolute value among the gradients.
        are_gradients_finite: bool `[]`.
        is_finite: bool `[]`, whether deltas and the rule's next state are.
        commit: makes the state the next one. Called in a branch of a `tf.cond`.
        revert: makes the state what it was. Called in the other branch.
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
        positions: where the variables stand among those of the optimizer.
    """

    positions: list[int]

    @abc.abstractmethod
    def state_shapes(self, name: str) -> list[tuple[str, tuple[int, ...]]]:
        """Returns the names and shapes of the variables that `add_state` makes, in order."""

    @abc.abstractmethod
    def add_state(self, add_variable: Callable[..., Any], name: str) -> None:
        """Makes the variables of the state, at the rule's initial state.

        Args:
            add_variable: `keras.optimizers.Optimizer.add_variable`.
            name: what their names begin with.
        """

    @property
    @abc.abstractmethod
    def state(self) -> Any:
        """The state's TensorFlow variables: a nest."""

    @abc.abstractmethod
    def step(self, request: Request, state: Any) -> Step:
        """Returns what one step of the rule would do.

        Args:
            request: what the group is told of it.
            state: what `state` gave, on the device of this step.
        """


def size_of(gradient: tf.Tensor) -> tf.Tensor:
    """Returns the largest absolute value as a float32, `[]`; what is too large is the largest."""
    if not gradient.shape.num_elements():
        return tf.zeros([])
    largest = tf.reduce_max(tf.abs(gradient))
    return tf.cast(tf.minimum(largest, tf.cast(tf.float32.max, largest.dtype)), tf.float32)


def are_finite(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns whether all numbers of all tensors are finite, bool `[]`."""
    if not tensors:
        return tf.constant(True)
    # A sum is finite only if all of its terms are, and quicker than asking each. That of many or
    # large ones may be infinite though they are not: then each is asked.
    sums = [tf.math.is_finite(tf.reduce_sum(tensor)) for tensor in tensors]
    return tf.cond(
        tf.reduce_all(tf.stack(sums)),
        lambda: tf.constant(True),
        lambda: tf.reduce_all([tf.reduce_all(tf.math.is_finite(tensor)) for tensor in tensors]),
    )


def times(delta: tf.Tensor, learning_rate: Any) -> tf.Tensor:
    """Returns a delta times the learning rate, in the delta's precision."""
    return delta * keras.ops.cast(learning_rate, delta.dtype)
