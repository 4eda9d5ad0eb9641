"""Values of batch entries, as values of all their coordinates."""

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from l2l_tf.rules.rule import FlatLayout


def of_coordinates(value: tf.Tensor, layout: FlatLayout, num_batch_axes: int) -> tf.Tensor:
    """Returns a value `[...]` for each batch entry as one for each coordinate, `[N]`.

    Args:
        value: a tensor of the batch's shape.
        layout: the positions of the tensors, with their batch axes, among the coordinates.
        num_batch_axes: the number of these axes.
    """
    return layout.flatten(
        [tf.broadcast_to(_with_axes(value, len(shape)), shape) for shape in layout.shapes]
    )


def started_anew(
    state: Any, initial: Any, entries: tf.Tensor, coordinates: tf.Tensor, batch_shape: Sequence[int]
) -> Any:
    """Returns the state of a bound rule with that of some batch entries replaced.

    A tensor of the state that belongs to all entries, such as a count of steps, is replaced if all
    of them are.

    Args:
        state: a nest of tensors.
        initial: the state to replace it with.
        entries: bool `[...]`, the batch entries that start anew.
        coordinates: bool `[N]`, the coordinates of these.
        batch_shape: the shape of the batch.
    """
    num_axes, everything = len(batch_shape), tf.reduce_all(entries)
    is_single = math.prod(batch_shape) == 1

    def of_leaf(leaf: tf.Tensor, first: tf.Tensor) -> tf.Tensor:
        mask = everything
        if not is_single and tuple(leaf.shape[:num_axes]) == tuple(batch_shape):
            mask = _with_axes(entries, leaf.shape.rank)
        elif not is_single and leaf.shape.rank and leaf.shape[0] == coordinates.shape[0]:
            mask = _with_axes(coordinates, leaf.shape.rank)
        return tf.where(mask, first, leaf)

    return tf.nest.map_structure(of_leaf, state, initial)


def is_lost(state: Any, layout: FlatLayout, batch_shape: Sequence[int]) -> tf.Tensor:
    """Returns whether a number of a batch entry's state is not finite, bool `[...]`.

    A tensor of the state that belongs to all entries counts for each of them.

    Args:
        state: the state of a bound rule, a nest of tensors.
        layout: the positions of the tensors, with their batch axes, among the coordinates.
        batch_shape: the shape of the batch.
    """
    num_axes = len(batch_shape)
    lost = tf.zeros(batch_shape, tf.bool)
    for leaf in tf.nest.flatten(state):
        if not leaf.dtype.is_floating:
            continue
        is_bad = ~tf.math.is_finite(leaf)
        if leaf.shape.rank >= num_axes and tuple(leaf.shape[:num_axes]) == tuple(batch_shape):
            lost |= tf.reduce_any(is_bad, list(range(num_axes, leaf.shape.rank)))
        elif leaf.shape.rank and leaf.shape[0] == layout.num_coordinates:
            of_coordinates = tf.reduce_any(tf.reshape(is_bad, [leaf.shape[0], -1]), 1)
            for one in layout.unflatten(of_coordinates):
                lost |= tf.reduce_any(one, list(range(num_axes, one.shape.rank)))
        else:
            lost |= tf.reduce_any(is_bad)
    return lost


def _with_axes(value: tf.Tensor, rank: int) -> tf.Tensor:
    """Returns a tensor with axes of length 1 appended up to a rank."""
    return tf.reshape(value, [*value.shape, *[1] * (rank - value.shape.rank)])
