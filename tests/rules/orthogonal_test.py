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
