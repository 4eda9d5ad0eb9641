"""Figures of the suite: a performance profile, losses of each task, and decisions of a rule."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from experiments.general.scores import Table, contenders_of
from experiments.harness.keras_optimizers import BASELINES
from l2l_tf.files import written_whole
from l2l_tf.reporting.figures import legends_below
from l2l_tf.reporting.line_styles import LineStyle, hand_designed_style, learned_style

# The largest factor in a profile.
MAX_FACTOR = 4.0
_NUM_COLUMNS = 3
_NUM_DECISION_COLUMNS = 4
# The colour of each tuned optimizer is that of a hand-designed rule. Dashes tell relatives apart.
_STYLES: dict[str, LineStyle] = {
    name: hand_designed_style(rule) | {"linestyle": dashes}
    for name, rule, dashes in (
        ("adam", "adam", "-"),
        ("adamw_cosine", "adam", "--"),
        ("adam_cosine", "adam", ":"),
        ("nag_cosine", "nag", "-."),
        ("nag95_cosine", "nag", ":"),
        ("muon_cosine", "sgd", "-"),
        ("lion_cosine", "rmsprop", "--"),
        ("schedule_free_adamw", "momentum", (0, (5, 1, 1, 1, 1, 1))),
    )
}


def draw_profile(path: Path, losses: Mapping[str, Mapping[str, float]], title: str) -> None:
    """Draws on which share of tasks each contender's loss is within a factor of the best, as a PNG.

    The method is that of Dolan and Moré 2002 (arXiv cs/0102001), with losses in place of times.

    Args:
        path: the file to write.
        losses: losses by task and contender. Tasks that a contender lacks do not count for it.
        title: the figure's title.
    """
    figure = Figure(figsize=(6.4, 5.4), dpi=150, layout="constrained")
    axes = figure.subplots()
    names = list(dict.fromkeys(name for of_task in losses.values() for name in of_task))
    for name, style in zip(names, _styles(names), strict=True):
        factors, shares = profile(losses, name)
        axes.step(factors, shares, where="post", label=name, **style)
    axes.set(
        xscale="log",
        xlim=(1, MAX_FACTOR),
        ylim=(0, 1.02),
        xlabel="factor on the best loss of the task",
        ylabel="share of tasks within the factor",
        title=title,
    )
    ticks = [1, 1.1, 1.25, 1.5, 2, 3, 4]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.grid(alpha=0.2)
    legends_below(figure)
    _save(figure, path)


def profile(
    losses: Mapping[str, Mapping[str, float]], name: str
) -> tuple[list[float], list[float]]:
    """Returns factors, ascending from 1 to `MAX_FACTOR`, and the share of tasks within each."""
    factors = sorted(
        of_task[name] / min(of_task.values()) if math.isfinite(of_task[name]) else math.inf
        for of_task in losses.values()
        if name in of_task
    )
    edges = [1.0, *(factor for factor in factors if 1 < factor < MAX_FACTOR), MAX_FACTOR]
    shares = [sum(factor <= edge for factor in factors) / len(factors) for edge in edges]
    return edges, shares


def draw_losses(
    path: Path,
    table: Table,
    title: str,
    step_times: Mapping[str, Mapping[str, float]] | None = None,
) -> None:
    """Draws each contender's loss on logarithmic axes against the step, for each task, as a PNG.

    Args:
        path: the file to write.
        table: the results.
        title: the figure's title.
        step_times: seconds of a step, by task and contender, to draw losses against time.
    """
    num_rows = -(-len(table) // _NUM_COLUMNS)
    size = (4.2 * _NUM_COLUMNS, 3.1 * num_rows + 1)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    grid = list(figure.subplots(num_rows, _NUM_COLUMNS, squeeze=False).flat)
    names = contenders_of(table)
    styles = dict(zip(names, _styles(names), strict=True))
    handles: dict[str, Any] = {}
    for axes, (task, results) in zip(grid, table.items(), strict=False):
        for name, result in results.items():
            steps, losses = result.curve
            drawable = np.where(np.isfinite(losses), losses, np.nan)
            seconds = 1 if step_times is None else step_times[task][name]
            (handles[name],) = axes.plot(np.multiply(steps, seconds), drawable, **styles[name])
        label = "step" if step_times is None else "seconds"
        axes.set(xscale="log", yscale="log", xlabel=label, ylabel="training loss", title=task)
        axes.grid(which="both", alpha=0.2)
    for axes in grid[len(table) :]:
        axes.set_axis_off()
    figure.suptitle(title)
    labels = [name for name in names if name in handles]
    # Below all axes, where it covers no curves.
    figure.legend(
        [handles[name] for name in labels],
        labels,
        loc="outside lower center",
        ncols=5,
        frameon=False,
    )
    _save(figure, path)


def draw_decisions(path: Path, decisions: Mapping[str, Any], title: str) -> None:
    """Draws what a rule's controller decides against the step, with a line for each tensor.

    Each output has its axes. The colour of a line is the tensor's position in the network. Lines of
    vectors are dashed.

    Args:
        path: the file to write.
        decisions: what `experiments.general.explain.explain` returns.
        title: the figure's title.
    """
    tensors = {name: one for name, one in decisions["tensors"].items() if "mix" in one}
    panels: dict[str, dict[str, list[float]]] = {}
    for name, one in tensors.items():
        for kind, label in (("mix", "share of"), ("orthogonalized", "orthogonalised:")):
            for what, values in one.get(kind, {}).items():
                panels.setdefault(f"{label} {what}", {})[name] = values
    panels["log of the rate / the untrained rule's"] = {
        n: one["log_rate"] for n, one in tensors.items()
    }
    panels["decay"] = {n: one["decay"] for n, one in tensors.items()}
    panels["pace"] = {n: one["pace"] for n, one in tensors.items()}
    num_rows = -(-len(panels) // _NUM_DECISION_COLUMNS)
    num_lines = -(-len(tensors) // _NUM_DECISION_COLUMNS)
    size = (3.4 * _NUM_DECISION_COLUMNS, 2.7 * num_rows + 0.22 * num_lines + 0.5)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    grid = list(figure.subplots(num_rows, _NUM_DECISION_COLUMNS, squeeze=False).flat)
    colours = colormaps["viridis"](np.linspace(0, 0.95, len(tensors)))
    handles: dict[str, Any] = {}
    for axes, (label, lines) in zip(grid, panels.items(), strict=False):
        for colour, (name, one) in zip(colours, tensors.items(), strict=True):
            if name in lines:
                dashes = "-" if len(one["shape"]) > 1 else "--"
                (handles[name],) = axes.plot(
                    decisions["steps"], lines[name], color=colour, linestyle=dashes, linewidth=1.1
                )
        axes.set(xlabel="step", title=label)
        axes.title.set_fontsize("medium")
        axes.grid(alpha=0.2)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    figure.suptitle(title)
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=_NUM_DECISION_COLUMNS,
        fontsize="x-small",
        frameon=False,
    )
    _save(figure, path)


def _styles(names: Sequence[str]) -> list[LineStyle]:
    rules = [name for name in names if name not in BASELINES]
    return [
        _STYLES[name] if name in BASELINES else learned_style(rules.index(name)) for name in names
    ]


def _save(figure: Figure, path: Path) -> None:
    with written_whole(path) as partial:
        figure.savefig(partial, format="png")
