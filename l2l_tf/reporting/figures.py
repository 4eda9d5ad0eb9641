"""Figures of evaluations."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from l2l_tf.files import expanded, written_whole
from l2l_tf.optional import missing
from l2l_tf.reporting.line_styles import LineStyle, line_styles, published_style
from l2l_tf.reporting.results import Row

try:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties
except ModuleNotFoundError as error:
    raise missing("matplotlib", "figures") from error

# What a legend says of published curves.
_PUBLISHED = "thin: Andrychowicz et al. 2016"
# The height of a title, and of ticks with the label of their axis, in inches.
_LABELS_HEIGHT = 0.85
# From an axis down to a legend, past ticks and the axis's label, in points.
_LEGEND_DISTANCE = 36
# Long enough for the longest dashes, in units of the font size.
_HANDLE_LENGTH = 2.8


class ReferenceCurve(NamedTuple):
    """A published curve, drawn thin behind ours.

    Attributes:
        rule: the rule's name, which determines the colour; "lstm" has that of the figure's first
            learned rule, "lstm-sub" that of the second.
        steps: the number of steps taken at each point.
        losses: the losses at those iterates.
        ours: the name of the learned rule whose colour it has, where the figure shows that rule.
    """

    rule: str
    steps: Sequence[float]
    losses: Sequence[float]
    ours: str | None = None


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
    noise of minibatches would hide all lines but one. If several panels have the same labels, one
    legend stands to their right. Otherwise each panel has one below it.

    Args:
        path: the file to write. Its folder is created if missing.
        panels: the parts of the figure, from left to right.
        unit: the label of the horizontal axis: the distance between two points of a curve.
        quantity: the label of the vertical axis.
    """
    figure = _new_figure(len(panels))
    styles = _styles(row for panel in panels for row in panel.rows)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for reference in panel.references:
            steps, losses = np.array(reference.steps), np.array(reference.losses)
            shown = steps >= panel.first_step
            style = _reference_style(reference, styles)
            axes.plot(steps[shown], losses[shown], **style)
        for row in panel.rows:
            curve = _drawable(row["curve"])[panel.first_step :]
            steps = panel.first_step + np.arange(len(curve))
            style = styles[row["rule"], row["learned"]]
            axes.plot(_thinned(steps), _thinned(curve), label=_label(row), **style)
        _finish(axes, panel, unit, quantity)
    _add_legends(figure)
    _save(figure, path)


def _reference_style(
    reference: ReferenceCurve, styles: Mapping[tuple[str, bool], LineStyle]
) -> LineStyle:
    ours = None if reference.ours is None else styles.get((reference.ours, True))
    return published_style(reference.rule, ours)


def draw_widths(path: str | Path, panels: Sequence[WidthPanel]) -> None:
    """Draws each rule's final loss, on a logarithmic axis, against the hidden units, as a PNG.

    Args:
        path: the file to write. Its folder is created if missing.
        panels: the parts of the figure, from left to right.
    """
    figure = _new_figure(len(panels))
    styles = _styles(row for panel in panels for rows in panel.rows.values() for row in rows)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for reference in panel.references:
            style = _reference_style(reference, styles)
            axes.plot(reference.steps, reference.losses, marker="o", ms=2, **style)
        for rows in zip(*panel.rows.values(), strict=True):
            losses = _drawable([row["final_loss"] for row in rows])
            style = styles[rows[0]["rule"], rows[0]["learned"]]
            axes.plot(list(panel.rows), losses, marker="o", ms=4, label=rows[0]["rule"], **style)
        _finish(axes, panel, "hidden units of a layer", "final loss")
    _add_legends(figure)
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


def legends_below(figure: Figure, fontsize: str = "small") -> None:
    """Gives each of a figure's axes with labels a legend below them, where it covers nothing.

    A legend has as many columns, up to three, as fit below its axes. The figure grows until axes
    have two thirds of its height.

    Args:
        figure: a figure with a constrained layout, whose axes are parts of one grid.
        fontsize: the size of the legends' labels.
    """
    renderer = FigureCanvasAgg(figure).get_renderer()
    height = figure.get_figheight()
    for axes in figure.axes:
        place = axes.get_subplotspec()
        if place is None or not axes.get_legend_handles_labels()[1]:
            continue
        num_rows, num_columns, _, _ = place.get_geometry()
        for num_legend_columns in (3, 2, 1):
            legend = axes.legend(
                loc="upper center",
                bbox_to_anchor=(0.5, 0),
                # In units of the font size: below ticks and the label of the axis.
                borderaxespad=_LEGEND_DISTANCE / FontProperties(size=fontsize).get_size_in_points(),
                ncols=num_legend_columns,
                fontsize=fontsize,
                frameon=False,
                columnspacing=1,
                handlelength=_HANDLE_LENGTH,
            )
            extent = legend.get_window_extent(renderer)
            # A tenth is for the label of the vertical axis.
            if extent.width <= 0.9 * figure.bbox.width / num_columns:
                break
        height = max(height, num_rows * 3 * (extent.height / figure.dpi + _LABELS_HEIGHT))
    figure.set_figheight(height)


def _thinned(values: np.ndarray) -> np.ndarray:
    if len(values) <= 500:
        return values
    return np.array([part.mean() for part in np.array_split(values, 100)])


def _styles(rows: Iterable[Row]) -> dict[tuple[str, bool], LineStyle]:
    """Returns the line style of each rule, by its name and whether it is learned."""
    return line_styles((row["rule"], row["learned"]) for row in rows)


def _drawable(losses: Sequence[float | None]) -> np.ndarray:
    """Returns losses with NaN in place of values that are not finite, or null in a file."""
    values = np.array(losses, float)
    values[~np.isfinite(values)] = np.nan
    return values


def _label(row: Row) -> str:
    """Returns a rule's name, with its rate if that was tuned."""
    rate = row["learning_rate"]
    return row["rule"] if rate is None else f"{row['rule']}, rate {rate:.3g}"


def _new_figure(num_panels: int) -> Figure:
    width = 6.4 if num_panels == 1 else 4.8 * num_panels
    return Figure(figsize=(width, 5.4), dpi=150, layout="constrained")


def _finish(axes: Axes, panel: Panel | WidthPanel, xlabel: str, ylabel: str) -> None:
    if panel.references:
        axes.plot([], [], color="0.4", linewidth=0.7, label=_PUBLISHED)
    axes.set(yscale="log", xlabel=xlabel, ylabel=ylabel, title=panel.title)
    axes.grid(which="both", alpha=0.2)


def _add_legends(figure: Figure) -> None:
    """Adds a legend right of all panels if one says all, or else one below each."""
    handles: dict[str, Artist] = {}
    rules = []
    for axes in figure.axes:
        of_axes = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        handles |= of_axes
        rules.append(of_axes.keys() - {_PUBLISHED})
    if len(rules) == 1 or any(other != rules[0] for other in rules):
        legends_below(figure)
        return
    # Published curves come last.
    labels = sorted(handles, key=lambda label: label == _PUBLISHED)
    legend = figure.legend(
        [handles[label] for label in labels],
        labels,
        loc="outside right center",
        fontsize="small",
        frameon=False,
        handlelength=_HANDLE_LENGTH,
    )
    # Panels keep their size.
    width = legend.get_window_extent(FigureCanvasAgg(figure).get_renderer()).width / figure.dpi
    figure.set_figwidth(figure.get_figwidth() + width)


def _save(figure: Figure, path: str | Path) -> None:
    with written_whole(expanded(path)) as partial:
        figure.savefig(partial, format="png")
