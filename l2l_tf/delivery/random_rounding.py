"""Random rounding to bfloat16, so that small changes add up."""

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

_HALF = np.uint32(16)


def noise_for(shape: Sequence[int], seed: tf.Tensor) -> tf.Tensor:
    """Returns random numbers, uint32, each uniform, with a static shape of rank 2 or more.

    One number is drawn for each row, and multiplied by an odd number for each column, which keeps
    it uniform modulo 2^32. To draw each number separately would take as long as an LSTM's step.

    Args:
        shape: the shape.
        seed: int32 `[2]`.
    """
    rows = tf.random.stateless_uniform(shape[:1], seed, None, None, tf.uint32, alg="philox")
    # RandomState, because NumPy guarantees that its numbers never change.
    columns = np.random.RandomState(0).randint(2**32, size=math.prod(shape[1:]), dtype=np.uint64)
    columns = tf.constant((columns | 1).astype(np.uint32).reshape([1, *shape[1:]]))
    return tf.reshape(rows, [-1] + [1] * (len(shape) - 1)) * columns


def rounded_at_random(values: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
    """Rounds finite numbers to either neighbouring bfloat16, so that their mean is preserved.

    Numbers that a bfloat16 represents exactly don't change.

    Args:
        values: float, of any shape.
        noise: uint32, of the same shape.
    """
    # A bfloat16 is the upper half of a float32. Noise in the lower half carries into the upper one.
    bits = tf.bitcast(tf.cast(values, tf.float32), tf.uint32)
    raised = tf.bitwise.right_shift(bits + tf.bitwise.right_shift(noise, _HALF), _HALF)
    return tf.bitcast(tf.cast(raised, tf.uint16), tf.bfloat16)
