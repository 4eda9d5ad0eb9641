import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.rules.sums import MIN_LARGE_SIZE, sum_of_all


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (130, 2, 70), (MIN_LARGE_SIZE,)])
def test_sums_are_over_all_axes_but_leading_ones(shape, jit_compile):
    values = np.random.default_rng(0).standard_normal((2, *shape)).astype("float32")
    sums = tf.function(lambda one: sum_of_all(one, 1), jit_compile=jit_compile)(values)
    axes = tuple(range(1, values.ndim))
    # The error of a sum of 2^14 numbers near 1 in float32, added in whatever order.
    np.testing.assert_allclose(sums, values.sum(axes, dtype=np.float64), atol=1e-2)


def test_a_vector_of_unknown_length_has_a_sum():
    total = tf.function(sum_of_all, input_signature=[tf.TensorSpec([None])])
    assert total(tf.ones([7])) == 7


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_sum_with_a_number_that_is_not_finite_is_not(value, jit_compile):
    values = np.ones((130, 140), np.float32)
    values[7, 9] = value
    total = tf.function(sum_of_all, jit_compile=jit_compile)(tf.constant(values))
    assert not np.isfinite(total)
