import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.rules.memories import HistoryMemory, MatrixMemory, Write, power_law

NUM_COORDINATES = 5
UNIT = tf.constant([4.0, 0.25], tf.float64)
INITIAL_SCALE = tf.constant(0.5, tf.float64)


def _write(seed: int, num_heads: int, is_written=(True, True)) -> Write:
    draw = np.random.default_rng(seed)
    left, right = draw.standard_normal((2, 2, num_heads, NUM_COORDINATES))
    return Write(
        tf.constant(left),
        tf.constant(right),
        tf.constant(draw.standard_normal((2, num_heads))),
        UNIT,
        tf.constant(is_written),
    )


def _vectors() -> np.ndarray:
    return np.random.default_rng(9).standard_normal((2, NUM_COORDINATES))


def test_a_matrix_holds_the_sum_of_outer_products_over_the_number_of_coordinates():
    memory = MatrixMemory.empty(2, NUM_COORDINATES, "float64")
    expected = np.stack([0.5 * np.eye(NUM_COORDINATES)] * 2)
    for seed, is_written in [(0, (True, True)), (1, (True, False))]:
        write = _write(seed, 3, is_written)
        memory = memory.written(write)
        for entry in range(2):
            if is_written[entry]:
                for head in range(3):
                    product = np.outer(write.left[entry, head], write.right[entry, head])
                    strength = write.strengths[entry, head] * UNIT[entry]
                    expected[entry] += strength * product / NUM_COORDINATES
    vectors = _vectors()
    found = memory.read(tf.constant(vectors), INITIAL_SCALE)
    np.testing.assert_allclose(found, np.einsum("bij,bj->bi", expected, vectors), rtol=1e-12)
    np.testing.assert_array_equal(memory.num_writes, [2, 1])


def test_a_matrix_is_scaled_only_before_anything_is_written():
    vectors, known = tf.constant(_vectors()), tf.constant([True, False])
    memory = MatrixMemory.empty(2, NUM_COORDINATES, "float64")
    memory = memory.scaled(tf.constant([3.0, 3.0], tf.float64), known)
    np.testing.assert_allclose(memory.read(vectors, INITIAL_SCALE), vectors * [[3.0], [0.5]])
    memory = memory.written(_write(0, 1, (True, False)))
    memory = memory.scaled(tf.constant([7.0, 7.0], tf.float64), tf.constant([True, True]))
    np.testing.assert_array_equal(memory.scale, [3, 7])


def test_a_history_keeps_the_last_writes_of_each_entry():
    memory = HistoryMemory.empty(2, NUM_COORDINATES, "float64", 2)
    writes = [_write(seed, 1, (True, seed != 1)) for seed in range(3)]
    for write in writes:
        memory = memory.written(write)
    for entry, kept in enumerate([(1, 2), (0, 2)]):
        for row, seed in enumerate(kept):
            # The root of the unit is a power of two.
            root = UNIT[entry].numpy() ** 0.5
            left, right = writes[seed].left[entry, 0], writes[seed].right[entry, 0]
            np.testing.assert_array_equal(memory.left[entry, row], root * left)
            np.testing.assert_array_equal(memory.right[entry, row], right / root)
            np.testing.assert_array_equal(
                memory.strengths[entry, row], writes[seed].strengths[entry, 0]
            )


def test_what_is_read_of_a_history_is_the_product_of_its_factors():
    memory = HistoryMemory.empty(2, NUM_COORDINATES, "float64", 3)
    writes = [_write(seed, 1) for seed in range(2)]
    for write in writes:
        memory = memory.written(write)
    memory = memory.scaled(tf.constant([2.0, 2.0], tf.float64), tf.constant([True, False]))
    identity = np.eye(NUM_COORDINATES)
    vectors = _vectors()
    for entry, scale in enumerate([2.0, 0.5]):
        expected = scale * identity
        for write in writes:
            left, right = write.left[entry, 0].numpy(), write.right[entry, 0].numpy()
            # Means, not sums, are the inner products.
            strength = float(write.strengths[entry, 0]) / NUM_COORDINATES
            factor = identity - strength * np.outer(left, right)
            outer = float(UNIT[entry]) * strength * np.outer(left, left)
            expected = factor @ expected @ factor.T + outer
        found = memory.read(tf.constant(vectors), INITIAL_SCALE)[entry]
        np.testing.assert_allclose(found, expected @ vectors[entry], rtol=1e-10)


def test_a_power_law_is_a_product_of_powers_where_all_averages_are_positive():
    averages = tf.constant([[2.0, 3.0], [2.0, 0.0], [-1.0, 3.0]])
    products, are_positive = power_law(averages, tf.constant([[-2.0, 1.0], [1.0, 0.0]]))
    np.testing.assert_allclose(products, [[3 / 4, 2], [0, 0], [0, 0]], rtol=1e-6)
    np.testing.assert_array_equal(are_positive, [True, False, False])


def test_a_power_law_and_its_derivatives_are_finite_for_tiny_averages():
    averages, exponents = tf.constant([[2e-6], [5e-7], [0.0]]), tf.constant([[-2.0]])
    with tf.GradientTape() as tape:
        tape.watch([averages, exponents])
        products, are_positive = power_law(averages, exponents)
    assert np.isfinite(products).all()
    np.testing.assert_array_equal(are_positive, [True, False, False])
    assert all(np.isfinite(one).all() for one in tape.gradient(products, [averages, exponents]))


def test_a_write_of_more_heads_than_a_history_has_room_for_leaves_the_last():
    memory = HistoryMemory.empty(2, NUM_COORDINATES, "float64", 2).written(_write(0, 3))
    np.testing.assert_array_equal(memory.strengths, _write(0, 3).strengths[:, 1:])
    assert memory.left.shape == (2, 2, NUM_COORDINATES)
    assert pytest.approx(0) != float(memory.strengths[0, 0])
