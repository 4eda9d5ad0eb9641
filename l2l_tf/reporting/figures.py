"""Figures of an evaluation."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from l2l_tf.reporting.results import Row

# The colour of each hand-designed rule, the same in every figure.
_COLOURS = {"adam": "C0", "rmsprop": "C1", "sgd": "C2", "nag": "C4", "momentum": "C5"}
_OTHER_COLOUR = "C7"
_LEARNED_COLOURS = ("C3", "C6", "C8", "C9")


class ReferenceCurve(NamedTuple):
    """A published curve, drawn thin behind ours.

    Attributes:
        rule: the rule's name, which gives the colour; "lstm" takes that of learned rules.
        steps: the number of steps taken at each point.
        losses: the losses at those iterates.
    """

    rule: str
    steps: Sequence[float]
    losses: Sequence[float]


def draw_curves(
    path: str | Path,
    rows: Sequence[Row],
    title: str,
    references: Sequence[ReferenceCurve] = (),
    unit: str = "step",
) -> None:
    """Draws the loss of each rule, on a logarithmic axis, against the step, as a PNG.

    Args:
        path: the file to write; its folder is made if missing.
        rows: what `result_row` returned, one for each rule.
        title: the title.
        references: published curves of the same problem.
        unit: what lies between one point of a curve and the next.
    """
    figure = Figure(figsize=(6.4, 4.4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for reference in references:
        colour = (_COLOURS | {"lstm": _LEARNED_COLOURS[0]}).get(reference.rule, _OTHER_COLOUR)
        axes.plot(reference.steps, reference.losses, color=colour, linewidth=0.7, alpha=0.55)
    learned_colours = iter(_LEARNED_COLOURS * (1 + len(rows) // len(_LEARNED_COLOURS)))
    for row in rows:
        own_colour = _COLOURS.get(row["rule"], _OTHER_COLOUR)
        colour = next(learned_colours) if row["learned"] else own_colour
        curve = np.array(row["curve"])
        curve[~np.isfinite(curve)] = np.nan
        label = row["rule"] if row["learning_rate"] is None else _label_with_rate(row)
        axes.plot(curve, color=colour, linewidth=2.2 if row["learned"] else 1.4, label=label)
    if references:
        axes.plot([], [], color="0.4", linewidth=0.7, label="thin: Andrychowicz et al. 2016")
    axes.set(yscale="log", xlabel=unit, ylabel="loss", title=title)
    axes.grid(which="both", alpha=0.2)
    axes.legend()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    figure.savefig(partial, format="png")
    partial.replace(path)


def _label_with_rate(row: Row) -> str:
    return f"{row['rule']}, rate {row['learning_rate']:.3g}"
