"""The interface of a rule, and the flat vector that rules see."""

import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import tensorflow as tf


@runtime_checkable
class Rule(Protocol):
    """Maps (gradient, state) to (delta, state); the delta is *added* to the parameters.

    Gradients and deltas are float vectors over the N coordinates of a group of variables, so that
    there is one call for a group and step, whatever the number of variables (`FlatLayout`).

    Attributes:
        is_coordinatewise: whether each coordinate is updated by the same function of its own
            gradient and state. Tasks may then share one call, and coordinates be cut into chunks;
            each tensor of the state is a scalar or has N as its first axis.
    """

    is_coordinatewise: bool

    def initial_state(self, num_coordinates: int) -> Any:
        """Returns the state before the first step: a nest of tensors."""

    def __call__(self, gradient: tf.Tensor, state: Any) -> tuple[tf.Tensor, Any]:
        """Returns the delta, float `[N]`, for a gradient, float `[N]`, and the next state."""


class FlatLayout:
    """Where each variable of a group lies in one flat vector of N coordinates.

    Args:
        shapes: the static shapes of the variables, in order; any rank, zero sizes allowed.
    """

    def __init__(self, shapes: Sequence[Sequence[int]]):
        self.shapes = [tuple(shape) for shape in shapes]
        self.sizes = [math.prod(shape) for shape in self.shapes]
        self.num_coordinates = sum(self.sizes)

    def flatten(self, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns the tensors, in order and in row-major order each, as one vector `[N]`."""
        return tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)

    def unflatten(self, vector: tf.Tensor) -> list[tf.Tensor]:
        """Returns the tensors that a vector `[N]` holds."""
        parts = tf.split(vector, self.sizes)
        return [tf.reshape(part, shape) for part, shape in zip(parts, self.shapes, strict=True)]
