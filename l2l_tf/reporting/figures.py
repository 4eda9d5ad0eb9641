"""Figures of evaluations."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from l2l_tf.files import expanded, written_whole
from l2l_tf.optional import missing
from l2l_tf.reporting.results import Row

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ModuleNotFoundError as error:
    raise missing("matplotlib", "figures") from error

# Colour and dashes of each hand-designed rule, the same in every figure. Dashes tell lines apart in
# black-and-white prints.
_COLOURS = {"adam": "C0", "rmsprop": "C1", "sgd": "C2", "nag": "C4", "momentum": "C5"}
_DASHES: dict[str, Any] = {
    "adam": "-",
    "rmsprop": "--",
    "sgd": ":",
    "nag": "-.",
    "momentum": (0, (5, 1, 1, 1, 1, 1)),
}
_OTHER_COLOUR = "C7"
_LEARNED_COLOURS = ("C3", "C6", "C8", "C9")


class ReferenceCurve(NamedTuple):
    """A published curve, drawn thin behind ours.

    Attributes:
        rule: the rule's name, which determines the colour; "lstm" has that of learned rules.
        steps: the number of steps taken at each point.
        losses: the losses at those iterates.
    """

    rule: str
    steps: Sequence[float]
    losses: Sequence[float]


class Panel(NamedTuple):
    """The curves of one comparison, as one part of a figure.

    Attributes:
        title: its title.
        rows: the results of `result_row`, one for each rule.
        references: published curves of the same problem.
        first_step: the first step to show.
    """

    title: str
    rows: Sequence[Row]
    references: Sequence[ReferenceCurve] = ()
    first_step: int = 0


class WidthPanel(NamedTuple):
    """Final losses on networks of several widths, as one part of a figure.

    Attributes:
        title: its title.
        rows: the results of `result_row` by width, with the same rules in the same order for each.
        references: published points, with widths in place of steps.
    """

    title: str
    rows: Mapping[int, Sequence[Row]]
    references: Sequence[ReferenceCurve] = ()


def draw_curves(
    path: str | Path, panels: Sequence[Panel], unit: str = "step", quantity: str = "loss"
) -> None:
    """Draws the loss of each rule, on a logarithmic axis, against the step, as a PNG.

    If there are more than 500 steps, 100 averages over neighbouring steps are drawn. Otherwise the
    noise of minibatches would hide all lines but one.

    Args:
        path: the file to write. Its folder is created if missing.
        panels: the parts of the figure, from left to right.
        unit: the label of the horizontal axis: the distance between two points of a curve.
        quantity: the label of the vertical axis.
    """
    figure = _new_figure(len(panels))
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for reference in panel.references:
            steps, losses = np.array(reference.steps), np.array(reference.losses)
            shown = steps >= panel.first_step
            axes.plot(steps[shown], losses[shown], **_thin(reference))
        for row, style in zip(panel.rows, _styles(panel.rows), strict=True):
            curve = _drawable(row["curve"])[panel.first_step :]
            label = row["rule"] if row["learning_rate"] is None else _label_with_rate(row)
            steps = panel.first_step + np.arange(len(curve))
            axes.plot(_thinned(steps), _thinned(curve), label=label, **style)
        _finish(axes, panel, unit, quantity)
    _save(figure, path)


def draw_widths(path: str | Path, panels: Sequence[WidthPanel]) -> None:
    """Draws each rule's final loss, on a logarithmic axis, against the hidden units, as a PNG.

    Args:
        path: the file to write. Its folder is created if missing.
        panels: the parts of the figure, from left to right.
    """
    figure = _new_figure(len(panels))
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for reference in panel.references:
            axes.plot(reference.steps, reference.losses, marker="o", ms=2, **_thin(reference))
        rules = list(zip(*panel.rows.values(), strict=True))
        for rows, style in zip(rules, _styles([rows[0] for rows in rules]), strict=True):
            losses = _drawable([row["final_loss"] for row in rows])
            axes.plot(list(panel.rows), losses, marker="o", ms=4, label=rows[0]["rule"], **style)
        _finish(axes, panel, "hidden units of a layer", "final loss")
    _save(figure, path)


def draw_pictures(
    path: str | Path, headings: Sequence[str], rows: Sequence[Sequence[np.ndarray]]
) -> None:
    """Draws pictures in a grid, without interpolation or axes, as a PNG.

    Args:
        path: the file to write. Its folder is created if missing.
        headings: the heading of each column.
        rows: the pictures of each row, one for each column, uint8 `[h, w, 3]`.
    """
    figure = Figure(
        figsize=(1.6 * len(headings), 1.6 * len(rows) + 0.3), dpi=150, layout="constrained"
    )
    grid = figure.subplots(len(rows), len(headings), squeeze=False)
    for line, pictures in zip(grid, rows, strict=True):
        for axes, picture in zip(line, pictures, strict=True):
            axes.imshow(picture, interpolation="nearest")
            axes.set_axis_off()
    for axes, heading in zip(grid[0], headings, strict=True):
        axes.set_title(heading, fontsize=7)
    _save(figure, path)


def _thinned(values: np.ndarray) -> np.ndarray:
    if len(values) <= 500:
        return values
    return np.array([part.mean() for part in np.array_split(values, 100)])


def _styles(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Returns the line style of each rule."""
    learned_colours = itertools.cycle(_LEARNED_COLOURS)
    return [
        {"color": next(learned_colours), "linewidth": 2.2}
        if row["learned"]
        else {
            "color": _COLOURS.get(row["rule"], _OTHER_COLOUR),
            "linestyle": _DASHES.get(row["rule"], "-"),
            "linewidth": 1.4,
        }
        for row in rows
    ]


def _thin(reference: ReferenceCurve) -> dict[str, Any]:
    colour = (_COLOURS | {"lstm": _LEARNED_COLOURS[0]}).get(reference.rule, _OTHER_COLOUR)
    return {"color": colour, "linewidth": 0.7, "alpha": 0.55}


def _drawable(losses: Sequence[float | None]) -> np.ndarray:
    """Returns losses with NaN in place of values that are not finite, or null in a file."""
    values = np.array(losses, float)
    values[~np.isfinite(values)] = np.nan
    return values


def _label_with_rate(row: Row) -> str:
    return f"{row['rule']}, rate {row['learning_rate']:.3g}"


def _new_figure(num_panels: int) -> Figure:
    width = 6.4 if num_panels == 1 else 4.8 * num_panels
    return Figure(figsize=(width, 5.4), dpi=150, layout="constrained")


def _finish(axes: Axes, panel: Panel | WidthPanel, xlabel: str, ylabel: str) -> None:
    if panel.references:
        axes.plot([], [], color="0.4", linewidth=0.7, label="thin: Andrychowicz et al. 2016")
    axes.set(yscale="log", xlabel=xlabel, ylabel=ylabel, title=panel.title)
    axes.grid(which="both", alpha=0.2)
    # Below the axes, where it covers no curves.
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, fontsize="small", frameon=False
    )


def _save(figure: Figure, path: str | Path) -> None:
    with written_whole(expanded(path)) as partial:
        figure.savefig(partial, format="png")
