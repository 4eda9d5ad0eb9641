"""A step size that is halved where a step did not decrease the loss as it should have."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

# The rounding of a loss, relative to it, that a comparison of losses allows for.
_NUM_ROUNDINGS = 32


class Trial(NamedTuple):
    """What is known of the last step, whose loss only the next one tells.

    Attributes:
        factor: float `[...]`, what the step size of each batch entry is multiplied by.
        bound: float `[...]`, what the loss after the step may be at most. Infinite before the
            first step and after one that was taken back.
        parameters: float `[N]`, those before the step.
        num_failed: int64 `[...]`, the number of steps that were taken back.
    """

    factor: tf.Tensor
    bound: tf.Tensor
    parameters: tf.Tensor
    num_failed: tf.Tensor


def first_trial(batch_shape: tuple[int, ...], num_coordinates: int, dtype: tf.DType) -> Trial:
    """Returns what is known before the first step."""
    return Trial(
        tf.ones(batch_shape, dtype),
        infinity_like(tf.ones(batch_shape, dtype)),
        tf.zeros([num_coordinates], dtype),
        tf.zeros(batch_shape, tf.int64),
    )


def has_failed(trial: Trial, losses: tf.Tensor) -> tf.Tensor:
    """Returns whether the last step of each batch entry must be taken back, bool `[...]`.

    Args:
        trial: what is known of the step.
        losses: float `[...]`, at the point that it led to.
    """
    bound = tf.cast(trial.bound, losses.dtype)
    rounding = _NUM_ROUNDINGS * np.finfo(losses.dtype.as_numpy_dtype).eps
    holds = losses <= bound + rounding * tf.maximum(tf.abs(losses), tf.abs(bound))
    return tf.math.is_finite(bound) & ~holds


def bound_of_decrease(
    losses: tf.Tensor, rate: tf.Tensor, gradient_square: tf.Tensor, difference_square: tf.Tensor
) -> tf.Tensor:
    """Returns what the loss may be after a step, float `[...]`.

    For x+ = x - eta g + v, it is f(x) - (eta / 2) |g|^2 + |v|^2 / (2 eta). If f is beta-smooth and
    eta <= 1 / beta, f(x+) is at most that (docs/guarantees.md).

    Args:
        losses: f(x).
        rate: eta.
        gradient_square: |g|^2.
        difference_square: |v|^2.
    """
    return losses - rate / 2 * gradient_square + difference_square / (2 * rate)


def infinity_like(value: tf.Tensor) -> tf.Tensor:
    """Returns infinity in the shape and dtype of a tensor."""
    return tf.ones_like(value) * np.inf
