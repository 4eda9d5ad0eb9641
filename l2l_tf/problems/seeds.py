"""Seeds that name tasks, and random draws that are the same on every device."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from l2l_tf.checks import check_one_of

# The purposes of tasks. Tasks of different splits share no randomness. Results are therefore never
# reported on a task that a rule was trained, chosen or tuned on.
SPLITS = {"train": 0, "validation": 1, "tuning": 2, "test": 3}
# What TensorFlow calls the generator that it has on every device, and the key with which that
# generator makes keys of seeds.
_PHILOX = 1
_KEY_OF_SEEDS = 0x02461E293EC8F720


def check_seed(seed: Any) -> None:
    """Raises TypeError or ValueError if a run's seed is not a signed 64-bit integer."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise TypeError(f"seed must be an integer. Received: seed={seed!r}. Give, say, 0.")
    if not -(2**63) <= seed < 2**63:
        raise ValueError(
            "seed must be a signed integer of 64 bits, from -2^63 to 2^63 - 1. "
            f"Received: seed={seed}. Give, say, 0."
        )


def task_seeds(seed: int, split: str, first_task: int, num_tasks: int) -> tf.Tensor:
    """Returns the seeds of consecutive tasks of a split.

    A task's seed depends only on the run's seed, the split and the task's index. Task 7 is thus the
    same task however many are drawn with it.

    Args:
        seed: the run's seed, a signed 64-bit integer.
        split: a key of `SPLITS`.
        first_task: the index of the first task, from 0.
        num_tasks: the number of tasks.

    Returns:
        int32 `[num_tasks, 2]`.

    Raises:
        TypeError: the seed is not an integer.
        ValueError: the seed is out of range, or the split is unknown.
    """
    check_seed(seed)
    check_one_of("split", split, SPLITS)
    key = tf.random.stateless_uniform([], [seed, SPLITS[split]], None, None, tf.int32, alg="philox")
    indices = tf.range(first_task, first_task + num_tasks, dtype=tf.int32)
    return tf.stack([tf.fill([num_tasks], key), indices], axis=1)


def fold_in(seed: tf.Tensor, tag: int | tf.Tensor) -> tf.Tensor:
    """Returns a new seed, int32 `[2]`, derived from a seed and a tag; the same on every device."""
    # With an int64 tag, such as an optimizer's iterations, TensorFlow would give another seed.
    tag = tf.cast(tag, tf.int32)
    key, counter = _key_and_counter(seed)
    word = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[], key=key, counter=counter, dtype=tf.int32, alg=_PHILOX
    )
    return tf.stack([word, tag])


def integers(shape: Sequence[int], bound: int, seed: tf.Tensor) -> tf.Tensor:
    """Returns int32 numbers, uniform on 0..bound - 1; the same on every device."""
    key, counter = _key_and_counter(seed)
    return tf.raw_ops.StatelessRandomUniformIntV2(
        shape=tf.constant(tf.TensorShape(shape).as_list(), tf.int32),
        key=key,
        counter=counter,
        minval=0,
        maxval=bound,
        alg=_PHILOX,
    )


def uniform(shape: Sequence[int], seed: tf.Tensor) -> tf.Tensor:
    """Returns float32 numbers, uniform on [0, 1) in steps of 2^-24; the same on every device.

    They are made from integers, because XLA and TensorFlow turn the same bits into different
    floats.
    """
    return tf.cast(integers(shape, 2**24, seed), tf.float32) * 2.0**-24


def normal(shape: Sequence[int], seed: tf.Tensor) -> tf.Tensor:
    """Returns float32 standard normal numbers; up to rounding, the same on every device.

    Source: Box and Muller 1958.
    """
    radius, angle = tf.unstack(uniform([2, *shape], seed))
    return tf.sqrt(-2 * tf.math.log1p(-radius)) * tf.cos(2 * math.pi * angle)


def _key_and_counter(seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns what `alg="philox"` makes of a seed: uint64 `[1]` and `[2]`.

    TensorFlow takes more than twice as many operations for it, in every draw.
    """
    mixed = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[4],
        key=tf.constant([_KEY_OF_SEEDS], tf.uint64),
        counter=tf.cast(seed, tf.uint64),
        dtype=tf.uint32,
        alg=_PHILOX,
    )
    words = tf.bitcast(tf.reshape(mixed, [2, 2]), tf.uint64)
    return words[:1], tf.concat([tf.zeros([1], tf.uint64), words[1:]], 0)
