"""Layout and checks of a LearnedOptimizer's saved state."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from l2l_tf.delivery.assignment import Assignment
from l2l_tf.delivery.plan import Options, Plan, Shapes
from l2l_tf.delivery.rule_config import WEIGHT_PREFIX, are_same_rules
from l2l_tf.rules.routing import Route
from l2l_tf.rules.rule import Rule

# The entries that describe the model variables and the rules of a state, and the assignment of
# variables to rules. Files of earlier versions have no assignment.
LAYOUT = "layout"
RULES = "rules"
ASSIGNMENT = "assignment"
# The entry for the size of past gradients (`GradientHistory.numbers`).
HISTORY = "gradient_history"
# The entry for the number of steps of the whole training, if it was known.
NUM_STEPS = "num_steps"


class SavedState:
    """A saved state, with variables by their position and weights of rules by their name.

    Args:
        store: the values that Keras has read from a file.
        owner: the name of the optimizer that will use the state.

    Attributes:
        values: the values by entry.
    """

    def __init__(self, store: Any, owner: str):
        self.values = {key: np.asarray(store[key]) for key in store.keys()}  # noqa: SIM118, no dict
        self._owner = owner

    @property
    def was_built(self) -> bool:
        """Whether the optimizer was built when it was saved."""
        return self.values[LAYOUT].size > 0

    @property
    def history(self) -> np.ndarray:
        """The size of past gradients, float64 `[3]`. Zeros if an earlier version saved the state.

        Raises:
            ValueError: the entry is not a valid history.
        """
        history = self.values.get(HISTORY, np.zeros(3))
        is_one = history.shape == (3,) and history.dtype.kind == "f"
        if not is_one or not np.isfinite(history).all() or (history < 0).any():
            raise mismatch(self._owner, "has an invalid history of gradients")
        return history

    @property
    def num_steps(self) -> np.ndarray | None:
        """The number of steps of the whole training, int64 `[]`, or None if it is not known.

        Raises:
            ValueError: the entry is not such a number.
        """
        number = self.values.get(NUM_STEPS)
        if number is not None and (number.shape or number.dtype.kind not in "iu" or number < 1):
            raise mismatch(self._owner, "has an invalid number of steps")
        return number

    def check_rules(self, rules: np.ndarray, weights: dict[str, Any]) -> None:
        """Raises ValueError if the state is not for these rules.

        Args:
            rules: the rules' descriptions (`rules_to_bytes`).
            weights: the rules' weights, by name.
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
        for name, value in self.values.items():
            # Checked now, since TensorFlow might reject such a value only after others are set.
            if (name.isdecimal() or name in weights) and not _is_numeric(value):
                raise mismatch(self._owner, f"has {value.dtype} where numbers should be")

    def assignment(self, routes: Sequence[Route]) -> tuple[Assignment | None, bool]:
        """Returns each variable's route, and whether the routes' criteria are the same as then.

        Without routes there is nothing to decide. The assignment is None if the file is too old to
        hold one.

        Raises:
            ValueError: the entry is damaged.
        """
        shapes = tuple(shape for _, shape in self._updated)
        if ASSIGNMENT not in self.values:
            return (None, False) if routes else (Assignment((None,) * len(shapes), shapes), True)
        try:
            assignment, was_asked = Assignment.from_bytes(self.values[ASSIGNMENT], routes)
        except ValueError as error:
            raise mismatch(self._owner, "has a damaged assignment of routes") from error
        if assignment.shapes != shapes:
            raise mismatch(self._owner, "has an assignment of other variables than its own")
        return assignment, was_asked

    def plan(self, rules: Sequence[Rule], assignment: Assignment, options: Options) -> Plan:
        """Returns an optimizer's plan for the variables that the state was saved for."""
        shapes = [shape for _, shape in self.layout]
        return Plan(rules, assignment, shapes, [position for position, _ in self._updated], options)

    @property
    def layout(self) -> list[tuple[int, tuple[int, ...]]]:
        """The group and the shape of each variable of the model. The group is -1 if it has none.

        Raises:
            ValueError: the entry is damaged.
        """
        numbers = self.values[LAYOUT]
        is_list = numbers.dtype.kind in "iu" and numbers.ndim == 1
        records = _parsed(numbers.tolist()) if is_list else None
        if records is None:
            raise mismatch(self._owner, "has a damaged layout")
        return records

    @property
    def grouped(self) -> list[tuple[int, tuple[int, ...]]]:
        """The layout of variables with a group. The others have no state to lose."""
        return [one for one in self.layout if one[0] >= 0]

    @property
    def _updated(self) -> list[tuple[int, tuple[int, ...]]]:
        """Position and shape of variables that rules update. Empty variables have no group."""
        return [
            (position, shape)
            for position, (group, shape) in enumerate(self.layout)
            if group >= 0 or 0 in shape
        ]

    def is_for(self, plan: Plan, own: Shapes) -> bool:
        """Returns whether the state is for the variables of a plan.

        Args:
            plan: an optimizer's plan.
            own: names and shapes of the optimizer's variables, without those of the plan.
        """
        try:
            self.check_shapes(plan.shapes_beside(own))
        except ValueError:
            return False
        return self.grouped == plan.grouped

    def check_shapes(self, shapes: Shapes) -> None:
        """Raises ValueError if the saved variables have other shapes, or another number.

        Args:
            shapes: the names and shapes of the built optimizer's variables.
        """
        self.check_count(len(shapes))
        for index, (name, wanted) in enumerate(shapes):
            if (shape := self.values[str(index)].shape) != wanted:
                raise mismatch(self._owner, f"has {shape} instead of {wanted} for {name}")

    def check_count(self, num_variables: int) -> None:
        """Raises ValueError if the state does not hold this number of variables."""
        saved = {name for name in self.values if name.isdecimal()}
        if len(saved) != num_variables:
            what = f"has {len(saved)} variables instead of {num_variables}"
            raise mismatch(self._owner, what)
        if saved != {str(index) for index in range(num_variables)}:
            raise mismatch(self._owner, "lacks some of its variables")


class PendingState:
    """A state that was loaded before the optimizer was built, for variables yet to be created.

    Args:
        saved: the state.
        assignment: the route of each variable. None if it does not apply to the current routes.
        num_reported: the number of reported skipped steps before the state was loaded.

    Attributes:
        saved: as given.
        assignment: as given.
        num_reported: as given.
    """

    def __init__(self, saved: SavedState, assignment: Assignment | None, num_reported: int):
        self.saved = saved
        self.assignment = assignment
        self.num_reported = num_reported
        self._replaced: list[tuple[Any, np.ndarray, np.ndarray]] = []

    def replace(self, variable: Any, value: np.ndarray) -> None:
        """Sets an existing variable to its saved value."""
        before = variable.numpy()
        variable.assign(value)
        self._replaced.append((variable, before, variable.numpy()))

    def put_back(self, strategy: tf.distribute.Strategy) -> None:
        """Restores all variables that have not been set since.

        It may be called while a step is being compiled, on one of several devices.
        """
        with tf.init_scope():
            for variable, before, after in self._replaced:
                for one in strategy.experimental_local_results(variable.value):
                    if one.numpy().tobytes() == after.tobytes():
                        one.assign(before)


def check_weights(owner: str, weights: Sequence[np.ndarray], variables: Sequence[Any]) -> None:
    """Raises ValueError unless there is one numeric array of the right shape for each variable."""
    what = None
    if len(weights) != len(variables):
        what = f"{len(weights)} of them for {len(variables)} variables"
    for weight, variable in zip(weights, variables, strict=False):
        if what is None and weight.shape != tuple(variable.shape):
            what = f"{weight.shape} instead of {tuple(variable.shape)} for {variable.name}"
        if what is None and not _is_numeric(weight):
            what = f"{weight.dtype} for {variable.name}"
    if what is not None:
        raise ValueError(
            "weights must hold an array of numbers for each of the optimizer's variables, of its "
            f"shape. Received: for the optimizer {owner!r}, {what}. Give those of one of the same "
            "rules, options and model variables."
        )


def mismatch(owner: str, what: str) -> ValueError:
    """Returns the error for a state that does not belong to the named optimizer."""
    return ValueError(
        "An optimizer's state must be of the same rules, options and model variables. "
        f"Received: for the optimizer {owner!r}, a state that {what}. Make model and "
        "optimizer as they were when it was saved; to go on without the state, load the model with "
        "compile=False, or weights before the model is compiled."
    )


def left_out(owner: str) -> str:
    """Returns the warning for a state that belongs to other model variables."""
    return (
        f"The state that was saved for the optimizer {owner!r} is left out: it belongs to other "
        "variables of the model than are trained now. To continue with it, train the same layers "
        "with the same shapes."
    )


def _parsed(numbers: list[int]) -> list[tuple[int, tuple[int, ...]]] | None:
    """Returns group and shape of each variable in a layout, or None if it is invalid."""
    records, start = [], 0
    while start < len(numbers):
        group, *rank_and_more = numbers[start : start + 2]
        if not rank_and_more or rank_and_more[0] < 0:
            return None
        stop = start + 2 + rank_and_more[0]
        shape = tuple(numbers[start + 2 : stop])
        if stop > len(numbers) or any(size < 0 for size in shape):
            return None
        records.append((group, shape))
        start = stop
    return records


def _is_numeric(value: np.ndarray) -> bool:
    return value.dtype.kind in "biuf" or value.dtype.name == "bfloat16"
