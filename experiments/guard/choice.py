"""Which theta is the default: what each keeps of a rule's gain, and what each saves."""

from collections.abc import Mapping, Sequence
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
    """

    theta: float
    share: float | None
    ratio: float | None

    @property
    def is_enough(self) -> bool:
        """Whether it does what the default must do."""
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


def numbers_of(cases: Mapping[str, Mapping[str, Any]], thetas: Sequence[float]) -> list[Numbers]:
    """Returns what each theta does in its worst case.

    Args:
        cases: the results of each case: "kind" ("cost" or "rescue"), and the final losses
            "fallback", "alone" and "guarded", the last by theta as text.
        thetas: the thetas that all cases have.
    """
    numbers = []
    for theta in thetas:
        shares = [
            share_kept(case["fallback"], case["alone"], case["guarded"][f"{theta:g}"])
            for case in cases.values()
            if case["kind"] == "cost"
        ]
        ratios = [
            case["guarded"][f"{theta:g}"] / case["fallback"]
            for case in cases.values()
            if case["kind"] == "rescue"
        ]
        numbers.append(Numbers(theta, min(shares, default=None), max(ratios, default=None)))
    return numbers


def shared_thetas(cases: Mapping[str, Mapping[str, Any]]) -> list[float]:
    """Returns the thetas that all cases have, ascending."""
    by_case = [{float(theta) for theta in case["guarded"]} for case in cases.values()]
    return sorted(set.intersection(*by_case)) if by_case else []
