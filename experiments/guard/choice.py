"""Which theta is the default: what each keeps of a rule's gain, and what each saves."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

# What the default must do in every case.
LEAST_SHARE = 0.9
LARGEST_RATIO = 1.02


class Numbers(NamedTuple):
    """What a theta does in the worst case.

    Attributes:
        theta: the radius relative to the fallback's delta.
        share: the least share of the rule's gain over its fallback that is kept where the rule is
            good. None if there is no such case.
        ratio: the largest ratio of final losses, guarded over fallback, where it is not. None if
            there is no such case.
        num_missing: the number of cases that were not run with it.
    """

    theta: float
    share: float | None
    ratio: float | None
    num_missing: int

    @property
    def is_enough(self) -> bool:
        """Whether it does what the default must do, as far as it was run."""
        if self.share is None or self.ratio is None:
            return False
        return self.share >= LEAST_SHARE and self.ratio <= LARGEST_RATIO


def share_kept(fallback: float, rule: float, guarded: float) -> float:
    """Returns the share of the rule's gain over its fallback that a guard keeps.

    Args:
        fallback: the final loss of the fallback.
        rule: that of the rule alone, which must be lower.
        guarded: that of the rule inside its guard.
    """
    return (fallback - guarded) / (fallback - rule)


def numbers_of(cases: Mapping[str, Mapping[str, Any]]) -> list[Numbers]:
    """Returns what each theta does in its worst case, in ascending order.

    Args:
        cases: the results of each case: "kind" ("cost" or "rescue"), and the final losses
            "fallback", "alone" and "guarded", the last by theta as text. None is an infinite loss.
    """
    thetas = sorted({float(theta) for case in cases.values() for theta in case["guarded"]})
    return [_of_theta(cases, theta) for theta in thetas]


def _of_theta(cases: Mapping[str, Mapping[str, Any]], theta: float) -> Numbers:
    name = f"{theta:g}"
    own = [case for case in cases.values() if name in case["guarded"]]
    losses = [
        (case["kind"], *map(_loss, (case["fallback"], case["alone"], case["guarded"][name])))
        for case in own
    ]
    shares = [share_kept(*three) for kind, *three in losses if kind == "cost"]
    ratios = [guarded / fallback for kind, fallback, _, guarded in losses if kind == "rescue"]
    return Numbers(
        theta, min(shares, default=None), max(ratios, default=None), len(cases) - len(own)
    )


def _loss(number: float | None) -> float:
    return math.inf if number is None else number
