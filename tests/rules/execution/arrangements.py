"""The ways to cut up a coordinatewise rule."""

from collections.abc import Callable
from typing import Any

from l2l_tf.rules import CoordinatewiseRule, FlatLayout
from l2l_tf.rules.coordinatewise import OnCoordinates
from l2l_tf.rules.execution.chunks import InChunks
from l2l_tf.rules.execution.side_by_side import SideBySide
from l2l_tf.rules.rule import BoundRule, batched_layout


def whole(rule: CoordinatewiseRule, layout: FlatLayout) -> BoundRule:
    return OnCoordinates(rule, layout)


def in_chunks(rule: CoordinatewiseRule, layout: FlatLayout, chunk_size: int) -> InChunks:
    return InChunks(lambda size: whole(rule, FlatLayout([[size]])), layout, chunk_size)


def side_by_side(rule: CoordinatewiseRule, layout: FlatLayout, part_size: int) -> SideBySide:
    return SideBySide(lambda size: whole(rule, FlatLayout([[size]])), layout, part_size)


def side_by_side_in_chunks(
    rule: CoordinatewiseRule, layout: FlatLayout, chunk_size: int, part_size: int
) -> InChunks:
    return InChunks(
        lambda size: side_by_side(rule, FlatLayout([[size]]), part_size), layout, chunk_size
    )


# Chunks and parts that do not divide the coordinates of the tests, 19 to 60 of them.
ARRANGEMENTS: dict[str, Callable[[CoordinatewiseRule, FlatLayout], BoundRule]] = {
    "chunks": lambda rule, layout: in_chunks(rule, layout, 16),
    "small_chunks": lambda rule, layout: in_chunks(rule, layout, 8),
    "side_by_side": lambda rule, layout: side_by_side(rule, layout, 16),
    "side_by_side_in_chunks": lambda rule, layout: side_by_side_in_chunks(rule, layout, 16, 7),
}


def of_problem(problem: Any) -> FlatLayout:
    """Returns where the parameters of a problem's task lie among its coordinates."""
    return batched_layout(problem.variables, problem.batch_shape)
