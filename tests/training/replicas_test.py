"""The replicas of the default strategy, and of two devices of one process.

Agreement between several processes is tested in experiments/multi_worker_test.py.
"""

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.training.replicas import Replicas

COUNTS = {"default": 1, "two_devices": 2}


@pytest.fixture(params=COUNTS)
def strategy(request) -> tf.distribute.Strategy:
    if request.param == "default":
        return tf.distribute.get_strategy()
    return request.getfixturevalue(request.param)


@pytest.fixture
def replicas(strategy) -> Replicas:
    return Replicas(strategy)


def _index() -> tf.Tensor:
    """Returns which replica it is run on, from 0."""
    return tf.distribute.get_replica_context().replica_id_in_sync_group


def _rows(strategy: tf.distribute.Strategy, value) -> list[np.ndarray]:
    """Returns a value on each replica."""
    return [row.numpy() for row in strategy.experimental_local_results(value)]


def test_there_are_as_many_as_devices_and_the_only_process_is_the_chief(request, replicas):
    assert replicas.count == COUNTS[request.node.callspec.params["strategy"]]
    assert replicas.is_chief is True


def test_each_takes_its_part_of_the_first_axis_and_knows_its_shape(strategy, replicas):
    shapes = []

    def own(items):
        part = replicas.share(items)
        shapes.append(part.shape)
        return part

    items = np.arange(8, dtype=np.int32).reshape(4, 2)
    parts = _rows(
        strategy, tf.function(lambda items: replicas.run(own, items), autograph=False)(items)
    )
    assert len(parts) == replicas.count
    np.testing.assert_array_equal(np.concatenate(parts), items)
    assert [tuple(shape) for shape in shapes] == [(4 // replicas.count, 2)] * replicas.count


def test_the_mean_is_over_replicas_and_the_same_on_all(strategy, replicas):
    def mean_of_own():
        own = tf.cast(_index(), tf.float32) + 1
        return replicas.mean([own, tf.stack([own, 10 * own])])

    single, pair = tf.function(lambda: replicas.run(mean_of_own), autograph=False)()
    # The mean of 1 ... count.
    mean = (replicas.count + 1) / 2
    assert _rows(strategy, single) == [mean] * replicas.count
    np.testing.assert_array_equal(_rows(strategy, pair), [[mean, 10 * mean]] * replicas.count)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_mean_of_what_is_not_finite_on_one_replica_is_finite_on_none(strategy, replicas, value):
    def mean_with_one_broken():
        is_last = _index() == replicas.count - 1
        return replicas.mean(tf.where(is_last, value, 1.0))

    means = _rows(
        strategy, tf.function(lambda: replicas.run(mean_with_one_broken), autograph=False)()
    )
    assert len(means) == replicas.count
    assert not np.isfinite(means).any()


def test_a_sum_over_what_the_first_alone_keeps_is_the_tensor_itself(strategy, replicas):
    def kept(tensor):
        # Even where the others' own are not finite.
        return replicas.on_first([tf.where(_index() == 0, tensor, np.nan), 2 * tensor])

    tensor = np.float32([0.1, -3.0])
    results = tf.function(lambda tensor: replicas.run(kept, tensor), autograph=False)(tensor)
    for result, expected in zip(results, [tensor, 2 * tensor], strict=True):
        first, *others = _rows(strategy, result)
        np.testing.assert_array_equal(first, expected)
        assert [other.tolist() for other in others] == [[0, 0]] * (replicas.count - 1)


def test_one_is_the_value_of_a_replica(replicas):
    assert replicas.one(replicas.run(lambda: tf.constant(3))).numpy() == 3


def test_one_process_agrees_with_itself(replicas):
    assert replicas.any([True, False]) == [True, False]
    assert replicas.any([]) == []
    assert replicas.agree([3, 2**40]) is True


def _state(scale) -> tuple:
    """Returns a nest of tensors of several kinds that are as many times as large."""
    return (
        {"position": tf.fill([2, 3], 0.1) * tf.cast(scale, tf.float32)},
        (tf.cast(scale, tf.int32), (), [tf.cast(scale, tf.float64) / 3]),
    )


def test_what_was_collected_has_a_row_for_each_replica_in_the_tensors_own_kinds(replicas):
    values = tf.function(lambda: replicas.run(lambda: _state(_index() + 1)), autograph=False)()
    position, integer, third = replicas.collect(values)
    rows = [index + 1 for index in range(replicas.count)]
    assert [array.dtype for array in (position, integer, third)] == [
        np.float32,
        np.int32,
        np.float64,
    ]
    np.testing.assert_array_equal(
        position, [np.full([2, 3], np.float32(0.1) * np.float32(row)) for row in rows]
    )
    np.testing.assert_array_equal(integer, rows)
    np.testing.assert_array_equal(third, [row / 3 for row in rows])


def test_what_was_spread_is_on_its_replica_again_bit_for_bit(strategy, replicas):
    arrays = replicas.collect(
        tf.function(lambda: replicas.run(lambda: _state(_index() + 1)), autograph=False)()
    )
    spread = replicas.spread(arrays, _state(0))
    again = replicas.collect(spread)
    for ours, theirs in zip(again, arrays, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)

    def difference_to_own(values):
        tf.nest.assert_same_structure(values, _state(0))
        leaves = zip(tf.nest.flatten(values), tf.nest.flatten(_state(_index() + 1)), strict=True)
        return tf.add_n([tf.reduce_sum(tf.cast(abs(a - b), tf.float64)) for a, b in leaves])

    differences = tf.function(
        lambda values: replicas.run(difference_to_own, values), autograph=False
    )(spread)
    assert _rows(strategy, differences) == [0] * replicas.count
