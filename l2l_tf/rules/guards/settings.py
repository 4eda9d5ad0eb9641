"""The settings of a guard and their checks."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from l2l_tf.checks import check_at_least, check_instance, check_one_of, check_positive
from l2l_tf.rules.hand_designed import SGD
from l2l_tf.rules.rule import Rule, StepInfo

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
        spending: the largest share of what is left that one step may take, or None.
        backtracking: whether the step size is halved where the loss did not decrease.
    """

    mode: str
    theta: float
    scope: str
    adapts: bool | None
    budget: float | None
    spending: float | None
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
        TypeError: the rule or the fallback is none, has a guard or can't be saved; or a flag is
            neither True nor False.
        ValueError: a setting is out of range, or does not go with the mode.
    """
    check_rules(rule, fallback)
    check_one_of("mode", settings.mode, MODES)
    check_at_least("theta", settings.theta, 0, "Give the radius relative to the fallback's delta.")
    check_one_of("scope", settings.scope, SCOPES)
    check_instance("adapts", settings.adapts, bool | None, "True or False", "Leave it out.")
    check_instance("backtracking", settings.backtracking, bool, "True or False", "Leave it out.")
    if settings.mode == "trust":
        _check_absent("backtracking", settings.backtracking, "mode='relative' or 'budget'", "trust")
    else:
        _check_descent(fallback, settings)
        _check_absent("adapts", bool(settings.adapts), "mode='trust'", settings.mode)
    if settings.mode != "budget":
        for name, value in (("budget", settings.budget), ("spending", settings.spending)):
            _check_absent(name, value is not None, "mode='budget'", settings.mode)
        return
    check_positive("budget", settings.budget, "Give the sum of squared norms to spend.")
    if settings.spending is not None:
        check_positive("spending", settings.spending, "Give a share of at most 1.")
        if settings.spending > 1:
            raise ValueError(
                f"spending must be at most 1. Received: spending={settings.spending!r}. Give the "
                "largest share of what is left that one step may take."
            )
    if not settings.is_joint:
        raise ValueError(
            "scope must be 'all' with mode='budget', which has one budget for all tensors. "
            f"Received: scope={settings.scope!r}. Leave it out."
        )


def check_rules(rule: Any, fallback: Any, is_watched: bool = False) -> None:
    """Checks the rule inside a guard and the one that it falls back to.

    Args:
        rule: the rule.
        fallback: the fallback.
        is_watched: whether the guard watches the loss (`LossGuarded`). Then the rule may be inside
            another guard, `Guarded`.

    Raises:
        TypeError: one of them is no rule, has parts or can't be saved; the rule is inside a guard;
            or the fallback is learned.
    """
    for argument, value in (("rule", rule), ("fallback", fallback)):
        is_rule = isinstance(value, Rule) and not isinstance(value, type)
        if is_rule and hasattr(value, "parts"):
            advice = (
                "Watch the loss of a model by l2l_tf.LossGuard, which takes rules with parts"
                if is_watched
                else "Guard a rule with parts by l2l_tf.rules.guarded, which guards each"
            )
            raise TypeError(
                f"{argument} must be a rule without parts. Received: {argument}={value!r}. "
                f"{advice}."
            )
        if not is_rule or not hasattr(value, "get_config"):
            raise TypeError(
                f"{argument} must be a rule, with a method get_config. "
                f"Received: {argument}={value!r}. Give, say, "
                + (
                    'l2l_tf.load_rule("mnist_rnnprop").'
                    if argument == "rule"
                    else "l2l_tf.rules.Adam(0.001)."
                )
            )
    if hasattr(rule, "fallback") and not (is_watched and hasattr(rule, "settings")):
        raise TypeError(
            f"rule must have no guard yet. Received: rule={rule!r} inside one. Guard the rule that "
            "is inside, its attribute `rule`."
        )
    if hasattr(fallback, "compute_dtype"):
        raise TypeError(
            "fallback must be a hand-designed rule, which is not trained. "
            f"Received: fallback={fallback!r}. Give, say, l2l_tf.rules.Adam(0.001)."
        )


def check_told(info: StepInfo, names: Sequence[str], by: str) -> None:
    """Checks that a step tells what a guard needs.

    Args:
        info: the step.
        names: what it must tell.
        by: the guard, in words.

    Raises:
        ValueError: something is missing.
    """
    if missing := [name for name in names if getattr(info, name) is None]:
        raise ValueError(
            f"info must tell {' and '.join(names)} to {by}. Received: a StepInfo without "
            f"{' and '.join(missing)}. Give them in each call."
        )


def _check_descent(fallback: Any, settings: GuardSettings) -> None:
    if not isinstance(fallback, SGD) or fallback.momentum:
        raise ValueError(
            f"fallback must be SGD without momentum with mode={settings.mode!r}, whose theorem is "
            f"about gradient descent. Received: fallback={fallback!r}. Give "
            "l2l_tf.rules.SGD(eta), or take mode='trust'."
        )
    rate = fallback.learning_rate
    is_one = not len(getattr(rate, "shape", ()))
    if settings.backtracking or is_one:
        check_positive("learning_rate", rate, "Give the fallback one number, eta.")
    if settings.theta >= 1:
        raise ValueError(
            f"theta must be below 1 with mode={settings.mode!r}. "
            f"Received: theta={settings.theta!r}. Take less, or mode='trust'."
        )


def _check_absent(argument: str, is_given: bool, mode: str, received: str) -> None:
    if is_given:
        raise ValueError(
            f"{argument} must go with {mode}. Received: mode={received!r}. Leave {argument} out, "
            "or change the mode."
        )
