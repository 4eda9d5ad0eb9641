"""Routes, which assign rules to a model's variables."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

from l2l_tf.checks import check_instance, check_one_of
from l2l_tf.rules.rule import Rule

# Kinds of variables by rank. A variable knows nothing else about its layer.
KINDS: dict[str, Callable[[Any], bool]] = {
    # Kernels of 2-D and 3-D convolutions. Those of 1-D convolutions have rank 3, like attention
    # kernels.
    "conv": lambda variable: len(variable.shape) in (4, 5),
    "dense": lambda variable: len(variable.shape) == 2,
    "vector": lambda variable: len(variable.shape) <= 1,
}


@dataclasses.dataclass(frozen=True)
class Route:
    """A rule and the variables it is for, selected by exactly one of kind, name and predicate.

    Attributes:
        rule: the rule that updates the variables, all in one call.
        kind: a key of `KINDS`: "conv" (kernels of 2-D and 3-D convolutions), "dense" (matrices) or
            "vector" (biases, scales).
        name: a regular expression to search for in a variable's path, such as "encoder/.*kernel",
            or in its name if it has no path.
        predicate: a function of a variable that returns whether the variable is selected.

    Raises:
        ValueError: none or several of the three are given, the kind is unknown, or the name is not
            a regular expression.
        TypeError: the name is not a string, or the predicate is not a function.
    """

    rule: Rule
    kind: str | None = None
    name: str | None = None
    predicate: Callable[[Any], bool] | None = None

    def __post_init__(self) -> None:
        given = [key for key in ("kind", "name", "predicate") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(
                "A route must have exactly one of kind, name and predicate. "
                f"Received: {given}. Make one route for each."
            )
        if self.kind is not None:
            advice = "Choose one of them, or a name or a predicate."
            check_one_of("kind", self.kind, KINDS, advice)
        if self.predicate is not None and not callable(self.predicate):
            raise TypeError(
                "predicate must be a function of a variable. "
                f"Received: predicate={self.predicate!r}. Give a kind or a name as kind= or name=."
            )
        if self.name is not None:
            advice = "Give what is to be found in a variable's path."
            check_instance("name", self.name, str, "a string, a regular expression", advice)
            try:
                re.compile(self.name)
            except re.error as error:
                raise ValueError(
                    f"name must be a regular expression. Received: name={self.name!r}, where "
                    f"{error}. Escape what is meant literally (re.escape)."
                ) from error

    def matches(self, variable: Any) -> bool:
        """Returns whether the route selects a variable."""
        if self.kind is not None:
            return KINDS[self.kind](variable)
        if self.name is not None:
            return re.search(self.name, path_of(variable)) is not None
        return self.predicate is not None and bool(self.predicate(variable))


def path_of(variable: Any) -> str:
    """Returns a variable's path, or its name if it has no path."""
    return variable.path if hasattr(variable, "path") else variable.name


def assign_routes(routes: Sequence[Route], variables: Sequence[Any]) -> list[int | None]:
    """Returns the index of each variable's first matching route, or None if there is none."""
    return [
        next((index for index, route in enumerate(routes) if route.matches(variable)), None)
        for variable in variables
    ]
