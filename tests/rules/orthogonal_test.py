import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.rules.orthogonal import orthogonalized


@pytest.mark.parametrize("shape", [(4, 4), (3, 8), (8, 3), (2, 5, 3), (1, 6)])
def test_singular_vectors_stay_and_singular_values_come_near_one(shape):
    matrices = np.random.default_rng(0).standard_normal(shape).astype("float32")
    left, _, right = np.linalg.svd(matrices, full_matrices=False)
    made = orthogonalized(tf.constant(matrices)).numpy()
    # The matrix of its values in the old singular vectors.
    values = np.swapaxes(left, -1, -2) @ made @ np.swapaxes(right, -1, -2)
    diagonal = np.diagonal(values, axis1=-2, axis2=-1)
    assert (diagonal > 0.6).all()
    assert (diagonal < 1.25).all()
    rest = values - diagonal[..., np.newaxis] * np.eye(diagonal.shape[-1])
    np.testing.assert_allclose(rest, 0, atol=1e-4)


def test_the_scale_of_a_matrix_does_not_matter():
    matrix = np.random.default_rng(0).standard_normal((3, 5)).astype("float32")
    expected = orthogonalized(tf.constant(matrix))
    for scale in (1e-3, 1e6):
        np.testing.assert_allclose(orthogonalized(tf.constant(scale * matrix)), expected, atol=1e-3)


def test_zeros_stay_zeros():
    np.testing.assert_array_equal(orthogonalized(tf.zeros([3, 2])), np.zeros([3, 2]))


@pytest.mark.parametrize("smallest", [1.0, 1e-2, 1e-6])
def test_oblong_matrices_are_iterated_on_as_others_are(smallest):
    draw = np.random.default_rng(0)
    left, _, right = np.linalg.svd(draw.standard_normal((2, 16, 40)), full_matrices=False)
    wide = (left * np.geomspace(1, smallest, 16)) @ right
    expected = wide / np.linalg.norm(wide, axis=(-2, -1), keepdims=True)
    for _ in range(5):
        gram = expected @ np.swapaxes(expected, -1, -2)
        expected = 3.4445 * expected + (-4.7750 * gram + 2.0315 * gram @ gram) @ expected
    # Its values of 1e-6 are below what float32 resolves in their squares.
    limit = 4e-4 * np.linalg.norm(expected)
    made = orthogonalized(tf.constant(wide, tf.float32)).numpy()
    assert np.linalg.norm(made - expected) < limit
    high = orthogonalized(tf.constant(np.swapaxes(wide, -1, -2), tf.float32)).numpy()
    assert np.linalg.norm(np.swapaxes(high, -1, -2) - expected) < limit
