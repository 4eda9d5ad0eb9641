"""The settings of a guard and their checks."""

import math
from typing import Any, NamedTuple

from l2l_tf.checks import check_at_least, check_one_of, check_positive
from l2l_tf.rules.hand_designed import SGD
from l2l_tf.rules.rule import Rule

MODES = ("trust", "relative", "budget")
SCOPES = ("tensor", "all")


class GuardSettings(NamedTuple):
    """The settings of a guard, as `Guarded` describes them.

    Attributes:
        mode: one of `MODES`.
        theta: the radius relative to the fallback's delta.
        scope: one of `SCOPES`.
        adapts: whether theta changes from step to step.
        budget: the sum of what all steps may add to their squared radius, or None.
        spending: the largest share of what is left that one step may take.
        backtracking: whether the step size is halved where the loss did not decrease.
    """

    mode: str
    theta: float
    scope: str
    adapts: bool | None
    budget: float | None
    spending: float
    backtracking: bool

    @property
    def is_joint(self) -> bool:
        """Whether norms are those of all tensors together."""
        return self.scope == "all"

    @property
    def is_adaptive(self) -> bool:
        """Whether theta changes: with "trust", unless it is zero or infinite, or must not."""
        is_between = 0 < self.theta < math.inf
        return self.mode == "trust" and is_between and self.adapts is not False

    def to_config(self) -> dict[str, Any]:
        """Returns the arguments of `Guarded` as JSON values, which know no infinity."""
        return self._asdict() | {"theta": "inf" if math.isinf(self.theta) else self.theta}


def check_guard(rule: Any, fallback: Any, settings: GuardSettings) -> None:
    """Checks the arguments of `Guarded`.

    Raises:
        TypeError: the rule or the fallback is none, or can't be saved.
        ValueError: a setting is out of range, or does not go with the mode.
    """
    check_rules(rule, fallback)
    check_one_of("mode", settings.mode, MODES)
    check_at_least("theta", settings.theta, 0, "Give the radius relative to the fallback's delta.")
    check_one_of("scope", settings.scope, SCOPES)
    if settings.adapts not in (None, True, False):
        raise TypeError(
            f"adapts must be True or False. Received: adapts={settings.adapts!r}. Leave it out."
        )
    if settings.mode == "trust":
        _check_absent("backtracking", settings.backtracking, "mode='relative' or 'budget'")
    else:
        _check_descent(fallback, settings)
        _check_absent("adapts", bool(settings.adapts), "mode='trust'")
    if settings.mode != "budget":
        _check_absent("budget", settings.budget is not None, "mode='budget'")
        return
    check_positive("budget", settings.budget, "Give the sum of squared norms to spend.")
    check_positive("spending", settings.spending, "Give a share of at most 1.")
    if settings.spending > 1 or not settings.is_joint:
        raise ValueError(
            "spending must be at most 1, and scope 'all', with mode='budget'. "
            f"Received: spending={settings.spending!r}, scope={settings.scope!r}. Leave them out."
        )


def check_rules(rule: Any, fallback: Any) -> None:
    """Checks the rule inside a guard and the one that it falls back to.

    Raises:
        TypeError: one of them is no rule, has parts or can't be saved; or the fallback is learned.
    """
    for argument, value in (("rule", rule), ("fallback", fallback)):
        is_rule = isinstance(value, Rule) and not isinstance(value, type)
        if not is_rule or not hasattr(value, "get_config") or hasattr(value, "parts"):
            raise TypeError(
                f"{argument} must be a rule without parts, with a method get_config. "
                f"Received: {argument}={value!r}. Guard a rule with parts by "
                "l2l_tf.rules.guarded, which guards each."
            )
    if hasattr(fallback, "compute_dtype"):
        raise TypeError(
            "fallback must be a hand-designed rule, which is not trained. "
            f"Received: fallback={fallback!r}. Give, say, l2l_tf.rules.Adam(0.001)."
        )


def _check_descent(fallback: Any, settings: GuardSettings) -> None:
    if not isinstance(fallback, SGD) or fallback.momentum:
        raise ValueError(
            f"fallback must be SGD without momentum with mode={settings.mode!r}, whose theorem is "
            f"about gradient descent. Received: fallback={fallback!r}. Give "
            "l2l_tf.rules.SGD(eta), or take mode='trust'."
        )
    if settings.backtracking:
        check_positive("learning_rate", fallback.learning_rate, "Give one number for backtracking.")
    if settings.theta >= 1:
        raise ValueError(
            f"theta must be below 1 with mode={settings.mode!r}. "
            f"Received: theta={settings.theta!r}. Take less, or mode='trust'."
        )


def _check_absent(argument: str, is_given: bool, mode: str) -> None:
    if is_given:
        raise ValueError(
            f"{argument} must go with {mode}. Received: another mode. Leave {argument} out, or "
            "change the mode."
        )
