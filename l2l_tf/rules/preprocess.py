"""Preprocessing of gradients for a learned rule."""

import numbers

import tensorflow as tf

# Above this p, e^p comes too close to the largest float32 (about e^88.7).
MAX_P = 80.0


def check_p(p: float) -> None:
    """Raises ValueError if p is no number that `log_and_sign` takes."""
    if not isinstance(p, numbers.Real) or not 0 < p <= MAX_P:
        raise ValueError(
            f"p must be positive and at most {MAX_P:g}, or e^p overflows float32. "
            f"Received: p={p}. The paper uses 10."
        )


def log_and_sign(gradient: tf.Tensor, p: float) -> tf.Tensor:
    """Returns the logarithm and the sign of each gradient, scaled to about [-1, 1].

    A gradient g becomes (log|g| / p, sign g) if |g| >= e^-p, else (-1, e^p g). This distinguishes
    gradients of very different sizes without blowing up small ones.
    Source: Andrychowicz et al. 2016, appendix A (arXiv 1606.04474).

    Args:
        gradient: float `[...]`.
        p: sets the threshold e^-p below which gradients count as small, in (0, `MAX_P`]; 10 in the
            paper.

    Returns:
        float `[..., 2]`.
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
    """Returns the gradient unchanged, `[..., 1]`. `p` is ignored."""
    del p
    return gradient[..., tf.newaxis]


# By the name used in a rule's configuration: the function and the number of its outputs.
PREPROCESSORS = {"none": (identity, 1), "log_and_sign": (log_and_sign, 2)}
