"""Rules that look at whole tensors: their shapes, their statistics, their parameters."""

import abc
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from l2l_tf.rules.rule import NO_INFO, BoundRule, StepInfo, batched_layout


class TensorState(NamedTuple):
    """The state of a rule that looks at whole tensors.

    Attributes:
        shared: a nest of tensors for all of them together, such as a count of steps.
        tensors: for each of them, in order, a nest of tensors.
    """

    shared: Any
    tensors: list[Any]


class BoundToTensors(BoundRule):
    """The base of rules that update given tensors one by one, or jointly, as tensors.

    Subclasses have `initial_state`, which returns a `TensorState`, and `update`. What a rule says
    of a tensor, such as its norm, it must say of each batch entry apart: it reduces over the
    tensor's own axes (`own_axes`).

    Args:
        rule: what is bound.
        variables: what each tensor is: its static `shape`, and its `path` or `name`.
        batch_shape: axes that stand before each tensor's own.
    """

    def __init__(self, rule: Any, variables: Sequence[Any], batch_shape: Sequence[int] = ()):
        self.rule = rule
        self.batch_shape = tuple(batch_shape)
        self.shapes = [tuple(variable.shape) for variable in variables]
        self.layout = batched_layout(variables, batch_shape)

    @property
    def trainable_variables(self) -> list[Any]:
        return getattr(self.rule, "trainable_variables", [])

    def own_axes(self, index: int) -> list[int]:
        """Returns the axes of a tensor that are its own, counted from the last."""
        return list(range(-len(self.shapes[index]), 0))

    def of_tensors(self, value: Any) -> list[Any]:
        """Returns what a setting is for each tensor.

        Args:
            value: a number, or a tensor `[N]` with a number for each coordinate, such as learning
                rates of which several are tried side by side.
        """
        if isinstance(value, tf.Tensor) and value.shape.rank:
            return list(self.layout.unflatten(value))
        return [value] * len(self.shapes)

    @abc.abstractmethod
    def initial_state(self) -> TensorState:
        """Returns the state before the first step."""

    @abc.abstractmethod
    def update(
        self, gradients: Sequence[tf.Tensor], state: Any, info: StepInfo = NO_INFO
    ) -> tuple[list[tf.Tensor], Any]:
        """Returns the deltas of the tensors for their gradients, and the next state."""

    def __call__(
        self, gradient: tf.Tensor, state: Any, info: StepInfo = NO_INFO
    ) -> tuple[tf.Tensor, Any]:
        if info.parameters is not None:
            info = info._replace(parameters=self.layout.unflatten(info.parameters))
        deltas, state = self.update(self.layout.unflatten(gradient), state, info)
        return self.layout.flatten(deltas), state
