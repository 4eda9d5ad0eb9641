"""What is saved of a LearnedOptimizer beside its variables, and what a saved state must be."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from l2l_tf.delivery.group_update import Group
from l2l_tf.delivery.rule_config import WEIGHT_PREFIX, are_same_rules

# The entries that say for which variables of a model and of which rules a state is.
LAYOUT = "layout"
RULES = "rules"


class SavedState:
    """A state that was saved: variables by their position, weights of rules by their name.

    Args:
        store: what Keras read from a file.
        owner: the name of the optimizer that it is to be the state of.

    Attributes:
        values: by entry.
    """

    def __init__(self, store: Any, owner: str):
        self.values = {key: np.asarray(store[key]) for key in store.keys()}  # noqa: SIM118, no dict
        self._owner = owner

    @property
    def was_built(self) -> bool:
        """Whether the optimizer knew its model's variables when it was saved."""
        return self.values[LAYOUT].size > 0

    def check_rules(self, rules: np.ndarray, weights: dict[str, Any]) -> None:
        """Raises ValueError if it is not one of these rules.

        Args:
            rules: what they are (`rules_to_bytes`).
            weights: by their names.
        """
        if not {LAYOUT, RULES} <= self.values.keys():
            raise mismatch(self._owner, "is that of another kind of optimizer")
        shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
        saved_shapes = {
            name: value.shape
            for name, value in self.values.items()
            if name.startswith(WEIGHT_PREFIX)
        }
        if saved_shapes != shapes or not are_same_rules(self.values[RULES], rules):
            raise mismatch(self._owner, "is that of other rules")

    def check_variables(self, variables: Sequence[Any], layout: np.ndarray) -> None:
        """Raises ValueError if it is not one of these variables.

        Args:
            variables: of the optimizer, once it is built.
            layout: `layout_of` the model's.
        """
        self.check_count(len(variables))
        for index, variable in enumerate(variables):
            shape, wanted = self.values[str(index)].shape, tuple(variable.shape)
            if shape != wanted:
                raise mismatch(self._owner, f"has {shape} instead of {wanted} for {variable.name}")
        if not np.array_equal(self.values[LAYOUT], layout):
            raise mismatch(self._owner, "is for variables of other shapes, or in another order")

    def check_count(self, num_variables: int) -> None:
        """Raises ValueError if it is not one of so many variables of the optimizer."""
        count = sum(name.isdecimal() for name in self.values)
        if count != num_variables:
            raise mismatch(self._owner, f"has {count} variables instead of {num_variables}")


def layout_of(groups: Sequence[Group], variables: Sequence[Any]) -> np.ndarray:
    """Returns group, rank and dimensions of each variable of a model, one after the other: int64.

    The group of a variable that is in none is -1.
    """
    group_of = {
        position: index for index, group in enumerate(groups) for position in group.positions
    }
    numbers: list[int] = []
    for position, variable in enumerate(variables):
        numbers += [group_of.get(position, -1), len(variable.shape), *variable.shape]
    return np.array(numbers, np.int64)


def mismatch(owner: str, what: str) -> ValueError:
    """Returns the error of a state that is not one of the optimizer of that name."""
    return ValueError(
        "An optimizer's state must be of the same rules, options and model variables. "
        f"Received: for the optimizer {owner!r}, a state that {what}. Make model and "
        "optimizer as they were when it was saved, or load weights into the model before it is "
        "compiled."
    )
