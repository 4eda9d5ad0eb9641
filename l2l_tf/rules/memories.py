"""Memories that coordinates share: a matrix, or a history of the vectors that make one.

A memory holds a linear map of vectors `[R, N]` for each of R batch entries: a multiple of the
identity, changed by what was written. What is read is the map of a vector. Vectors are written with
inner products that are means over the N coordinates, as those of averaging cells are.
"""

from typing import NamedTuple

import tensorflow as tf

# Averages up to this, of products of vectors of size one, count as none. So powers of the others,
# and their derivatives, do not overflow float32.
TINY = 1e-6
# The largest absolute logarithm of a strength.
_MAX_LOG = 60.0


class Write(NamedTuple):
    """What is written to a memory in a step, by J write heads.

    Attributes:
        left: the vectors a, float `[R, J, N]`.
        right: the vectors b, likewise.
        strengths: the factors of the outer products, float `[R, J]`.
        unit: what an inverse Hessian is measured in, the size of a delta over that of a difference
            of gradients, float `[R]`.
        is_written: bool `[R]`. Elsewhere the memory stays.
    """

    left: tf.Tensor
    right: tf.Tensor
    strengths: tf.Tensor
    unit: tf.Tensor
    is_written: tf.Tensor


class MatrixMemory(NamedTuple):
    """A matrix to which outer products are added.

    Attributes:
        products: the sum of the outer products, float `[R, N, N]`.
        scale: the multiple of the identity, float `[R]`. Zero stands for the initial one.
        num_writes: float `[R]`.
    """

    products: tf.Tensor
    scale: tf.Tensor
    num_writes: tf.Tensor

    @classmethod
    def empty(cls, num_entries: int, num_coordinates: int, dtype: str) -> "MatrixMemory":
        """Returns a memory to which nothing has been written."""
        zeros = tf.zeros([num_entries], dtype)
        products = tf.zeros([num_entries, num_coordinates, num_coordinates], dtype)
        return cls(products, zeros, zeros)

    def scaled(self, scale: tf.Tensor, is_known: tf.Tensor) -> "MatrixMemory":
        """Returns the memory with a new scale, `[R]`, if it is known and nothing was written."""
        return self._replace(
            scale=tf.where(is_known & tf.equal(self.num_writes, 0), scale, self.scale)
        )

    def written(self, write: Write) -> "MatrixMemory":
        """Returns the memory with unit a b^T / N added for each head, times its strength."""
        size = tf.cast(write.left.shape[-1], write.left.dtype)
        strengths = write.strengths * write.unit[:, tf.newaxis] / size
        added = tf.matmul(strengths[..., tf.newaxis] * write.left, write.right, transpose_a=True)
        is_written = write.is_written[:, tf.newaxis, tf.newaxis]
        return self._replace(
            products=self.products + tf.where(is_written, added, tf.zeros_like(added)),
            num_writes=self.num_writes + tf.cast(write.is_written, self.num_writes.dtype),
        )

    def read(self, vector: tf.Tensor, initial_scale: tf.Tensor) -> tf.Tensor:
        """Returns the map of a vector `[R, N]`."""
        scale = tf.where(self.scale > 0, self.scale, initial_scale)[:, tf.newaxis]
        product = tf.matmul(self.products, vector[..., tf.newaxis])
        return scale * vector + tf.squeeze(product, axis=-1)


class HistoryMemory(NamedTuple):
    """The vectors of the last m writes, from which each read makes the product.

    With left vectors s, right vectors y and strengths 1 / mean(s y), the map is the inverse Hessian
    of L-BFGS. Reading is its two-loop recursion (Nocedal and Wright 2006, algorithm 7.4).

    Attributes:
        left: the vectors a times the root of their unit, from the oldest, float `[R, m, N]`.
        right: the vectors b over that root, likewise.
        strengths: their factors, float `[R, m]`. Those of writes that were none are zero.
        scale: the multiple of the identity, float `[R]`. Zero stands for the initial one.
    """

    left: tf.Tensor
    right: tf.Tensor
    strengths: tf.Tensor
    scale: tf.Tensor

    @classmethod
    def empty(
        cls, num_entries: int, num_coordinates: int, dtype: str, history_size: int
    ) -> "HistoryMemory":
        """Returns a memory of m = `history_size` writes, to which nothing has been written."""
        vectors = tf.zeros([num_entries, history_size, num_coordinates], dtype)
        strengths = tf.zeros([num_entries, history_size], dtype)
        return cls(vectors, vectors, strengths, tf.zeros([num_entries], dtype))

    def scaled(self, scale: tf.Tensor, is_known: tf.Tensor) -> "HistoryMemory":
        """Returns the memory with a new scale, `[R]`, if it is known."""
        return self._replace(scale=tf.where(is_known, scale, self.scale))

    def written(self, write: Write) -> "HistoryMemory":
        """Returns the memory without its oldest writes, and with that of each head."""

        def moved(old: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
            later = tf.concat([old, new], axis=1)[:, new.shape[1] :]
            is_written = tf.reshape(write.is_written, [-1] + [1] * (len(old.shape) - 1))
            return tf.where(is_written, later, old)

        root = tf.sqrt(write.unit)[:, tf.newaxis, tf.newaxis]
        return self._replace(
            left=moved(self.left, root * write.left),
            right=moved(self.right, write.right / root),
            strengths=moved(self.strengths, write.strengths),
        )

    def read(self, vector: tf.Tensor, initial_scale: tf.Tensor) -> tf.Tensor:
        """Returns the map of a vector `[R, N]`."""
        writes = list(
            zip(
                tf.unstack(self.left, axis=1),
                tf.unstack(self.right, axis=1),
                tf.unstack(self.strengths[..., tf.newaxis], axis=1),
                strict=True,
            )
        )
        factors = []
        for left, right, strength in reversed(writes):
            factors.append(strength * _mean_product(left, vector))
            vector -= factors[-1] * right
        vector *= tf.where(self.scale > 0, self.scale, initial_scale)[:, tf.newaxis]
        for (left, right, strength), factor in zip(writes, reversed(factors), strict=True):
            vector += (factor - strength * _mean_product(right, vector)) * left
        return vector


def power_law(averages: tf.Tensor, exponents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns products of powers of averages, float `[R, J]`, and where these are positive.

    Args:
        averages: float `[R, K]`.
        exponents: float `[K, J]`.

    Returns:
        The products, which are zero where an average of the entry is not positive, and whether all
        of them are, bool `[R]`.
    """
    are_positive = tf.reduce_all(averages > TINY, axis=-1)
    rows = are_positive[:, tf.newaxis]
    # What is not positive is kept out of the logarithm, whose derivative would be NaN.
    logarithms = tf.math.log(tf.where(rows, averages, tf.ones_like(averages)))
    products = tf.exp(tf.clip_by_value(tf.matmul(logarithms, exponents), -_MAX_LOG, _MAX_LOG))
    return tf.where(rows, products, tf.zeros_like(products)), are_positive


def _mean_product(one: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(one * other, axis=-1, keepdims=True)
