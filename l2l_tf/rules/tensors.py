"""Rules that look at whole tensors: shapes, statistics, parameters."""

import abc
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from l2l_tf.rules.rule import NO_INFO, BoundRule, StepInfo, batched_layout


class TensorState(NamedTuple):
    """The state of a rule that looks at whole tensors.

    Attributes:
        shared: a nest of tensors for all of them together, such as a count of steps.
        tensors: a nest of tensors for each of them, in order.
    """

    shared: Any
    tensors: list[Any]


class BoundToTensors(BoundRule):
    """Base class for rules that update whole tensors, one by one or jointly.

    Subclasses implement `initial_state`, which returns a `TensorState`, and `update`. Tensor
    statistics, such as a norm, must be computed separately for each batch entry: reduce only over
    the tensor's own axes (`own_axes`).

    Args:
        rule: the rule to bind.
        variables: descriptions of the tensors, each with a static `shape` and a `path` or `name`. A
            rule should not depend on paths: they change when a model is saved, so
            `LearnedOptimizer` numbers the variables instead. Routes can depend on them.
        batch_shape: leading axes that are not part of each tensor's own shape.
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
        """Returns the axes of a tensor without its batch axes, as negative indices."""
        return list(range(-len(self.shapes[index]), 0))

    def of_tensors(self, value: Any) -> list[Any]:
        """Returns the value of a setting for each tensor.

        Args:
            value: a number, or a tensor `[N]` with a number for each coordinate, such as several
                learning rates that are tried side by side.
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
