"""Numbers kept in bfloat16 that are rounded up or down at random, so that small changes add up."""

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

_HALF = np.uint32(16)


def noise_for(shape: Sequence[int], seed: tf.Tensor) -> tf.Tensor:
    """Returns random numbers, uint32, each uniform, of a static shape of rank 2 or more.

    A number for each row is drawn, and multiplied by an odd one for each column, which keeps it
    uniform modulo 2^32: to draw each would take as long as the step of an LSTM.

    Args:
        shape: the shape.
        seed: int32 `[2]`.
    """
    rows = tf.random.stateless_uniform(shape[:1], seed, None, None, tf.uint32, alg="philox")
    # RandomState, because NumPy promises that its numbers will stay.
    columns = np.random.RandomState(0).randint(2**32, size=math.prod(shape[1:]), dtype=np.uint64)
    columns = tf.constant((columns | 1).astype(np.uint32).reshape([1, *shape[1:]]))
    return tf.reshape(rows, [-1] + [1] * (len(shape) - 1)) * columns


def rounded_at_random(values: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
    """Returns finite numbers as bfloat16: as either neighbour, so that their mean stays.

    What is a bfloat16 stays as it is.

    Args:
        values: float, of any shape.
        noise: uint32, of that shape.
    """
    # A bfloat16 is the first half of a float32: noise in the second half carries into the first.
    bits = tf.bitcast(tf.cast(values, tf.float32), tf.uint32)
    raised = tf.bitwise.right_shift(bits + tf.bitwise.right_shift(noise, _HALF), _HALF)
    return tf.bitcast(tf.cast(raised, tf.uint16), tf.bfloat16)
