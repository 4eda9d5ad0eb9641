"""The backward pass of meta-training over stored gradients, in chunks of coordinates."""

import math
from typing import Any

import keras
import tensorflow as tf

from l2l_tf.rules.chunks import CHUNK_SIZE, InChunks, nest_of_arrays, read_nest
from l2l_tf.rules.routed import OnVariables
from l2l_tf.rules.rule import Rule
from l2l_tf.rules.side_by_side import SideBySide, side_by_side_if_faster
from l2l_tf.training.unroll import cut_off

# Up to this much memory, the tape of an unroll is kept; it saves running the rule twice.
_MAX_TAPE_BYTES = 2**31
# Numbers that a tape keeps for each coordinate and step, as a multiple of those in a rule's state:
# 6 for the LSTM (inputs, gates, their products, cells and outputs of each layer).
_KEPT_PER_STATE = 6


def bound_memory(
    rule: keras.layers.Layer | OnVariables,
    num_coordinates: int,
    num_steps: int,
    chunk_size: int | None = None,
) -> keras.layers.Layer | SideBySide | InChunks | OnVariables:
    """Returns a rule as it should be meta-trained: itself, side by side, or in chunks.

    A tape keeps about 24 S T N bytes in float32, where S is the size of the rule's state for one
    coordinate: 0.8 GB for a 2 x 20 LSTM, 20 steps and 20,000 coordinates. Where that is at most
    2 GiB, the unroll is recorded once and differentiated. Beyond, the rule runs in chunks of C
    coordinates, the unroll stores its gradients alone, and the backward pass runs the rule again,
    chunk after chunk: a third more arithmetic, and memory of 24 S T C bytes for the chunk in work
    and about 8 N (S + T) for states and gradients, both of them once before and once after a
    step.

    Either way, coordinates are cut into parts side by side where that is faster
    (`l2l_tf.rules.side_by_side`). Of a rule with parts, all are replayed or none.

    Args:
        rule: a learned rule. One that is not coordinatewise keeps its tape.
        num_coordinates: N.
        num_steps: T, of an unroll.
        chunk_size: C, if it is not to be chosen by size; 0 keeps the tape whatever the size.

    Raises:
        ValueError: `chunk_size` is given for a rule that is not coordinatewise.
    """
    if isinstance(rule, OnVariables):
        if chunk_size is None:
            counts = rule.num_coordinates.items()
            tape = sum(_tape_bytes(rule.rule.parts[name], num, num_steps) for name, num in counts)
            chunk_size = 0 if tape <= _MAX_TAPE_BYTES else CHUNK_SIZE
        return rule.with_parts(lambda part, num: bound_memory(part, num, num_steps, chunk_size))
    if chunk_size is None:
        tape = _tape_bytes(rule, num_coordinates, num_steps)
        chunk_size = 0 if not rule.is_coordinatewise or tape <= _MAX_TAPE_BYTES else CHUNK_SIZE
    arranged = side_by_side_if_faster(rule, num_coordinates, chunk_size)
    return InChunks(arranged, chunk_size) if chunk_size else arranged


def _tape_bytes(rule: keras.layers.Layer, num_coordinates: int, num_steps: int) -> int:
    state = tf.nest.flatten(rule.initial_state(1))
    state_bytes = sum(math.prod(leaf.shape) * leaf.dtype.size for leaf in state)
    return _KEPT_PER_STATE * state_bytes * num_steps * num_coordinates


def is_in_chunks(rule: Any) -> bool:
    """Returns whether a rule, or each part of one that has parts, is applied in chunks."""
    if isinstance(rule, OnVariables):
        return all(isinstance(part, InChunks) for part in rule.arranged.values())
    return isinstance(rule, InChunks)


def replay_gradient(
    rule: InChunks | OnVariables,
    state: Any,
    first_gradient: tf.Tensor,
    gradients: tf.Tensor,
    step_weights: tf.Tensor,
    backpropagation_steps: int | None = None,
) -> list[tf.Tensor]:
    """Returns the gradient of an unroll's loss with respect to a rule's weights.

    That is the sum over t of (du_t/dphi)^T G_t (`l2l_tf.training.meta_gradient`), where the u_t are
    the deltas with which the rule answers the stored gradients. As its coordinates are independent
    of each other, they are taken chunk by chunk.

    Args:
        rule: a learned rule in chunks, or one whose parts are.
        state: its state before the first step.
        first_gradient: float `[N]`, where the unroll begins.
        gradients: float `[T, N]`, after each of its steps.
        step_weights: float `[T]`, what the loss after each step counts.
        backpropagation_steps: after how many steps the state is a constant; never if None.

    Returns:
        One tensor for each of the rule's trainable weights.
    """
    if isinstance(rule, OnVariables):
        return _replay_parts(
            rule, state, first_gradient, gradients, step_weights, backpropagation_steps
        )
    weights = [weight.value for weight in rule.trainable_variables]
    num_coordinates = gradients.shape[1]
    num_chunks, size = rule.partition(num_coordinates)
    states = nest_of_arrays(state)

    def add_chunk(chunk, sums):
        # Taken by index, and not cut out, for all chunks to be of a size that XLA knows.
        positions = chunk * size + tf.range(size)
        # Coordinates that fill the last chunk have gradients of zero: they add nothing.
        exists = tf.cast(positions < num_coordinates, gradients.dtype)
        positions = tf.minimum(positions, num_coordinates - 1)
        after = exists * tf.gather(gradients, positions, axis=1)
        before = exists * tf.gather(first_gradient, positions)
        inputs = tf.concat([before[tf.newaxis], after[:-1]], axis=0)
        cotangents = tf.cumsum(step_weights[:, tf.newaxis] * after, axis=0, reverse=True)
        with tf.GradientTape() as tape:
            deltas = answer(rule.rule, read_nest(states, chunk), inputs, backpropagation_steps)
        products = tape.gradient(deltas, weights, cotangents, tf.UnconnectedGradients.ZERO)
        return chunk + 1, [total + product for total, product in zip(sums, products, strict=True)]

    zeros = [tf.zeros_like(weight) for weight in weights]
    _, sums = tf.while_loop(
        lambda chunk, _: chunk < num_chunks, add_chunk, (0, zeros), parallel_iterations=1
    )
    return sums


def _replay_parts(
    rule: OnVariables,
    state: dict[str, Any],
    first_gradient: tf.Tensor,
    gradients: tf.Tensor,
    step_weights: tf.Tensor,
    backpropagation_steps: int | None,
) -> list[tf.Tensor]:
    first_gradients, later_gradients = rule.split(first_gradient), rule.split(gradients)
    results: list[tf.Tensor] = []
    for name, part in rule.rule.parts.items():
        if name in rule.num_coordinates:
            results += replay_gradient(
                rule.arranged[name],
                state[name],
                first_gradients[name],
                later_gradients[name],
                step_weights,
                backpropagation_steps,
            )
        else:
            results += [tf.zeros_like(weight.value) for weight in part.trainable_variables]
    return results


def answer(
    rule: Rule, state: Any, gradients: tf.Tensor, backpropagation_steps: int | None = None
) -> tf.Tensor:
    """Returns the deltas `[T, N]` with which a rule answers a known sequence of gradients."""
    num_steps = gradients.shape[0]
    inputs = tf.TensorArray(gradients.dtype, num_steps).unstack(gradients)

    def step(index, state, deltas):
        state = cut_off(state, index, backpropagation_steps)
        delta, state = rule(inputs.read(index), state)
        return index + 1, state, deltas.write(index, delta)

    _, _, deltas = tf.while_loop(
        lambda index, *_: index < num_steps,
        step,
        (0, state, tf.TensorArray(gradients.dtype, num_steps)),
        maximum_iterations=num_steps,
    )
    return deltas.stack()
