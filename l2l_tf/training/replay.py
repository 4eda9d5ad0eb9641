"""The backward pass of meta-training over stored gradients, in chunks of coordinates."""

import math
from typing import Any

import keras
import tensorflow as tf

# Up to this much memory, the tape of an unroll is kept; it saves running the rule twice.
_MAX_TAPE_BYTES = 2**30
# Numbers that a tape keeps for each coordinate and step, as a multiple of those in a rule's state:
# 6 for the LSTM (inputs, gates, their products, cells and outputs of each layer).
_KEPT_PER_STATE = 6
# Coordinates of a chunk, where there are chunks.
_CHUNK_SIZE = 16384


def choose_chunk_size(rule: keras.layers.Layer, num_coordinates: int, num_steps: int) -> int | None:
    """Returns how many coordinates a backward pass should take at once; None for a kept tape.

    A tape keeps about 24 S T N bytes in float32, where S is the size of the rule's state for one
    coordinate: 0.8 GB for a 2 x 20 LSTM, 20 steps and 20,000 coordinates. Where that is at most
    1 GiB, the unroll is recorded once and differentiated. Beyond, the unroll stores its gradients
    alone, 4 T N bytes, and the backward pass runs the rule again, chunk after chunk: a third more
    arithmetic, and memory of 24 S T bytes for each coordinate of a chunk.
    """
    state = tf.nest.flatten(rule.initial_state(1))
    kept = _KEPT_PER_STATE * sum(math.prod(leaf.shape) * leaf.dtype.size for leaf in state)
    if not rule.is_coordinatewise or kept * num_steps * num_coordinates <= _MAX_TAPE_BYTES:
        return None
    return _CHUNK_SIZE


def replay_gradient(
    rule: keras.layers.Layer,
    state: Any,
    gradients: tf.Tensor,
    cotangents: tf.Tensor,
    chunk_size: int,
) -> list[tf.Tensor]:
    """Returns the gradient of sum over t of <u_t, cotangents_t> with respect to a rule's weights.

    The u_t are the deltas with which the rule answers known gradients. As its coordinates are
    independent of each other, they are taken chunk by chunk.

    Args:
        rule: a coordinatewise rule.
        state: its state before the first gradient.
        gradients: float `[T, N]`.
        cotangents: float `[T, N]`.
        chunk_size: how many coordinates are taken at once.

    Returns:
        One tensor for each of the rule's trainable weights.

    Raises:
        ValueError: the rule is not coordinatewise, or `chunk_size` is below 1.
    """
    if not rule.is_coordinatewise:
        raise ValueError(
            "A backward pass in chunks must be of a coordinatewise rule. "
            f"Received: rule={rule.name!r}. Leave chunk_size out."
        )
    if chunk_size < 1:
        raise ValueError(
            "chunk_size must be at least 1. "
            f"Received: chunk_size={chunk_size}. Leave it out to have it chosen."
        )
    weights = [weight.value for weight in rule.trainable_variables]
    num_steps, num_coordinates = gradients.shape
    num_chunks = math.ceil(num_coordinates / chunk_size)
    # Coordinates that fill the last chunk have cotangents of zero: they add nothing.
    missing = num_chunks * chunk_size - num_coordinates
    gradients = tf.pad(gradients, [[0, 0], [0, missing]])
    cotangents = tf.pad(cotangents, [[0, 0], [0, missing]])
    state = tf.nest.map_structure(lambda leaf: _pad_first_axis(leaf, missing), state)

    def add_chunk(chunk, sums):
        first = chunk * chunk_size
        inputs, chunk_cotangents = (
            tf.ensure_shape(sequence[:, first : first + chunk_size], [num_steps, chunk_size])
            for sequence in (gradients, cotangents)
        )
        chunk_state = tf.nest.map_structure(
            lambda leaf: _part_of_first_axis(leaf, first, chunk_size), state
        )
        with tf.GradientTape() as tape:
            deltas = answer(rule, chunk_state, inputs)
        products = tape.gradient(deltas, weights, chunk_cotangents, tf.UnconnectedGradients.ZERO)
        return chunk + 1, [total + product for total, product in zip(sums, products, strict=True)]

    zeros = [tf.zeros_like(weight) for weight in weights]
    _, sums = tf.while_loop(
        lambda chunk, _: chunk < num_chunks, add_chunk, (0, zeros), parallel_iterations=1
    )
    return sums


def answer(rule: keras.layers.Layer, state: Any, gradients: tf.Tensor) -> tf.Tensor:
    """Returns the deltas `[T, N]` with which a rule answers a known sequence of gradients."""
    num_steps = gradients.shape[0]
    inputs = tf.TensorArray(gradients.dtype, num_steps).unstack(gradients)

    def step(index, state, deltas):
        delta, state = rule(inputs.read(index), state)
        return index + 1, state, deltas.write(index, delta)

    _, _, deltas = tf.while_loop(
        lambda index, *_: index < num_steps,
        step,
        (0, state, tf.TensorArray(gradients.dtype, num_steps)),
        maximum_iterations=num_steps,
    )
    return deltas.stack()


def _pad_first_axis(leaf: tf.Tensor, missing: int) -> tf.Tensor:
    if leaf.shape.rank == 0:
        return leaf
    return tf.pad(leaf, [[0, missing]] + [[0, 0]] * (leaf.shape.rank - 1))


def _part_of_first_axis(leaf: tf.Tensor, first: tf.Tensor, size: int) -> tf.Tensor:
    if leaf.shape.rank == 0:
        return leaf
    return tf.ensure_shape(leaf[first : first + size], [size, *leaf.shape[1:]])
