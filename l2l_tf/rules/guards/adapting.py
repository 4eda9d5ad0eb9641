"""A radius that grows while what a rule adds to its fallback helps, and otherwise shrinks."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from l2l_tf.rules.sums import sum_of_all

# The change of the logarithm of theta in a step. A step that is too long costs more than one that
# is too short, so theta shrinks twice as fast as it grows.
_GROWTH = 0.1
_SHRINKAGE = 0.2
# The range of theta, relative to its first value.
_LARGEST = 10 / 3
_SMALLEST = 0.01


class Radius(NamedTuple):
    """The radius of the next step.

    Attributes:
        thetas: float `[..., K]`, relative to the fallback's delta: for each batch entry, one of all
            tensors together, or one for each of them.
        differences: a nest of tensors: what the last step had beyond the fallback's.
    """

    thetas: tf.Tensor
    differences: Any


def first_thetas(theta: float, batch_shape: Sequence[int], count: int, dtype: Any) -> tf.Tensor:
    """Returns the thetas of the first step, `[..., K]`."""
    value = min(theta, float(tf.as_dtype(dtype).max))
    return tf.fill([*batch_shape, count], tf.constant(value, dtype))


def adapted(
    thetas: tf.Tensor,
    gradients: Sequence[tf.Tensor],
    differences: Sequence[tf.Tensor],
    theta: float,
    num_batch_axes: int,
) -> tf.Tensor:
    """Returns the thetas of a step, `[..., K]`, from those of the last one.

    The derivative of the loss with respect to the length of the last difference v, at the point
    that it led to, is g·v for the gradient g there. If it is negative, more of v would have been
    better, and theta grows. If it is positive, v went too far, and theta shrinks. Only the sign
    counts. Theta stays within a hundredth and ten thirds of its first value.

    Args:
        thetas: those of the last step.
        gradients: g, one for each tensor, with leading batch axes.
        differences: v, likewise. Zeros before the first step.
        theta: the first value.
        num_batch_axes: the number of leading axes.
    """
    pairs = zip(gradients, differences, strict=True)
    slopes = [sum_of_all(g * tf.cast(v, g.dtype), num_batch_axes) for g, v in pairs]
    if thetas.shape[-1] == 1:
        slopes = [tf.add_n(slopes)]
    slope = tf.cast(tf.stack(slopes, -1), thetas.dtype)
    change = tf.where(slope > 0, -_SHRINKAGE, tf.where(slope < 0, _GROWTH, 0.0))
    largest = min(_LARGEST * theta, float(thetas.dtype.max))
    moved = thetas * tf.exp(tf.cast(change, thetas.dtype))
    return tf.stop_gradient(tf.clip_by_value(moved, min(_SMALLEST * theta, largest), largest))
