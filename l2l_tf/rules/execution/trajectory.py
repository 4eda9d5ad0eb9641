"""A rule over a known sequence of gradients, and what of it a meta-gradient flows through."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def answer(
    rule: Callable[[tf.Tensor, Any], tuple[tf.Tensor, Any]],
    state: Any,
    gradients: tf.Tensor,
    backpropagation_steps: int | None = None,
) -> tf.Tensor:
    """Returns the deltas `[T, N]` with which a rule answers a known sequence of gradients.

    Args:
        rule: maps a gradient, float `[N]`, and a state to a delta and the next state.
        state: before the first step.
        gradients: float `[T, N]`.
        backpropagation_steps: after how many steps the state is a constant to a tape; never if
            None.
    """
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


def cut_off(state: Any, index: tf.Tensor, every: int | None) -> Any:
    """Returns a rule's state as it is: a constant to a tape where a step's index says so.

    Args:
        state: tensors in a nest, before the step.
        index: int32 `[]`, of the step, from 0.
        every: the state is a constant before each step whose index is a multiple of it; never if
            None.
    """
    if every is None:
        return state
    passes = index % every != 0
    return tf.nest.map_structure(lambda leaf: damped(leaf, tf.cast(passes, leaf.dtype)), state)


def damped(values: tf.Tensor, share: float | tf.Tensor) -> tf.Tensor:
    """Returns values as they are; of a gradient with respect to them, a share passes."""

    @tf.custom_gradient
    def damp(values):
        return tf.identity(values), lambda upstream: share * upstream

    return damp(values)
