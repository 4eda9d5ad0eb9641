"""Coordinatewise rules, which treat every coordinate alike, and their binding to tensors."""

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from l2l_tf.rules.execution.chunks import CHUNK_SIZE, InChunks
from l2l_tf.rules.execution.side_by_side import SideBySide, part_size_if_faster
from l2l_tf.rules.rule import NO_INFO, BoundRule, FlatLayout, StepInfo, batched_layout

# The tape of an unroll is kept up to this much memory, which saves running the rule twice.
MAX_TAPE_BYTES = 2**31
# Numbers that a tape keeps for each coordinate and step, as a multiple of the rule's state size.
# For the LSTM it is 6: each layer's inputs, gates, their products, cells and outputs.
_KEPT_PER_STATE = 6


class CoordinatewiseRule:
    """Base class for rules that apply the same function to each coordinate's gradient and state.

    Subclasses have two methods:

        `initial_state(num_coordinates)` returns a nest of tensors. Each is a scalar, or has N as
            its first axis.
        `__call__(gradient, state)` takes a gradient, float `[N]`, and a state. It returns the
            delta, float `[N]`, which is added to the parameters, and the next state.

    Attributes:
        has_small_state: whether a learned rule keeps so little of a coordinate that an optimizer
            steps faster without chunks.
    """

    is_coordinatewise = True
    has_small_state = False

    def bind(self, variables: Sequence[Any], batch_shape: Sequence[int] = ()) -> BoundRule:
        """Returns the rule for all coordinates of given tensors, including batch axes."""
        return OnCoordinates(self, batched_layout(variables, batch_shape))


class OnCoordinates(BoundRule):
    """A coordinatewise rule bound to all coordinates of some tensors, updated in one call.

    Args:
        rule: the rule.
        layout: the positions of the tensors among the coordinates.
    """

    can_be_cut = True

    def __init__(self, rule: Any, layout: FlatLayout):
        self.rule = rule
        self.layout = layout

    @property
    def trainable_variables(self) -> list[Any]:
        return getattr(self.rule, "trainable_variables", [])

    def initial_state(self) -> Any:
        return self.rule.initial_state(self.num_coordinates)

    def __call__(
        self, gradient: tf.Tensor, state: Any, info: StepInfo = NO_INFO
    ) -> tuple[tf.Tensor, Any]:
        return self.rule(gradient, state)

    def for_steps(self) -> BoundRule:
        # Hand-designed rules have little state, and may have one learning rate per coordinate.
        # Only a learned rule has a dtype of its own.
        if not hasattr(self.rule, "compute_dtype"):
            return self
        return self.cut(CHUNK_SIZE if self.num_coordinates > CHUNK_SIZE else 0)

    def for_training(self, num_steps: int, chunk_size: int | None = None) -> BoundRule:
        """Returns the rule unchanged, side by side, or in chunks.

        A tape keeps about 24 S T N bytes in float32, where S is the number of values in the rule's
        state for one coordinate. This is 0.8 GB for a 2 x 20 LSTM, 20 steps and 20,000 coordinates.
        If it is at most 2 GiB, the unroll is recorded once and differentiated. Otherwise the rule
        runs in chunks of C coordinates, and the unroll stores only its gradients. The backward pass
        then runs the rule again, chunk by chunk. This costs a third more arithmetic. It needs
        24 S T C bytes for the current chunk, and about 8 N (S + T) for states and gradients, each
        kept once before and once after a step.
        """
        if chunk_size is None:
            chunk_size = 0 if self.tape_bytes(num_steps) <= MAX_TAPE_BYTES else CHUNK_SIZE
        return self.cut(chunk_size)

    def cut(self, chunk_size: int) -> BoundRule:
        """Returns the rule in chunks if `chunk_size` is not 0, and side by side if faster."""
        part_size = part_size_if_faster(self.num_coordinates, chunk_size)

        def for_each(layout: FlatLayout) -> BoundRule:
            return SideBySide(self._on, layout, part_size) if part_size else self._on_layout(layout)

        if not chunk_size:
            return for_each(self.layout)
        return InChunks(lambda size: for_each(FlatLayout([[size]])), self.layout, chunk_size)

    def tape_bytes(self, num_steps: int) -> int:
        state = tf.nest.flatten(self.rule.initial_state(1))
        state_bytes = sum(math.prod(leaf.shape) * leaf.dtype.size for leaf in state)
        return _KEPT_PER_STATE * state_bytes * num_steps * self.num_coordinates

    def _on(self, num_coordinates: int) -> BoundRule:
        return self._on_layout(FlatLayout([[num_coordinates]]))

    def _on_layout(self, layout: FlatLayout) -> BoundRule:
        return OnCoordinates(self.rule, layout)
