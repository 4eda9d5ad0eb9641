"""The seeds that name tasks, and draws from them: the same on every device."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

# What a task is drawn for. Tasks of different splits share no randomness, so that nothing is
# reported on a task that a rule was trained, chosen or tuned on.
SPLITS = {"train": 0, "validation": 1, "tuning": 2, "test": 3}
# Philox among TensorFlow's algorithms, and the key with which TensorFlow scrambles seeds for it.
_PHILOX = 1
_SCRAMBLING_KEY = np.array([0x02461E293EC8F720], np.uint64)
_ZERO = np.uint64(0)


def check_seed(seed: Any) -> None:
    """Raises TypeError or ValueError if a run's seed is no signed integer of 64 bits."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise TypeError(f"seed must be an integer. Received: seed={seed!r}. Give, say, 0.")
    if not -(2**63) <= seed < 2**63:
        raise ValueError(
            "seed must be a signed integer of 64 bits, from -2^63 to 2^63 - 1. "
            f"Received: seed={seed}. Give, say, 0."
        )


def task_seeds(seed: int, split: str, first_task: int, num_tasks: int) -> tf.Tensor:
    """Returns the seeds of consecutive tasks of a split.

    A task's seed depends on the run's seed, the split and the task's index alone, so that task 7 is
    the same task however many are drawn beside it.

    Args:
        seed: the run's seed, a signed integer of 64 bits.
        split: a key of `SPLITS`.
        first_task: the index of the first task, from 0.
        num_tasks: how many tasks.

    Returns:
        int32 `[num_tasks, 2]`.

    Raises:
        TypeError: the seed is no integer.
        ValueError: the seed is out of range, or the split is unknown.
    """
    check_seed(seed)
    if split not in SPLITS:
        raise ValueError(
            f"split must be one of {sorted(SPLITS)}. Received: split={split!r}. Choose one of them."
        )
    key = tf.random.stateless_uniform([], [seed, SPLITS[split]], None, None, tf.int32, alg="philox")
    indices = tf.range(first_task, first_task + num_tasks, dtype=tf.int32)
    return tf.stack([tf.fill([num_tasks], key), indices], axis=1)


def fold_in(seed: tf.Tensor, tag: int | tf.Tensor) -> tf.Tensor:
    """Returns a new seed, int32 `[2]`, derived from a seed and a tag; the same on every device."""
    # Words of int32 whatever the tag: of an optimizer's iterations, int64, TensorFlow would draw
    # others.
    key, counter = _key_and_counter(seed)
    word = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[], key=key, counter=counter, alg=_PHILOX, dtype=tf.int32
    )
    return tf.stack([word, tf.cast(tag, tf.int32)])


def integers(shape: Sequence[int], bound: int, seed: tf.Tensor) -> tf.Tensor:
    """Returns int32 numbers, uniform on 0..bound - 1; the same on every device."""
    key, counter = _key_and_counter(seed)
    return tf.raw_ops.StatelessRandomUniformIntV2(
        shape=shape, key=key, counter=counter, alg=_PHILOX, minval=0, maxval=bound
    )


def uniform(shape: Sequence[int], seed: tf.Tensor) -> tf.Tensor:
    """Returns float32 numbers, uniform on [0, 1) in steps of 2^-24; the same on every device.

    They are made from integers, because XLA makes other floats than TensorFlow of the same bits.
    """
    return tf.cast(integers(shape, 2**24, seed), tf.float32) * 2.0**-24


def normal(shape: Sequence[int], seed: tf.Tensor) -> tf.Tensor:
    """Returns float32 standard normal numbers; up to rounding, the same on every device.

    Source: Box and Muller 1958.
    """
    radius, angle = tf.unstack(uniform([2, *shape], seed))
    return tf.sqrt(-2 * tf.math.log1p(-radius)) * tf.cos(2 * math.pi * angle)


def _key_and_counter(seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns what TensorFlow has Philox begin with for a seed, uint64 `[1]` and `[2]`.

    `tf.random` with `alg="philox"` does the same in 40 operations, and its one operation for it
    (`StatelessRandomGetKeyCounter`) does another thing under XLA. Draws were a quarter of the time
    that it took to trace an evaluation.
    """
    mixed = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[2, 2],
        key=_SCRAMBLING_KEY,
        counter=tf.cast(seed, tf.uint64),
        alg=_PHILOX,
        dtype=tf.uint32,
    )
    key, counter = tf.unstack(tf.bitcast(mixed, tf.uint64))
    return tf.expand_dims(key, 0), tf.stack([_ZERO, counter])
