"""What a learned rule sees of a gradient."""

import tensorflow as tf

# Beyond this p, e^p comes too close to the largest float32 (about e^88.7).
MAX_P = 80.0


def log_and_sign(gradient: tf.Tensor, p: float) -> tf.Tensor:
    """Returns the logarithm and the sign of each gradient, scaled to about [-1, 1].

    A gradient g becomes (log|g| / p, sign g) where |g| >= e^-p, else (-1, e^p g), so that gradients
    of very different sizes are told apart without small ones being blown up.
    Source: Andrychowicz et al. 2016, appendix A (arXiv 1606.04474).

    Args:
        gradient: float `[N]`.
        p: from which size on a gradient e^-p counts as small, in (0, `MAX_P`]; the paper uses 10.

    Returns:
        float `[N, 2]`.
    """
    p = tf.cast(p, gradient.dtype)
    magnitude = tf.abs(gradient)
    is_large = magnitude >= tf.exp(-p)
    # Zeros are kept out of the logarithm: its gradient would be 0 * inf = NaN.
    safe_magnitude = tf.where(is_large, magnitude, tf.ones_like(magnitude))
    logarithm = tf.where(is_large, tf.math.log(safe_magnitude) / p, -tf.ones_like(magnitude))
    sign = tf.where(is_large, tf.sign(gradient), tf.exp(p) * gradient)
    return tf.stack([logarithm, sign], axis=-1)


def identity(gradient: tf.Tensor, p: float) -> tf.Tensor:
    """Returns the gradient as it is, `[N, 1]`; `p` plays no part."""
    del p
    return gradient[:, tf.newaxis]


# By the name that a rule's configuration gives: the function and the number of its outputs.
PREPROCESSORS = {"none": (identity, 1), "log_and_sign": (log_and_sign, 2)}
