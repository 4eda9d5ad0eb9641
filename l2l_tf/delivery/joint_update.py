"""The joint update of all groups of an optimizer, in one step or not at all."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from l2l_tf.delivery.assignment import path_of
from l2l_tf.delivery.group import Group, Request, Step, all_finite, are_finite


class Part(NamedTuple):
    """The update of one variable.

    Attributes:
        variable: the variable, on the device of this update.
        gradient: the gradient, in the variable's shape.
        weight_decay: the share to subtract first, times the learning rate. None for no decay.
    """

    variable: tf.Variable
    gradient: tf.Tensor
    weight_decay: float | None

    def moved(self, delta: tf.Tensor, learning_rate: Any) -> tf.Tensor:
        """Returns the value after weight decay and delta, in the variable's dtype."""
        value = self.variable.read_value()
        if self.weight_decay is not None:
            rate = keras.ops.cast(learning_rate, value.dtype)
            # In Keras's order of operations, to get the same rounding.
            value -= value * tf.cast(self.weight_decay, value.dtype) * rate
        return value + tf.cast(delta, value.dtype)

    def stays_finite(self, delta: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
        """Returns whether the delta is finite and every finite number stays finite, bool `[]`.

        A finite delta may overflow as a float16, or when it is added to the value.

        Args:
            delta: the delta.
            value: the value after it, from `moved`.
        """
        was_finite = tf.math.is_finite(self.variable.read_value())
        return all_finite(delta) & tf.reduce_all(tf.math.is_finite(value) | ~was_finite)


class Outcome(NamedTuple):
    """The outcome of a step.

    Attributes:
        is_taken: bool `[]`.
        is_outlier: bool `[]`, whether all gradients are finite and one exceeds the limit.
        size: float32 `[]`, the largest absolute value among the gradients.
    """

    is_taken: tf.Tensor
    is_outlier: tf.Tensor
    size: tf.Tensor


def update_jointly(
    groups: Sequence[tuple[Group, Any]],
    parts: dict[int, Part],
    learning_rate: Any,
    limit: tf.Tensor,
    num_taken: tf.Tensor,
    num_steps: tf.Tensor,
) -> Outcome:
    """Updates the variables and states of all groups, if all values involved are valid.

    Args:
        groups: each group with the variables of its state, on the device of this update.
        parts: the updates, by position among the optimizer's variables. Other variables keep their
            value and their state.
        learning_rate: float `[]`.
        limit: float32 `[]`, the largest allowed absolute value of a gradient.
        num_taken: int32 `[]`, the number of steps taken before. It seeds the rounding of states, so
            that a skipped step has no effect on it.
        num_steps: int32 `[]`, the number of steps of the whole training. Zero if it is not known.

    Returns:
        The outcome. The step is taken if all gradients, deltas times the learning rate, next states
        and new values are finite, and no gradient exceeds the limit.
    """
    is_finite = tf.constant(True)
    are_gradients_finite = tf.constant(True)
    size = tf.zeros([])
    steps: list[Step] = []
    moves: list[tuple[Part, tf.Tensor]] = []
    for index, (group, state) in enumerate(groups):
        own = [parts.get(position) for position in group.positions]
        if not any(own):
            continue
        request = Request(
            gradients=[None if part is None else part.gradient for part in own],
            values=[None if part is None else part.variable for part in own],
            learning_rate=learning_rate,
            num_taken=num_taken,
            num_steps=num_steps,
            seed=tf.stack([num_taken, 1000 * index]),
        )
        step = group.step(request, state)
        size = tf.maximum(size, step.size)
        are_gradients_finite &= step.are_gradients_finite
        is_finite &= step.is_finite
        steps.append(step)
        deltas = zip(own, step.deltas, strict=True)
        moves += [(part, delta) for part, delta in deltas if part is not None]
    values = [part.moved(delta, learning_rate) for part, delta in moves]

    def stay_finite() -> tf.Tensor:
        pairs = zip(moves, values, strict=True)
        return tf.reduce_all([part.stays_finite(delta, value) for (part, delta), value in pairs])

    # If the new values are finite, then so are the deltas.
    is_finite &= are_finite(values, stay_finite)

    def take() -> tf.Tensor:
        for (part, _), value in zip(moves, values, strict=True):
            part.variable.assign(value)
        for step in steps:
            step.commit()
        return tf.constant(True)

    def leave() -> tf.Tensor:
        for step in steps:
            step.revert()
        return tf.constant(False)

    is_outlier = are_gradients_finite & (size > limit)
    is_taken = tf.cond(is_finite & are_gradients_finite & ~is_outlier, take, leave)
    return Outcome(is_taken, is_outlier, size)


def dense(gradient: Any, variable: Any) -> Any:
    """Returns a gradient as one tensor of the variable's shape. None stays None.

    Repeated rows of a sparse gradient (`tf.IndexedSlices`) are added. Its indices and values may be
    tensors, arrays or sequences.

    Raises:
        TypeError: the variable is not of floating point, or indices are not integers.
        ValueError: a sparse gradient is for a variable without rows, or its rows don't fit.
    """
    if gradient is None:
        return None
    dtype = tf.as_dtype(variable.dtype)
    is_overwritten = getattr(variable, "overwrite_with_gradient", False)
    if not dtype.is_floating and not is_overwritten:
        raise TypeError(
            "Variables must be of floating point to be updated by a rule. Received: a gradient "
            f"for {path_of(variable)!r} of {dtype.name}. Give None for it, or leave it out of what "
            "is trained (trainable=False)."
        )
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    indices = tf.convert_to_tensor(gradient.indices, dtype_hint=tf.int64)
    if not indices.dtype.is_integer:
        raise TypeError(
            "Indices of a sparse gradient must be integers. Received: indices of "
            f"{indices.dtype.name} for {path_of(variable)!r}. Give the numbers of rows."
        )
    values = tf.convert_to_tensor(gradient.values, dtype_hint=dtype)
    shape = tf.TensorShape(variable.shape)
    rows = indices.shape.concatenate(shape[1:]) if shape.rank else None
    if rows is None or not values.shape.is_compatible_with(rows):
        raise ValueError(
            "A sparse gradient must hold rows of its variable, one for each index. Received: "
            f"indices {indices.shape} and values {values.shape} for {path_of(variable)!r} of shape "
            f"{shape}. Give the gradient as one tensor of that shape."
        )
    if indices.shape.rank == 0:
        indices, values = indices[tf.newaxis], values[tf.newaxis]
    # Unlike `tf.convert_to_tensor`, this gives a shape that XLA knows.
    return tf.scatter_nd(tf.cast(indices[..., tf.newaxis], tf.int64), values, shape)
