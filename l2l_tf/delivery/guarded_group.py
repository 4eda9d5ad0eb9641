"""A guarded rule's share of an optimizer's joint update."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from l2l_tf.delivery.group import Group, Request, Step, times
from l2l_tf.rules.guards.adapting import adapted
from l2l_tf.rules.guards.clipping import Clipped
from l2l_tf.rules.guards.guarded import Guarded, Ledger


class GuardVariables(NamedTuple):
    """What a group keeps of its guard, as variables of the optimizer, `[]` each.

    Attributes:
        num_steps: int64, the number of steps.
        num_guarded: int64, the number of those in which a delta was cut.
        mean_share: float32, the mean share of the difference between the rule's delta and the
            fallback's that was cut.
        budget_left: float32, what is left of the budget.
        fallback_until: int64, the number of steps up to which the fallback alone is used.
        new_since: int64, the number of steps that were taken when the states were last new.
    """

    num_steps: Any
    num_guarded: Any
    mean_share: Any
    budget_left: Any
    fallback_until: Any
    new_since: Any


_DTYPES = GuardVariables("int64", "int64", "float32", "float32", "int64", "int64")


class GuardedGroup(Group):
    """Variables that a guarded rule updates, and the state of rule, fallback and guard.

    Args:
        guarded: the rule.
        rule: the group of the rule inside, whose state recovers.
        fallback: the group of the fallback, for the same variables. None for gradient descent.
        shapes: the shapes of the variables.

    Attributes:
        guard: what is kept of the guard. None before `add_state`.

    Raises:
        ValueError: the guard needs losses, which Keras does not give to an optimizer.
    """

    def __init__(
        self,
        guarded: Guarded,
        rule: Group,
        fallback: Group | None,
        shapes: Sequence[tuple[int, ...]],
    ):
        if guarded.settings.backtracking:
            raise ValueError(
                "backtracking must be left out in Keras, which gives an optimizer no losses. "
                f"Received: backtracking=True in {guarded!r}. Run the rule in a loop of your own."
            )
        self.positions = rule.positions
        self.guard: GuardVariables | None = None
        self._radius: list[Any] = []
        self._guarded = guarded
        # Of what differences from the fallback are kept, if the radius adapts.
        self._shapes = list(shapes) if guarded.settings.is_adaptive else []
        self._parts = [rule] if fallback is None else [rule, fallback]
        self.needs_num_steps = any(part.needs_num_steps for part in self._parts)

    def state_shapes(self, name: str) -> list[tuple[str, tuple[int, ...]]]:
        shapes = [
            shape
            for part, own in zip(self._parts, ("rule", "fallback"), strict=False)
            for shape in part.state_shapes(f"{name}_{own}")
        ]
        shapes += [(f"{name}_{field}", ()) for field in GuardVariables._fields]
        return shapes + [(f"{name}_{own}", shape) for own, shape in self._radius_shapes()]

    def _radius_shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        """Returns the names and shapes of the variables of a radius that adapts."""
        if not self._shapes:
            return []
        count = 1 if self._guarded.settings.is_joint else len(self._shapes)
        differences = [(f"difference_{index}", one) for index, one in enumerate(self._shapes)]
        return [("thetas", (count,)), *differences]

    def add_state(self, add_variable: Callable[..., Any], name: str) -> None:
        for part, own in zip(self._parts, ("rule", "fallback"), strict=False):
            part.add_state(add_variable, f"{name}_{own}")
        budget = self._guarded.settings.budget or 0.0
        self.guard = GuardVariables(
            *[
                add_variable(
                    shape=(),
                    initializer=_constant(budget if field == "budget_left" else 0),
                    dtype=dtype,
                    name=f"{name}_{field}",
                )
                for field, dtype in zip(GuardVariables._fields, _DTYPES, strict=True)
            ]
        )

        self._radius = [
            add_variable(
                shape=shape,
                initializer=_constant(self._guarded.settings.theta if own == "thetas" else 0),
                dtype="float32",
                name=f"{name}_{own}",
            )
            for own, shape in self._radius_shapes()
        ]

    @property
    def state(self) -> tuple[list[Any], list[Any], list[Any]]:
        """The variables of the rule and the fallback, of the guard, and of its radius."""
        own = [variable.value for variable in self.guard or ()]
        return [part.state for part in self._parts], own, [one.value for one in self._radius]

    def restart(self) -> None:
        for part in self._parts:
            part.restart()
        for variable, (own, _) in zip(self._radius, self._radius_shapes(), strict=True):
            first = self._guarded.settings.theta if own == "thetas" else 0
            variable.assign(_constant(first)(variable.shape, variable.dtype))

    def hand_over(self, num_taken: int, num_steps: int) -> None:
        """Has the fallback alone take the next steps, from a new state.

        Args:
            num_taken: the number of steps taken before.
            num_steps: the number of steps of the fallback.
        """
        self.restart()
        if self.guard is not None:
            self.guard.new_since.assign(num_taken)
            self.guard.fallback_until.assign(num_taken + num_steps)

    def step(self, request: Request, state: tuple[list[Any], list[Any], list[Any]]) -> Step:
        of_parts, own, radius = state
        values = GuardVariables(*[variable.read_value() for variable in own])
        new_since = tf.cast(values.new_since, request.num_taken.dtype)
        request = request._replace(age=request.num_taken - new_since)
        steps = [
            part.step(request, of_part) for part, of_part in zip(self._parts, of_parts, strict=True)
        ]
        present = [index for index, one in enumerate(request.gradients) if one is not None]
        proposals = [steps[0].deltas[index] for index in present]
        if len(steps) == 1:
            fallbacks = [self._descent(request, index) for index in present]
        else:
            fallbacks = [steps[1].deltas[index] for index in present]
        thetas = self._thetas(request, radius) if radius else None
        chosen = None if thetas is None else self._of_present(thetas, present)
        clipped = self._guarded.clipped(
            proposals, fallbacks, values.budget_left, num_batch_axes=0, thetas=chosen
        )
        clipped = _handed_over(
            clipped, fallbacks, tf.cast(request.num_taken, tf.int64) < values.fallback_until
        )
        after = Ledger(*values[:4]).after(clipped)
        deltas: list[tf.Tensor | None] = [None] * len(request.gradients)
        for index, delta in zip(present, clipped.deltas, strict=True):
            deltas[index] = delta

        def commit() -> None:
            for step in steps:
                step.commit()
            for variable, value in zip(own, after, strict=False):
                variable.assign(value)
            if radius:
                radius[0].assign(thetas)
                for index, delta, fallback in zip(present, clipped.deltas, fallbacks, strict=True):
                    difference = delta - tf.cast(fallback, delta.dtype)
                    radius[1 + index].assign(tf.cast(difference, tf.float32))

        def revert() -> None:
            for step in steps:
                step.revert()

        return Step(
            deltas=deltas,
            size=steps[0].size,
            are_gradients_finite=steps[0].are_gradients_finite,
            is_finite=tf.reduce_all([step.is_finite for step in steps]),
            commit=commit,
            revert=revert,
        )

    def _thetas(self, request: Request, radius: list[Any]) -> tf.Tensor:
        """Returns the radii of this step, `[K]`. That of a tensor without a gradient stays."""
        gradients = [
            tf.zeros(shape) if one is None else tf.cast(one, tf.float32)
            for one, shape in zip(request.gradients, self._shapes, strict=True)
        ]
        differences = [variable.read_value() for variable in radius[1:]]
        theta = self._guarded.settings.theta
        return adapted(radius[0].read_value(), gradients, differences, theta, 0)

    def _of_present(self, thetas: tf.Tensor, present: list[int]) -> tf.Tensor:
        return thetas if self._guarded.settings.is_joint else tf.gather(thetas, present)

    def _descent(self, request: Request, index: int) -> tf.Tensor:
        """Returns the delta of gradient descent, without a state."""
        gradient = tf.cast(request.gradients[index], self._guarded.compute_dtype)
        descent = self._guarded.descent
        rate = descent.learning_rate if descent else 0.0
        return times(-rate * gradient, request.learning_rate)


def _handed_over(
    clipped: Clipped, fallbacks: list[tf.Tensor], is_handed_over: tf.Tensor
) -> Clipped:
    """Returns the fallback's step where the loss guard has handed over to it."""
    return clipped._replace(
        deltas=[
            tf.where(is_handed_over, tf.cast(fallback, delta.dtype), delta)
            for delta, fallback in zip(clipped.deltas, fallbacks, strict=True)
        ],
        is_cut=clipped.is_cut | is_handed_over,
        share=tf.where(is_handed_over, 1.0, tf.cast(clipped.share, tf.float32)),
        spent=tf.where(is_handed_over, 0.0, tf.cast(clipped.spent, tf.float32)),
    )


def _constant(value: float) -> Callable[..., tf.Tensor]:
    return lambda shape, dtype=None: tf.cast(tf.fill(shape, value), dtype)
