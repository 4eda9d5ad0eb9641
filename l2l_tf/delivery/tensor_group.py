"""A whole-tensor rule's share of an optimizer's joint update."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from l2l_tf.delivery.group import Group, Request, Step, are_finite, size_of, times
from l2l_tf.parameter_spec import ParameterSpec
from l2l_tf.rules.rule import Rule, StepInfo
from l2l_tf.rules.tensors import TensorState


class TensorGroup(Group):
    """Variables that a rule updates as whole tensors, and the rule's state for them.

    Each tensor of the state is one variable of the optimizer. Nothing is copied into one vector.

    Args:
        rule: the rule that updates the variables.
        positions: the positions of the variables among those of the optimizer.
        specs: the paths and shapes of the variables.

    Raises:
        ValueError: the rule needs losses, which Keras does not give to an optimizer.
    """

    def __init__(self, rule: Rule, positions: Sequence[int], specs: Sequence[ParameterSpec]):
        self.positions = list(positions)
        self._bound = rule.bind(specs)
        self.needs_num_steps = "num_steps" in self._bound.needs
        self._dtype = tf.as_dtype(getattr(rule, "compute_dtype", "float32"))
        if "losses" in self._bound.needs:
            raise ValueError(
                "rule must not need losses, which Keras does not give to an optimizer. "
                f"Received: rule={rule!r}. Run it in a loop of your own."
            )
        trace = tf.function(self._bound.initial_state, autograph=False)
        self._structure = tf.nest.map_structure(
            lambda leaf: tf.TensorSpec(leaf.shape, leaf.dtype),
            trace.get_concrete_function().structured_outputs,
        )

    def state_shapes(self, name: str) -> list[tuple[str, tuple[int, ...]]]:
        leaves = tf.nest.flatten(self._structure)
        return [(f"{name}_{index}", tuple(leaf.shape)) for index, leaf in enumerate(leaves)]

    def add_state(self, add_variable: Callable[..., Any], name: str) -> None:
        specs = tf.nest.flatten(self._structure)
        self._state = [
            add_variable(
                shape=shape, initializer=self._initializer(index), dtype=spec.dtype.name, name=own
            )
            for index, (spec, (own, shape)) in enumerate(
                zip(specs, self.state_shapes(name), strict=True)
            )
        ]

    @property
    def state(self) -> list[Any]:
        return [variable.value for variable in self._state]

    def restart(self) -> None:
        before = [tf.convert_to_tensor(variable) for variable in self.state]
        after = self._bound.restarted_state(tf.nest.pack_sequence_as(self._structure, before))
        for variable, leaf in zip(self._state, tf.nest.flatten(after), strict=True):
            variable.assign(leaf)

    def step(self, request: Request, state: list[Any]) -> Step:
        shapes = self._bound.layout.shapes
        gradients = [
            tf.zeros(shape, self._dtype) if gradient is None else tf.cast(gradient, self._dtype)
            for gradient, shape in zip(request.gradients, shapes, strict=True)
        ]
        before = [variable.read_value() for variable in state]
        deltas, after = self._bound.update(
            gradients, tf.nest.pack_sequence_as(self._structure, before), self._info(request)
        )
        after = tf.nest.flatten(self._kept(request, before, after))
        moves = [
            None if gradient is None else times(delta, request.learning_rate)
            for delta, gradient in zip(deltas, request.gradients, strict=True)
        ]

        def commit() -> None:
            for variable, leaf in zip(state, after, strict=True):
                variable.assign(leaf)

        return Step(
            deltas=moves,
            size=size_of(gradients),
            are_gradients_finite=are_finite(gradients),
            is_finite=are_finite([leaf for leaf in after if leaf.dtype.is_floating]),
            commit=commit,
            revert=lambda: None,
        )

    def _info(self, request: Request) -> StepInfo:
        parameters = None
        if "parameters" in self._bound.needs:
            parameters = [
                # A variable that does not move counts as zero.
                tf.zeros(shape, self._dtype)
                if one is None
                else tf.cast(one.read_value(), self._dtype)
                for one, shape in zip(request.values, self._bound.layout.shapes, strict=True)
            ]
        return StepInfo(request.num_taken, None, parameters, request.num_steps, request.age)

    def _kept(self, request: Request, before: list[tf.Tensor], after: TensorState) -> TensorState:
        """Returns the next state, with the old one for tensors without a gradient."""
        tf.nest.assert_same_structure(after, self._structure)
        old = tf.nest.pack_sequence_as(self._structure, before)
        pairs = zip(after.tensors, old.tensors, request.gradients, strict=True)
        return after._replace(
            tensors=[was if gradient is None else new for new, was, gradient in pairs]
        )

    def _initializer(self, index: int) -> Callable[..., tf.Tensor]:
        def initial_value(shape: Sequence[int], dtype: Any = None) -> tf.Tensor:
            return tf.cast(tf.nest.flatten(self._bound.initial_state())[index], dtype)

        return initial_value
