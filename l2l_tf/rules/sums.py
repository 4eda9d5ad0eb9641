"""Sums of large tensors."""

import math

import tensorflow as tf

from l2l_tf.keras_internals import is_compiled_by_xla

# With fewer numbers, a product of matrices would take longer than a sum.
MIN_LARGE_SIZE = 2**14 + 1


def sum_of_all(values: tf.Tensor, num_leading: int = 0) -> tf.Tensor:
    """Returns the sum over all axes but some leading ones, float `[...]`.

    XLA adds the numbers of a sum one after the other on a CPU, but multiplies matrices fast. For
    large tensors under XLA, the sum is a product with ones.

    Args:
        values: float, of static rank.
        num_leading: the number of leading axes that stay.
    """
    leading, own = values.shape[:num_leading], values.shape[num_leading:]
    is_known = own.is_fully_defined() and own.rank > 1
    if not is_known or math.prod(own) < MIN_LARGE_SIZE or not is_compiled_by_xla():
        return tf.reduce_sum(values, list(range(num_leading, values.shape.rank)))
    rows = tf.reshape(values, [*leading, -1, own[-1]])
    return tf.reduce_sum(tf.matmul(rows, tf.ones([own[-1], 1], rows.dtype)), [-2, -1])
