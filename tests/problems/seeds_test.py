import itertools

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.problems.seeds import SPLITS, fold_in, integers, normal, task_seeds, uniform


def _rows(seeds: tf.Tensor) -> set[tuple[int, int]]:
    return {tuple(row) for row in seeds.numpy().tolist()}


def test_seeds_are_pairs_of_int32_and_differ_from_task_to_task():
    seeds = task_seeds(0, "train", 0, 1000)
    assert seeds.shape == (1000, 2)
    assert seeds.dtype == tf.int32
    assert len(_rows(seeds)) == 1000


def test_a_tasks_seed_does_not_depend_on_how_many_are_drawn_beside_it():
    np.testing.assert_array_equal(task_seeds(3, "test", 0, 8)[:5], task_seeds(3, "test", 0, 5))


def test_first_task_says_where_in_the_sequence_of_tasks_to_begin():
    np.testing.assert_array_equal(task_seeds(3, "test", 5, 3), task_seeds(3, "test", 0, 8)[5:])


def test_the_same_arguments_give_the_same_seeds():
    np.testing.assert_array_equal(task_seeds(3, "tuning", 2, 4), task_seeds(3, "tuning", 2, 4))


def test_no_task_is_shared_by_two_splits_or_two_runs():
    drawn = [_rows(task_seeds(seed, split, 0, 50)) for seed in range(5) for split in SPLITS]
    for one, other in itertools.combinations(drawn, 2):
        assert not one & other


def test_no_two_tasks_draw_from_the_same_generator():
    # What a task draws comes from fold_in(seed, tag), whose first word depends on the seed alone.
    seeds = [task_seeds(seed, split, 0, 25) for seed in range(2) for split in SPLITS]
    words = {int(fold_in(seed, 0)[0]) for seed in tf.concat(seeds, axis=0)}
    assert len(words) == 200


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match=r"^split must"):
        task_seeds(0, "dev", 0, 1)


def test_folding_in_gives_a_seed_of_its_own_for_each_tag_and_each_seed():
    seeds = task_seeds(0, "train", 0, 10)
    folded = [fold_in(seed, tag) for seed in seeds for tag in range(10)]
    assert all(seed.shape == (2,) and seed.dtype == tf.int32 for seed in folded)
    assert len(_rows(tf.stack(folded))) == 100
    np.testing.assert_array_equal(fold_in(seeds[3], 7), folded[37])


def test_folding_in_is_the_same_eagerly_compiled_and_by_xla():
    seed = tf.constant([5, 9])
    eager = fold_in(seed, 4)
    np.testing.assert_array_equal(tf.function(fold_in)(seed, tf.constant(4)), eager)
    np.testing.assert_array_equal(
        tf.function(fold_in, jit_compile=True)(seed, tf.constant(4)), eager
    )


@pytest.mark.parametrize("dtype", [tf.int32, tf.int64])
def test_the_dtype_of_a_tag_does_not_change_the_seed(dtype):
    seed = tf.constant([5, 9])
    np.testing.assert_array_equal(fold_in(seed, tf.constant(4, dtype)), fold_in(seed, 4))


@pytest.mark.parametrize("seed", [[5, 9], [0, 0], [-1, -(2**31)], [2**31 - 1, -7]])
def test_draws_are_those_of_tensorflows_philox(seed):
    seed = tf.constant(seed)
    for tag in (0, 4, -1):
        expected = tf.random.fold_in(seed, tag, alg="philox")
        np.testing.assert_array_equal(fold_in(seed, tag), expected)
    for shape in ([], [5], [3, 4]):
        expected = tf.random.stateless_uniform(shape, seed, 0, 1000, tf.int32, alg="philox")
        np.testing.assert_array_equal(integers(shape, 1000, seed), expected)


@pytest.mark.parametrize("draw", [uniform, normal])
def test_draws_are_the_same_eagerly_and_by_xla(draw):
    seed, shapes = tf.constant([5, 9]), ([], [5], [1000], [3, 4])
    compiled = tf.function(
        lambda seed: [draw(shape, seed) for shape in shapes], autograph=False, jit_compile=True
    )
    # Uniform numbers are exact; logarithm and cosine round apart.
    tolerance = 0 if draw is uniform else 1e-5
    for shape, numbers in zip(shapes, compiled(seed), strict=True):
        assert numbers.shape == shape
        np.testing.assert_allclose(numbers, draw(shape, seed), rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("draw", "moments"),
    # Powers, their means and variances.
    [
        (uniform, [(1, 1 / 2, 1 / 12), (2, 1 / 3, 4 / 45), (3, 1 / 4, 9 / 112)]),
        (normal, [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]),
    ],
)
def test_draws_have_the_moments_of_their_distribution(draw, moments):
    numbers = draw([100_000], tf.constant([5, 9])).numpy().astype(np.float64)
    for power, mean, variance in moments:
        # Five standard errors.
        np.testing.assert_allclose((numbers**power).mean(), mean, atol=5 * (variance / 1e5) ** 0.5)


def test_integers_are_the_same_eagerly_and_by_xla_and_below_their_bound():
    seed, bounds = tf.constant([5, 9]), (1, 7, 60_000)
    compiled = tf.function(
        lambda seed: [integers([1000], bound, seed) for bound in bounds],
        autograph=False,
        jit_compile=True,
    )
    for bound, by_xla in zip(bounds, compiled(seed), strict=True):
        numbers = integers([1000], bound, seed)
        np.testing.assert_array_equal(by_xla, numbers)
        assert numbers.dtype == tf.int32
        assert min(numbers) >= 0
        assert max(numbers) < bound


def test_integers_are_all_drawn_equally_often():
    counts = np.bincount(integers([70_000], 7, tf.constant([5, 9])), minlength=7)
    # Five standard deviations of a binomial count.
    np.testing.assert_allclose(counts, 10_000, atol=5 * (70_000 * 6 / 49) ** 0.5)


@pytest.mark.parametrize("seed", [2**63, -(2**63) - 1])
def test_a_seed_beyond_64_bits_is_refused(seed):
    with pytest.raises(ValueError) as raised:
        task_seeds(seed, "test", 0, 2)
    assert str(raised.value) == (
        "seed must be a signed integer of 64 bits, from -2^63 to 2^63 - 1. "
        f"Received: seed={seed}. Give, say, 0."
    )


@pytest.mark.parametrize("seed", [True, 1.5, "1", None])
def test_a_seed_that_is_no_integer_is_refused(seed):
    with pytest.raises(TypeError) as raised:
        task_seeds(seed, "test", 0, 2)
    assert str(raised.value) == f"seed must be an integer. Received: seed={seed!r}. Give, say, 0."


def test_the_seeds_at_both_ends_give_different_tasks():
    ends = (-(2**63), -1, 0, 2**63 - 1)
    keys = {int(task_seeds(seed, "test", 0, 1)[0, 0]) for seed in ends}
    assert len(keys) == 4
