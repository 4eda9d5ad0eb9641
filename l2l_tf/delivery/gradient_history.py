"""The size of an optimizer's past gradients, to detect outliers."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

# The limit on a step's largest gradient, relative to those of recent steps. The ratio reached 17 in
# training networks on MNIST and CIFAR-10 and on random quadratics.
_FACTOR = 100.0
# The decay of the largest recent gradient, and the limit on its growth in one step.
_DECAY = 0.99
_GROWTH = 2.0
# The factor by which each further outlier in a row raises the limit. A lasting change of any size
# is accepted within 40 steps.
_RAISE = 10.0
# The assumed largest gradient before there is any, and its minimum later. A first gradient of up to
# 100 is thus accepted, and later always one of up to 1. Training that starts with larger gradients
# loses a few steps. But one absurd gradient at the start could ruin the training: after one of
# 300 in place of 0.1, neither Adam nor a rule with momentum had recovered after 400 steps.
_FIRST = 1.0
_LEAST = 0.01


class GradientHistory(tf.Module):
    """The size of recent gradients, and the number of steps skipped as outliers.

    The size of a step is the largest absolute value among the gradients of all variables. A
    coordinate whose own gradients were zero for long, such as one behind a ReLU, may thus return
    with any gradient that is usual elsewhere. A step is an outlier if its size is more than 100
    times the largest recent size. That largest size decays by 0.99 per step. A single step can at
    most double it, unless it is the first one or the first after outliers. A gradient just below
    the limit thus does not open the door to larger ones. Each outlier in a row raises the limit
    tenfold, so that a lasting change is soon accepted. A step that is taken ends the row. Steps
    with only zero gradients do not affect the recent size.

    Attributes:
        largest: float32 variable `[]`, the largest recent size. Zero before the first step.
        num_in_a_row: int64 variable `[]`, the number of outliers since the last step taken.
        num_outliers: int64 variable `[]`, the number of outliers in total.
    """

    def __init__(self) -> None:
        super().__init__()
        self.largest = _scalar("float32", "largest_gradient")
        self.num_in_a_row = _scalar("int64", "num_outliers_in_a_row")
        self.num_outliers = _scalar("int64", "num_outlier_steps")

    @property
    def values(self) -> tuple[Any, Any, Any]:
        """The TensorFlow variables, as arguments for `limit_after` and `note_step`."""
        return self.largest.value, self.num_in_a_row.value, self.num_outliers.value

    @property
    def keras_variables(self) -> tuple[Any, Any, Any]:
        """The Keras variables, in the order of `numbers`."""
        return self.largest, self.num_in_a_row, self.num_outliers

    def numbers(self) -> np.ndarray:
        """Returns the values to save, float64 `[3]`."""
        return np.array([float(value.numpy()) for value in self.values])


def limit_after(history: tuple[Any, Any, Any]) -> tf.Tensor:
    """Returns the size above which a step is an outlier, float32 `[]`. Infinite after very many.

    Args:
        history: variables of a `GradientHistory`, on the device of this step.
    """
    largest, num_in_a_row, _ = history
    usual = tf.where(largest > 0, tf.maximum(largest, _LEAST), _FIRST)
    return _FACTOR * usual * tf.pow(_RAISE, tf.cast(num_in_a_row, tf.float32))


def note_step(
    history: tuple[Any, Any, Any], size: tf.Tensor, is_taken: tf.Tensor, is_outlier: tf.Tensor
) -> None:
    """Adds a step to the history. A step that is skipped for another reason is ignored.

    Args:
        history: variables of a `GradientHistory`, on the device of this step.
        size: float32 `[]`, the largest absolute value among the gradients.
        is_taken: bool `[]`, whether the step is taken.
        is_outlier: bool `[]`, whether it is skipped as an outlier.
    """
    largest, num_in_a_row, num_outliers = history
    # The first step taken after outliers sets the new size of gradients.
    is_free = (num_in_a_row > 0) | tf.equal(largest, 0)
    grown = tf.where(is_free, size, tf.minimum(size, _GROWTH * largest))
    counts = is_taken & (size > 0)
    largest.assign(tf.where(counts, tf.maximum(_DECAY * largest, grown), largest))
    num_now = tf.where(is_taken, tf.zeros_like(num_in_a_row), num_in_a_row.read_value())
    num_in_a_row.assign(num_now + tf.cast(is_outlier, tf.int64))
    num_outliers.assign_add(tf.cast(is_outlier, tf.int64))


def _scalar(dtype: str, name: str) -> Any:
    return keras.Variable(
        "zeros",
        shape=(),
        dtype=dtype,
        trainable=False,
        aggregation="only_first_replica",
        name=name,
    )
