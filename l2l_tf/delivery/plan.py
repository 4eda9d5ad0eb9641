"""The groups and variables that an optimizer will create for a model's variables."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from l2l_tf.delivery.assignment import Assignment
from l2l_tf.delivery.coordinate_group import CoordinateGroup
from l2l_tf.delivery.group import Group
from l2l_tf.delivery.guarded_group import GuardedGroup
from l2l_tf.delivery.tensor_group import TensorGroup
from l2l_tf.parameter_spec import ParameterSpec
from l2l_tf.rules.guards.guarded import Guarded
from l2l_tf.rules.guards.recovery import Recovering
from l2l_tf.rules.rule import Rule

# Names and shapes of an optimizer's variables, in order.
Shapes = Sequence[tuple[str, tuple[int, ...]]]


class Options(NamedTuple):
    """Options that affect which variables an optimizer has, besides rules and assignment.

    Attributes:
        chunk_size: as in `CoordinateGroup`.
        state_dtype: as in `CoordinateGroup`.
        are_averaged: whether averages of the model's variables are kept.
        are_accumulated: whether gradients are accumulated.
    """

    chunk_size: int
    state_dtype: str | None
    are_averaged: bool
    are_accumulated: bool


class Plan:
    """Groups of variables, and the variables that an optimizer creates for them.

    Args:
        rules: the rule for variables without a route, followed by those of the routes.
        assignment: the assignment of the variables that rules update.
        shapes: the shapes of all variables.
        positions: the positions of those that rules update among all variables.
        options: the optimizer's options.

    Attributes:
        assignment: as given.
        groups: one group for each rule that has a coordinate to update.
        route_of: the index of each updated variable's route, by the variable's position. None if it
            has no route.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        assignment: Assignment,
        shapes: Sequence[tuple[int, ...]],
        positions: Sequence[int],
        options: Options,
    ):
        self.assignment = assignment
        self.route_of = dict(zip(positions, assignment.routes, strict=True))
        self.groups: list[Group] = []
        self._shapes = shapes
        self._options = options
        for route, rule in zip((None, *range(len(rules) - 1)), rules, strict=True):
            own = [position for position in positions if self.route_of[position] == route]
            own_shapes = [shapes[position] for position in own]
            if sum(math.prod(shape) for shape in own_shapes):
                self.groups.append(_group(rule, own, own_shapes, options))

    @property
    def layout(self) -> np.ndarray:
        """Group, rank and dimensions of each variable, one after another, int64.

        The group is -1 for a variable without a group.
        """
        group_of = self._group_of()
        numbers: list[int] = []
        for position, shape in enumerate(self._shapes):
            numbers += [group_of.get(position, -1), len(shape), *shape]
        return np.array(numbers, np.int64)

    @property
    def grouped(self) -> list[tuple[int, tuple[int, ...]]]:
        """The group and the shape of each variable that has a group, in order."""
        return [(group, self._shapes[position]) for position, group in self._group_of().items()]

    def shapes_beside(self, own: Shapes) -> Shapes:
        """Returns the names and shapes of all variables that the built optimizer has.

        Args:
            own: those of the variables that exist before the model's variables are known.
        """
        averaged = list(self.route_of) if self._options.are_averaged else []
        accumulated = self._shapes if self._options.are_accumulated else []
        return [
            *own,
            *(("average", self._shapes[position]) for position in averaged),
            *(("gradient_accumulator", shape) for shape in accumulated),
            *(
                named
                for index, group in enumerate(self.groups)
                for named in group.state_shapes(f"state_{index}")
            ),
        ]

    def _group_of(self) -> dict[int, int]:
        """Returns the group of each variable that has one, by position, in order."""
        group_of = {
            position: index
            for index, group in enumerate(self.groups)
            for position in group.positions
        }
        return {position: group_of[position] for position in sorted(group_of)}


def _group(
    rule: Rule, positions: Sequence[int], shapes: Sequence[tuple[int, ...]], options: Options
) -> Group:
    """Returns the group for a rule and its variables."""
    if isinstance(rule, Guarded):
        inside = _group(Recovering(rule.rule), positions, shapes, options)
        fallback = None if rule.descent else _group(rule.fallback, positions, shapes, options)
        return GuardedGroup(rule, inside, fallback, shapes)
    if rule.is_coordinatewise:
        return CoordinateGroup(rule, positions, shapes, options.chunk_size, options.state_dtype)
    # Without their paths, which change when a model is saved and loaded.
    named = zip(positions, shapes, strict=True)
    return TensorGroup(rule, positions, [ParameterSpec(f"variable_{p}", s) for p, s in named])
