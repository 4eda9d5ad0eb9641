"""Chunk-by-chunk execution of a rule, for tasks with very many coordinates."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from l2l_tf.checks import check_at_least
from l2l_tf.rules.execution.trajectory import answer
from l2l_tf.rules.rule import NO_INFO, BoundRule, FlatLayout, StepInfo

# A 2 x 20 LSTM's step on this many coordinates fits into a processor's cache.
CHUNK_SIZE = 16384


class InChunks(BoundRule):
    """A coordinatewise rule that updates its coordinates chunk by chunk.

    Deltas equal those of the rule itself. Only memory use differs: besides the state, a step holds
    temporary tensors for one chunk only. The state is a tuple with the state of each chunk. All
    chunks have the same size; the last is padded with coordinates whose gradient is zero.

    `pullback` also runs chunk by chunk, since coordinates are independent of each other.

    Args:
        bind: returns the rule for a number of coordinates.
        layout: the positions of the tensors among the coordinates.
        chunk_size: the largest number of coordinates in a chunk.

    Attributes:
        chunk: the rule for the coordinates of one chunk.
        chunk_size: as given.

    Raises:
        ValueError: `chunk_size` is below 1.
    """

    is_replayed = True

    def __init__(
        self, bind: Callable[[int], BoundRule], layout: FlatLayout, chunk_size: int = CHUNK_SIZE
    ):
        check_at_least("chunk_size", chunk_size, 1, "Give a number of coordinates.")
        self.layout = layout
        self.chunk_size = chunk_size
        self.num_chunks = max(1, math.ceil(layout.num_coordinates / chunk_size))
        self._size = math.ceil(layout.num_coordinates / self.num_chunks)
        self.chunk = bind(self._size)

    @property
    def trainable_variables(self) -> list[Any]:
        return self.chunk.trainable_variables

    def initial_state(self) -> tuple[Any, ...]:
        return tuple(self.chunk.initial_state() for _ in range(self.num_chunks))

    def __call__(
        self, gradient: tf.Tensor, state: tuple[Any, ...], info: StepInfo = NO_INFO
    ) -> tuple[tf.Tensor, tuple[Any, ...]]:
        num_chunks, size = self.num_chunks, self._size
        filled = tf.pad(gradient, [[0, num_chunks * size - gradient.shape[0]]])
        chunks = tf.TensorArray(gradient.dtype, num_chunks)
        chunks = chunks.unstack(tf.reshape(filled, [num_chunks, size]))

        def update(index, deltas, states):
            delta, state = self.chunk(chunks.read(index), _read_nest(states, index))
            return index + 1, deltas.write(index, delta), _write_nest(states, index, state)

        _, deltas, states = tf.while_loop(
            lambda index, *_: index < num_chunks,
            update,
            (0, tf.TensorArray(gradient.dtype, num_chunks), _nest_of_arrays(state)),
            parallel_iterations=1,
        )
        delta = tf.reshape(deltas.stack(), [-1])[: gradient.shape[0]]
        return delta, tuple(_read_nest(states, index) for index in range(num_chunks))

    def pullback(
        self,
        state: tuple[Any, ...],
        first_gradient: tf.Tensor,
        gradients: tf.Tensor,
        step_weights: tf.Tensor,
        backpropagation_steps: int | None = None,
    ) -> list[tf.Tensor]:
        weights = [weight.value for weight in self.trainable_variables]
        num_coordinates, size = self.num_coordinates, self._size
        states = _nest_of_arrays(state)

        def answer_chunk(chunk, inputs):
            return answer(self.chunk, _read_nest(states, chunk), inputs, backpropagation_steps)

        def add_chunk(chunk, sums):
            # Gathered by index instead of sliced, so that XLA knows the size of every chunk.
            positions = chunk * size + tf.range(size)
            # Coordinates that pad the last chunk have zero gradients, so they add nothing.
            exists = tf.cast(positions < num_coordinates, gradients.dtype)
            positions = tf.minimum(positions, num_coordinates - 1)
            after = exists * tf.gather(gradients, positions, axis=1)
            before = exists * tf.gather(first_gradient, positions)
            inputs = tf.concat([before[tf.newaxis], after[:-1]], axis=0)
            cotangents = tf.cumsum(step_weights[:, tf.newaxis] * after, axis=0, reverse=True)
            with tf.GradientTape() as tape:
                deltas = answer_chunk(chunk, inputs)
            products = tape.gradient(deltas, weights, cotangents, tf.UnconnectedGradients.ZERO)
            sums = [total + product for total, product in zip(sums, products, strict=True)]
            return chunk + 1, sums

        zeros = [tf.zeros_like(weight) for weight in weights]
        _, sums = tf.while_loop(
            lambda chunk, _: chunk < self.num_chunks, add_chunk, (0, zeros), parallel_iterations=1
        )
        return sums

    def whole_state(self, state: tuple[Any, ...]) -> Any:
        whole = [self.chunk.whole_state(one) for one in state]
        return tf.nest.map_structure(lambda *leaves: self._joined(leaves), *whole)

    def cut_state(self, state: Any) -> tuple[Any, ...]:
        # Coordinates that pad the last chunk have no effect, but the rule must have finite
        # derivatives at their state. The last coordinate's state ensures that.
        positions = tf.range(self.num_chunks * self._size)
        positions = tf.minimum(positions, self.num_coordinates - 1)

        def pieces(leaf: tf.Tensor) -> list[tf.Tensor]:
            if not leaf.shape.rank:
                return [leaf] * self.num_chunks
            return tf.split(tf.gather(leaf, positions), self.num_chunks)

        leaves = [pieces(leaf) for leaf in tf.nest.flatten(state)]
        return tuple(
            self.chunk.cut_state(tf.nest.pack_sequence_as(state, [leaf[index] for leaf in leaves]))
            for index in range(self.num_chunks)
        )

    def _joined(self, leaves: Sequence[tf.Tensor]) -> tf.Tensor:
        # Scalars, such as counts of steps, are the same for all chunks.
        if not leaves[0].shape.rank:
            return leaves[0]
        return tf.concat(leaves, axis=0)[: self.num_coordinates]


def _nest_of_arrays(nests: Sequence[Any]) -> Any:
    """Turns nests of one structure into one nest of arrays, without copying tensors."""

    def array_of(*tensors: tf.Tensor) -> tf.TensorArray:
        array = tf.TensorArray(
            tensors[0].dtype, len(tensors), clear_after_read=False, element_shape=tensors[0].shape
        )
        for index, tensor in enumerate(tensors):
            array = array.write(index, tensor)
        return array

    return tf.nest.map_structure(array_of, *nests)


def _read_nest(arrays: Any, index: int | tf.Tensor) -> Any:
    """Reads the nest at an index from a nest of arrays."""
    return tf.nest.map_structure(lambda array: array.read(index), arrays)


def _write_nest(arrays: Any, index: tf.Tensor, nest: Any) -> Any:
    """Returns a nest of arrays with the nest at an index replaced."""
    return tf.nest.map_structure(lambda array, leaf: array.write(index, leaf), arrays, nest)
