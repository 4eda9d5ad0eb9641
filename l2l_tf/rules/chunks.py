"""A rule applied to its coordinates chunk after chunk, for tasks with very many of them."""

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

# What a step of a 2 x 20 LSTM holds for so many coordinates fits into a processor's cache.
CHUNK_SIZE = 16384


class InChunks:
    """A coordinatewise rule that updates one chunk of coordinates after the other.

    Deltas are those of the rule itself. What changes is memory: beside the state, a step holds
    temporary tensors of one chunk only. The state is a tuple of the states of the chunks, which are
    all of the same size, the last one filled up with coordinates whose gradient is zero.

    Args:
        rule: a coordinatewise rule without settings of its own for each coordinate.
        chunk_size: the largest number of coordinates in a chunk.

    Raises:
        ValueError: the rule is not coordinatewise, or `chunk_size` is below 1.
    """

    is_coordinatewise = True

    def __init__(self, rule: Any, chunk_size: int = CHUNK_SIZE):
        if not rule.is_coordinatewise:
            raise ValueError(
                "rule must be coordinatewise to be applied in chunks. "
                f"Received: rule={rule!r}. Apply it to all coordinates at once."
            )
        if chunk_size < 1:
            raise ValueError(
                "chunk_size must be at least 1. "
                f"Received: chunk_size={chunk_size}. Give a number of coordinates."
            )
        self.rule = rule
        self.chunk_size = chunk_size

    @property
    def trainable_variables(self) -> list[Any]:
        """The weights of a learned rule."""
        return self.rule.trainable_variables

    def partition(self, num_coordinates: int) -> tuple[int, int]:
        """Returns K and C, the number of chunks and the size of each: K * C is at least N."""
        num_chunks = max(1, math.ceil(num_coordinates / self.chunk_size))
        return num_chunks, math.ceil(num_coordinates / num_chunks)

    def initial_state(self, num_coordinates: int) -> tuple[Any, ...]:
        num_chunks, size = self.partition(num_coordinates)
        return tuple(self.rule.initial_state(size) for _ in range(num_chunks))

    def __call__(
        self, gradient: tf.Tensor, state: tuple[Any, ...]
    ) -> tuple[tf.Tensor, tuple[Any, ...]]:
        num_chunks, size = self.partition(gradient.shape[0])
        filled = tf.pad(gradient, [[0, num_chunks * size - gradient.shape[0]]])
        chunks = tf.TensorArray(gradient.dtype, num_chunks)
        chunks = chunks.unstack(tf.reshape(filled, [num_chunks, size]))

        def update(index, deltas, states):
            delta, state = self.rule(chunks.read(index), read_nest(states, index))
            return index + 1, deltas.write(index, delta), write_nest(states, index, state)

        _, deltas, states = tf.while_loop(
            lambda index, *_: index < num_chunks,
            update,
            (0, tf.TensorArray(gradient.dtype, num_chunks), nest_of_arrays(state)),
            parallel_iterations=1,
        )
        delta = tf.reshape(deltas.stack(), [-1])[: gradient.shape[0]]
        return delta, tuple(read_nest(states, index) for index in range(num_chunks))


def nest_of_arrays(nests: Sequence[Any]) -> Any:
    """Returns nests of one structure as one nest of arrays, without copying their tensors."""

    def array_of(*tensors: tf.Tensor) -> tf.TensorArray:
        array = tf.TensorArray(
            tensors[0].dtype, len(tensors), clear_after_read=False, element_shape=tensors[0].shape
        )
        for index, tensor in enumerate(tensors):
            array = array.write(index, tensor)
        return array

    return tf.nest.map_structure(array_of, *nests)


def read_nest(arrays: Any, index: int | tf.Tensor) -> Any:
    """Returns the nest at an index of a nest of arrays."""
    return tf.nest.map_structure(lambda array: array.read(index), arrays)


def write_nest(arrays: Any, index: tf.Tensor, nest: Any) -> Any:
    """Returns a nest of arrays in which the nest at an index is another."""
    return tf.nest.map_structure(lambda array, leaf: array.write(index, leaf), arrays, nest)
