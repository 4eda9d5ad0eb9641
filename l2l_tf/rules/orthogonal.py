"""Approximate orthogonalisation of matrices."""

import tensorflow as tf

# The coefficients of the quintic iteration, steepest at zero (K. Jordan 2024, "Muon").
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalized(matrices: tf.Tensor, num_iterations: int = 5) -> tf.Tensor:
    """Returns matrices with the same singular vectors, and singular values near 1.

    This is the Newton-Schulz iteration of Muon (`keras.optimizers.Muon`). It leaves singular values
    between about 0.7 and 1.2. Those far below the largest one stay smaller. A matrix of zeros stays
    zero.

    Args:
        matrices: float `[..., r, c]`.
        num_iterations: the number of iterations.
    """
    rows, columns = matrices.shape[-2:]
    x = tf.linalg.matrix_transpose(matrices) if rows > columns else matrices
    x /= tf.norm(x, axis=(-2, -1), keepdims=True) + 1e-7
    a, b, c = _COEFFICIENTS
    for _ in range(num_iterations):
        # On the smaller side, the products are cheapest.
        gram = tf.matmul(x, x, transpose_b=True)
        x = a * x + tf.matmul(b * gram + c * tf.matmul(gram, gram), x)
    return tf.linalg.matrix_transpose(x) if rows > columns else x
