"""Lines of rules in figures, which stay apart in grey.

Learned rules have heavy lines, hand-designed rules light ones. Within each kind, colours differ in
lightness (CIE L*). So they stay apart in a grey print, and for readers who are blind to some
colours. Hand-designed rules differ in dashes besides, as do rules that share a colour.
"""

from collections.abc import Iterable
from typing import Any

LineStyle = dict[str, Any]
"""Colour, dashes and width of a line, as keyword arguments of matplotlib's `plot`."""

_HEAVY, _LIGHT = 2.4, 1.3
# CIE L* of 45, 76, 17 and 58. The first two, which most figures have, are far apart.
_LEARNED_COLOURS = ("#c82f29", "#76c5eb", "#491343", "#ce69a7")
_LEARNED_DASHES: tuple[Any, ...] = ("-", (0, (4, 0.6)), (0, (1.5, 0.6)))
# CIE L* of 8, 25, 40, 49 and 61.
_HAND_DESIGNED: dict[str, tuple[str, Any]] = {
    "momentum": ("#241404", (0, (5, 1, 1, 1, 1, 1))),
    "adam": ("#0d3685", "-"),
    "sgd": ("#036a61", ":"),
    "nag": ("#8f5ebe", "-."),
    "rmsprop": ("#cd852b", "--"),
}
# CIE L* of 71.
_OTHER_COLOUR = "#aeaeae"
_OTHER_DASHES: tuple[Any, ...] = ((0, (9, 2)), (0, (2, 1)), (0, (6, 2, 2, 2)), (0, (1, 3)))


def learned_style(index: int = 0) -> LineStyle:
    """Returns the style of one of a figure's learned rules. From the fifth, colours recur, dashed.

    Args:
        index: which learned rule it is, counting from 0.
    """
    rounds, colour = divmod(index, len(_LEARNED_COLOURS))
    return {
        "color": _LEARNED_COLOURS[colour],
        "linestyle": _LEARNED_DASHES[rounds % len(_LEARNED_DASHES)],
        "linewidth": _HEAVY,
    }


def hand_designed_style(rule: str, index: int = 0) -> LineStyle:
    """Returns the style of a hand-designed rule.

    Args:
        rule: its name. What follows a comma does not count: "nag, momentum 0.95" looks like "nag".
        index: if the rule has no style of its own, which of the figure's such rules it is, counting
            from 0. They are grey, and differ in dashes. From the fifth, dashes recur.
    """
    other = (_OTHER_COLOUR, _OTHER_DASHES[index % len(_OTHER_DASHES)])
    colour, dashes = _HAND_DESIGNED.get(_kind(rule), other)
    return {"color": colour, "linestyle": dashes, "linewidth": _LIGHT}


def published_style(rule: str, ours: LineStyle | None = None) -> LineStyle:
    """Returns the style of a published curve: thin and solid, in the colour of its rule.

    Args:
        rule: the rule's name. "lstm" has the colour of a figure's first learned rule, "lstm-sub"
            that of the second.
        ours: the style of our rule whose colour it takes instead, or None.
    """
    learned = {"lstm": 0, "lstm-sub": 1}
    if ours is None:
        ours = learned_style(learned[rule]) if rule in learned else hand_designed_style(rule)
    return {"color": ours["color"], "linewidth": 0.7, "alpha": 0.8}


def line_styles(rules: Iterable[tuple[str, bool]]) -> dict[tuple[str, bool], LineStyle]:
    """Returns the style of each rule of a figure.

    Args:
        rules: each rule's name and whether it is learned, in the order of the figure. Rules may
            recur, in several panels, say.
    """
    styles: dict[tuple[str, bool], LineStyle] = {}
    num_learned = num_others = 0
    for rule, learned in rules:
        if (rule, learned) in styles:
            continue
        if learned:
            styles[rule, learned] = learned_style(num_learned)
            num_learned += 1
        else:
            styles[rule, learned] = hand_designed_style(rule, num_others)
            num_others += _kind(rule) not in _HAND_DESIGNED
    return styles


def _kind(rule: str) -> str:
    return rule.partition(",")[0]
