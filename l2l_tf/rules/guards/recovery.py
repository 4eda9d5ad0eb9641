"""Rules whose state recovers where it is no longer finite."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from l2l_tf.rules.coordinatewise import CoordinatewiseRule
from l2l_tf.rules.rule import NO_INFO, BoundRule, FlatLayout, StepInfo, batched_layout
from l2l_tf.rules.tensors import TensorState


class Recovering(CoordinatewiseRule):
    """A rule that starts anew where a number of its next state is not finite.

    A NaN in a state would otherwise stay in it for good. A coordinatewise rule returns to its
    initial state at the coordinate where it happens; a rule of whole tensors, in that tensor and
    batch entry. The others do not notice. Deltas are left as they are.

    Args:
        rule: the rule, without routes of its own.
    """

    def __init__(self, rule: Any):
        self.rule = rule
        self.is_coordinatewise = rule.is_coordinatewise
        if hasattr(rule, "compute_dtype"):
            self.compute_dtype = rule.compute_dtype

    @property
    def trainable_variables(self) -> list[Any]:
        return getattr(self.rule, "trainable_variables", [])

    def bind(self, variables: Sequence[Any], batch_shape: Sequence[int] = ()) -> BoundRule:
        """Returns the rule for given tensors."""
        if self.is_coordinatewise:
            return super().bind(variables, batch_shape)
        layout = batched_layout(variables, batch_shape)
        return _RecoveringTensors(self.rule.bind(variables, batch_shape), layout, len(batch_shape))

    def initial_state(self, num_coordinates: int | tf.Tensor) -> Any:
        """Returns the state of the rule for N coordinates."""
        return self.rule.initial_state(num_coordinates)

    def __call__(self, gradient: tf.Tensor, state: Any) -> tuple[tf.Tensor, Any]:
        delta, after = self.rule(gradient, state)
        initial = tf.nest.flatten(self.rule.initial_state(gradient.shape[0]))
        leaves = tf.nest.flatten(after)
        vectors = [index for index, leaf in enumerate(leaves) if leaf.shape.rank]
        mended = dict(
            zip(
                vectors,
                _mended([leaves[i] for i in vectors], [initial[i] for i in vectors], 1),
                strict=True,
            )
        )
        scalars = [index for index in range(len(leaves)) if index not in mended]
        for index in scalars:
            (mended[index],) = _mended([leaves[index]], [initial[index]], 0)
        return delta, tf.nest.pack_sequence_as(after, [mended[i] for i in range(len(leaves))])


class _RecoveringTensors(BoundRule):
    """A rule of whole tensors whose state recovers, bound to given tensors.

    Args:
        bound: the bound rule.
        layout: the positions of the tensors among the coordinates.
        num_batch_axes: the number of leading axes that are not part of a tensor's own shape.
    """

    def __init__(self, bound: BoundRule, layout: FlatLayout, num_batch_axes: int):
        self.bound = bound
        self.layout = layout
        self.needs = bound.needs
        self._num_batch_axes = num_batch_axes

    @property
    def trainable_variables(self) -> list[Any]:
        return self.bound.trainable_variables

    def initial_state(self) -> Any:
        return self.bound.initial_state()

    def __call__(
        self, gradient: tf.Tensor, state: Any, info: StepInfo = NO_INFO
    ) -> tuple[tf.Tensor, Any]:
        delta, after = self.bound(gradient, state, info)
        return delta, self._mended(after)

    def update(
        self, gradients: Sequence[tf.Tensor], state: Any, info: StepInfo = NO_INFO
    ) -> tuple[list[tf.Tensor], Any]:
        deltas, after = self.bound.update(gradients, state, info)
        return deltas, self._mended(after)

    def _mended(self, after: Any) -> Any:
        initial = self.bound.initial_state()
        if not isinstance(after, TensorState):
            return self._mended_nest(after, initial)
        pairs = zip(after.tensors, initial.tensors, strict=True)
        return after._replace(
            shared=self._mended_nest(after.shared, initial.shared),
            tensors=[self._mended_nest(own, first) for own, first in pairs],
        )

    def _mended_nest(self, after: Any, initial: Any) -> Any:
        """Returns a nest in which batch entries with a number that is not finite start anew."""
        leaves, firsts = tf.nest.flatten(after), tf.nest.flatten(initial)
        batches = {tuple(leaf.shape[: self._num_batch_axes]) for leaf in leaves}
        # Leaves that do not know the batch entries are mended as a whole.
        num_axes = self._num_batch_axes if len(batches) == 1 else 0
        if leaves and min(leaf.shape.rank for leaf in leaves) < num_axes:
            num_axes = 0
        return tf.nest.pack_sequence_as(after, _mended(leaves, firsts, num_axes))


def _mended(
    leaves: Sequence[tf.Tensor], initial: Sequence[tf.Tensor], num_axes: int
) -> list[tf.Tensor]:
    """Returns tensors whose entries are the initial ones wherever any of them is not finite.

    Args:
        leaves: tensors that share their first axes.
        initial: the values to return to.
        num_axes: the number of these axes.
    """
    are_finite = [
        tf.reduce_all(tf.math.is_finite(leaf), list(range(num_axes, leaf.shape.rank)))
        for leaf in leaves
        if leaf.dtype.is_floating
    ]
    if not are_finite:
        return list(leaves)
    keeps = tf.reduce_all(tf.stack(are_finite), 0)

    def chosen() -> list[tf.Tensor]:
        return [
            tf.where(
                tf.reshape(keeps, [*keeps.shape, *[1] * (leaf.shape.rank - num_axes)]), leaf, was
            )
            for leaf, was in zip(leaves, initial, strict=True)
        ]

    # Choosing copies the whole state, which takes longer than finding that nothing need be chosen.
    return tf.cond(tf.reduce_all(keeps), lambda: list(leaves), chosen)
