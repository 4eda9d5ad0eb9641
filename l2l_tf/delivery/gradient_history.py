"""How large an optimizer's gradients were, by which it knows one that is far beyond them."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

# What a step's largest gradient may be, relative to those of recent steps: in trainings of networks
# on MNIST and CIFAR-10 and of random quadratics it came to 17 times.
_FACTOR = 100.0
# How fast the largest of recent steps is forgotten, and how fast it grows in one step at most.
_DECAY = 0.99
_GROWTH = 2.0
# What one more step left out in a row raises the limit by: a lasting change of any size is followed
# within 40 steps.
_RAISE = 10.0
# What stands for the largest gradient before there was any, and the least that it counts as: a
# first gradient of up to 100 is taken, and of up to 1 any. Training that begins with larger ones
# loses a step or two. One that begins with a single absurd gradient would lose far more: with 300 in
# place of .1, neither Adam nor a rule with momentum had recovered after 400 steps.
_FIRST = 1.0
_LEAST = 0.01


class GradientHistory(tf.Module):
    """The size of recent gradients, and how many steps were left out for theirs.

    The size of a step is the largest absolute value among the gradients of all variables: a
    coordinate whose own gradients were zero for long, as those behind a ReLU, may come back with
    any that is usual elsewhere. A step is an outlier if its size is more than 100 times the largest
    of recent ones, where a step before counts .99 times as much as the next, and at most twice as
    much as all before it: so one that was just small enough does not open the door for larger ones.
    Each outlier in a row makes the limit 10 times larger, so that a lasting change is soon taken,
    and a step that is taken ends the row. Steps without any gradient say nothing.

    Attributes:
        largest: float32 variable `[]`, the largest of recent steps; zero before the first.
        num_in_a_row: int64 variable `[]`, how many outliers came since the last step taken.
        num_outliers: int64 variable `[]`, how many came in all.
    """

    def __init__(self) -> None:
        super().__init__()
        self.largest = _scalar("float32", "largest_gradient")
        self.num_in_a_row = _scalar("int64", "num_outliers_in_a_row")
        self.num_outliers = _scalar("int64", "num_outlier_steps")

    @property
    def values(self) -> tuple[Any, Any, Any]:
        """The TensorFlow variables, as `limit_after` and `note_step` take them."""
        return self.largest.value, self.num_in_a_row.value, self.num_outliers.value

    @property
    def keras_variables(self) -> tuple[Any, Any, Any]:
        """The Keras variables, in the order of `numbers`."""
        return self.largest, self.num_in_a_row, self.num_outliers

    def numbers(self) -> np.ndarray:
        """Returns what is to be saved, float64 `[3]`."""
        return np.array([float(value.numpy()) for value in self.values])


def limit_after(history: tuple[Any, Any, Any]) -> tf.Tensor:
    """Returns beyond which size a step is an outlier, float32 `[]`; infinite after very many.

    Args:
        history: variables of a `GradientHistory`, on the device of this step.
    """
    largest, num_in_a_row, _ = history
    usual = tf.where(largest > 0, tf.maximum(largest, _LEAST), _FIRST)
    return _FACTOR * usual * tf.pow(_RAISE, tf.cast(num_in_a_row, tf.float32))


def note_step(
    history: tuple[Any, Any, Any], size: tf.Tensor, is_taken: tf.Tensor, is_outlier: tf.Tensor
) -> None:
    """Adds a step to the history; one that is left out for another reason leaves no trace.

    Args:
        history: variables of a `GradientHistory`, on the device of this step.
        size: float32 `[]`, the largest absolute value among the gradients.
        is_taken: bool `[]`.
        is_outlier: bool `[]`.
    """
    largest, num_in_a_row, num_outliers = history
    # After outliers, what is taken at last is how large gradients now are.
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
