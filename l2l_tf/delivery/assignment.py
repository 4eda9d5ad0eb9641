"""The assignment of variables to an optimizer's rules, which is decided once and saved."""

import json
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from l2l_tf.rules.routing import Route, assign_routes

# Listing more paths than this would not help.
_MAX_PATHS = 5


class Assignment(NamedTuple):
    """The decision on which route updates each variable of an optimizer.

    Routes may match paths, but paths change when Keras rebuilds a model from a file or a pickle, or
    clones it. The order and the shapes stay the same, so an earlier decision can be reused.

    Attributes:
        routes: the index of each variable's route. None if it has no route.
        shapes: the shapes of the variables.
    """

    routes: tuple[int | None, ...]
    shapes: tuple[tuple[int, ...], ...]

    def to_config(self) -> list[Any]:
        """Returns JSON values for `from_config`."""
        return [list(pair) for pair in zip(self.routes, map(list, self.shapes), strict=True)]

    @classmethod
    def from_config(cls, config: Any, num_routes: int) -> "Assignment":
        """Rebuilds an assignment from the JSON values of `to_config`.

        Raises:
            ValueError: the values are not an assignment, or name a route that doesn't exist.
        """
        if not isinstance(config, list) or not all(_is_pair(one, num_routes) for one in config):
            raise ValueError(
                "assignment must list, for each variable, a route's index or null, and a shape. "
                f"Received: assignment={config!r:.200}, with {num_routes} routes. Leave it out to "
                "have routes matched anew."
            )
        return cls(tuple(route for route, _ in config), tuple(tuple(shape) for _, shape in config))

    def to_bytes(self, routes: Sequence[Route]) -> np.ndarray:
        """Returns the assignment and its routes' criteria as a vector of bytes, uint8."""
        entry = {"asked": _asked(routes), "assigned": self.to_config()}
        return np.frombuffer(json.dumps(entry).encode(), np.uint8)

    @classmethod
    def from_bytes(cls, saved: np.ndarray, routes: Sequence[Route]) -> tuple["Assignment", bool]:
        """Returns the assignment in `saved`, and whether its routes had the same criteria as these.

        Raises:
            ValueError: `saved` is not a result of `to_bytes`, or names a route that doesn't exist.
        """
        try:
            entry = json.loads(saved.tobytes().decode())
        except RecursionError as error:
            raise ValueError("An assignment must not be nested so deeply.") from error
        if not isinstance(entry, dict):
            raise ValueError(f"An assignment must be a dictionary. Received: {entry!r:.200}.")
        return (
            cls.from_config(entry.get("assigned"), len(routes)),
            entry.get("asked") == _asked(routes),
        )


def assign(
    routes: Sequence[Route], variables: Sequence[Any], known: Sequence[Assignment | None]
) -> Assignment:
    """Returns the routes of variables: as decided before, or else as they match now.

    Warns of routes with a name or a predicate that match no variable.

    Args:
        routes: the routes, in order.
        variables: the variables that an optimizer updates.
        known: earlier decisions. The first one for variables of these shapes, in this order, is
            used.
    """
    shapes = tuple(tuple(variable.shape) for variable in variables)
    for one in known:
        if one is not None and one.shapes == shapes:
            return one
    for route in routes:
        # A kind applies wherever there are such variables, so it needs no match.
        if variables and route.kind is None and not any(map(route.matches, variables)):
            _warn_of_idle(route, variables)
    return Assignment(tuple(assign_routes(routes, variables)), shapes)


def path_of(variable: Any) -> str:
    """Returns the path or name of a Keras or TensorFlow variable."""
    return variable.path if hasattr(variable, "path") else variable.name


def _warn_of_idle(route: Route, variables: Sequence[Any]) -> None:
    asked = f"name={route.name!r}" if route.name is not None else f"predicate={route.predicate!r}"
    paths = [path_of(variable) for variable in variables]
    more = ", ..." if len(paths) > _MAX_PATHS else ""
    warnings.warn(
        f"A route should match a variable. Received: {asked}, which matches none of "
        f"{', '.join(paths[:_MAX_PATHS])}{more}: other rules update all of them. Correct "
        "the route. If saving or copying the model changed its paths, first call "
        "optimizer.build(model.trainable_variables) or train for a step.",
        stacklevel=2,
    )


def _asked(routes: Sequence[Route]) -> list[list[str | None]]:
    """Returns the criteria of routes. Of predicates, it only tells that they are predicates."""
    return [[route.kind, route.name] for route in routes]


def _is_pair(value: Any, num_routes: int) -> bool:
    """Returns whether a value is a pair of a route's index, or None, and a shape."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return False
    route, shape = value
    if not isinstance(shape, list | tuple) or not all(map(_is_count, shape)):
        return False
    return route is None or (_is_count(route) and route < num_routes)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
