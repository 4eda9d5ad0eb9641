"""Approximate orthogonalisation of matrices."""

import tensorflow as tf

# The coefficients of the quintic iteration, steepest at zero (K. Jordan 2024, "Muon").
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
# With more, errors of the Gram matrix would grow.
_NUM_ITERATIONS = 5
# A matrix that is so many times as wide as high is iterated on by way of its small Gram matrix, if
# it has so many rows that this saves time.
_WIDE, _LEAST_ROWS = 2, 16


def orthogonalized(matrices: tf.Tensor) -> tf.Tensor:
    """Returns matrices with the same singular vectors, and singular values near 1.

    This is the Newton-Schulz iteration of Muon (`keras.optimizers.Muon`). It leaves singular values
    between about 0.7 and 1.2. Those far below the largest one stay smaller. A matrix of zeros stays
    zero.

    For oblong matrices of 16 rows or more, the product of the iteration's polynomials is computed
    from the smaller Gram matrix alone, and applied at the end. That takes a half to a third of the
    time. In float32 the result differs by up to 4e-4 of its norm if singular values are of many
    sizes, and by 2e-6 otherwise.

    Args:
        matrices: float `[..., r, c]`.
    """
    rows, columns = matrices.shape[-2:]
    # Unlike that of `tf.norm`, the derivative is finite for a matrix of zeros.
    square = tf.reduce_sum(tf.square(matrices), axis=(-2, -1), keepdims=True)
    x = matrices / (tf.sqrt(square + 1e-30) + 1e-7)
    least, most = sorted((rows, columns))
    is_oblong = least >= _LEAST_ROWS and most >= _WIDE * least
    # On the smaller side, the products are cheapest.
    return (_by_gram_matrix if is_oblong else _by_steps)(x, rows > columns)


def _by_steps(x: tf.Tensor, is_high: bool) -> tf.Tensor:
    identity = tf.eye(min(x.shape[-2:]), dtype=x.dtype)
    for _ in range(_NUM_ITERATIONS):
        x = _times(_factor(_gram_matrix(x, is_high), identity), x, is_high)
    return x


def _by_gram_matrix(x: tf.Tensor, is_high: bool) -> tf.Tensor:
    gram = _gram_matrix(x, is_high)
    identity = tf.eye(min(x.shape[-2:]), dtype=x.dtype)
    product = identity
    for index in range(_NUM_ITERATIONS):
        factor = _factor(gram, identity)
        product = tf.matmul(factor, product) if index else factor
        if index < _NUM_ITERATIONS - 1:
            gram = tf.matmul(tf.matmul(factor, gram), factor)
    return _times(product, x, is_high)


def _gram_matrix(x: tf.Tensor, is_high: bool) -> tf.Tensor:
    return tf.matmul(x, x, transpose_a=is_high, transpose_b=not is_high)


def _factor(gram: tf.Tensor, identity: tf.Tensor) -> tf.Tensor:
    """Returns the symmetric matrix that one iteration multiplies by."""
    a, b, c = _COEFFICIENTS
    return a * identity + tf.matmul(gram, b * identity + c * gram)


def _times(symmetric: tf.Tensor, x: tf.Tensor, is_high: bool) -> tf.Tensor:
    return tf.matmul(x, symmetric) if is_high else tf.matmul(symmetric, x)
