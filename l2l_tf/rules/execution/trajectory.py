"""Running a rule over a known sequence of gradients, and limiting its backpropagation."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def answer(
    rule: Callable[[tf.Tensor, Any], tuple[tf.Tensor, Any]],
    state: Any,
    gradients: tf.Tensor,
    backpropagation_steps: int | None = None,
) -> tf.Tensor:
    """Returns a rule's deltas `[T, N]` for a known sequence of gradients.

    Args:
        rule: maps a gradient, float `[N]`, and a state to a delta and the next state.
        state: the state before the first step.
        gradients: float `[T, N]`.
        backpropagation_steps: the interval, in steps, at which the state is detached from the tape.
            None never detaches it.
    """
    num_steps = gradients.shape[0]
    if num_steps is None:
        num_steps = tf.shape(gradients)[0]
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


def cut_off(state: Any, index: tf.Tensor, every: int | None) -> Any:
    """Returns a rule's state unchanged, but detached from the tape at some steps.

    Args:
        state: a nest of tensors, before the step.
        index: int32 `[]`, the index of the step, from 0.
        every: the state is detached before each step whose index is a multiple of this. None never
            detaches it.
    """
    if every is None:
        return state
    passes = index % every != 0
    return tf.nest.map_structure(lambda leaf: damped(leaf, tf.cast(passes, leaf.dtype)), state)


def damped(values: tf.Tensor, share: float | tf.Tensor) -> tf.Tensor:
    """Returns values unchanged, but scales their gradient by `share`."""

    @tf.custom_gradient
    def damp(values):
        return tf.identity(values), lambda upstream: share * upstream

    return damp(values)
