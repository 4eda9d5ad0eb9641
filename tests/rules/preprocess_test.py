import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.rules.preprocess import PREPROCESSORS, identity, log_and_sign
from tests.reference import lstm as reference

# Far above, around and far below the threshold e^-p, for p = 5 and p = 10, and zero.
MAGNITUDES = [
    *(1e30, 1e3, 1.0, 0.5, 0.0),
    *(np.exp(-p) * factor for p in (5, 10) for factor in (2, 1.001, 0.999, 0.5, 1e-3, 1e-20)),
]


@pytest.mark.parametrize("p", [5.0, 10.0])
@pytest.mark.parametrize(
    # Double precision differs by the rounding of exp(p) only, float32 by a few units in 1e-7.
    ("dtype", "tolerance"),
    [("float64", 1e-14), ("float32", 2e-6)],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_log_and_sign_is_the_formula_of_appendix_a(p, dtype, tolerance, sign):
    gradient = sign * np.array(MAGNITUDES, dtype)
    result = log_and_sign(tf.constant(gradient), p)
    assert result.dtype == dtype
    assert result.shape == (len(MAGNITUDES), 2)
    expected = [reference.log_and_sign(float(one), p) for one in gradient]
    np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance)


def test_log_and_sign_has_the_papers_values_at_landmarks():
    result = log_and_sign(tf.constant([1.0, -np.e, np.exp(-5.0), -0.5 * np.exp(-10.0), 0.0]), 10.0)
    expected = [[0, 1], [0.1, -1], [-0.5, 1], [-1, -0.5], [-1, 0]]
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-7)


def test_log_and_sign_does_not_jump_where_small_gradients_begin():
    threshold = np.exp(-10.0)
    below, above = log_and_sign(tf.constant([threshold * (1 - 1e-9), threshold * (1 + 1e-9)]), 10.0)
    np.testing.assert_allclose(below, above, atol=1e-8)


@pytest.mark.parametrize("p", [5.0, 10.0])
def test_log_and_sign_has_the_derivatives_of_the_formula_and_finite_ones_at_zero(p):
    gradient = tf.constant([0.0, 0.1, -0.1, 0.5 * np.exp(-p), 2 * np.exp(-p)], tf.float64)
    is_large = np.abs(gradient) >= np.exp(-p)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(gradient)
        logarithm, sign = tf.unstack(log_and_sign(gradient, p), axis=1)
    with np.errstate(divide="ignore"):
        of_logarithm = np.where(is_large, 1 / (p * gradient.numpy()), 0.0)
    np.testing.assert_allclose(tape.gradient(logarithm, gradient), of_logarithm, rtol=1e-12)
    of_sign = np.where(is_large, 0.0, np.exp(p))
    np.testing.assert_allclose(tape.gradient(sign, gradient), of_sign, rtol=1e-12)


def test_identity_is_the_gradient_as_a_column():
    gradient = tf.constant([1e30, -2.0, 0.0])
    np.testing.assert_array_equal(identity(gradient, 10.0), gradient[:, tf.newaxis])


@pytest.mark.parametrize("name", PREPROCESSORS)
@pytest.mark.parametrize("num_coordinates", [0, 1, 7])
def test_a_preprocessor_gives_as_many_inputs_as_it_says(name, num_coordinates):
    preprocess, num_inputs = PREPROCESSORS[name]
    result = preprocess(tf.ones([num_coordinates]), 10.0)
    assert result.shape == (num_coordinates, num_inputs)
