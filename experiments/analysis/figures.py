"""One figure for each probe, with a panel for each rule and problem."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from experiments.analysis.findings import Findings
from l2l_tf.files import written_whole
from l2l_tf.reporting.figures import legends_below
from l2l_tf.reporting.line_styles import hand_designed_style, learned_style

_NUM_COLUMNS = 3
_DASHES = ("-", "--", "-.", ":")


def draw_all(folder: Path, found: Sequence[Findings]) -> list[str]:
    """Draws each probe for all findings that have it, as PNG; returns the files' names."""
    names = []
    for name, draw in _FIGURES.items():
        drawable = [one for one in found if one.probes or name in _OF_RECORDS]
        if drawable:
            _draw(folder / f"{name}.png", drawable, draw)
            names.append(f"{name}.png")
    return names


def _draw(path: Path, found: Sequence[Findings], draw: Callable[[Any, Findings], None]) -> None:
    columns = min(_NUM_COLUMNS, len(found))
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.7 * rows + 0.4), dpi=120, layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, one in zip(grid, found, strict=False):
        draw(axes, one)
        axes.set_title(one.label, fontsize="medium")
        axes.grid(alpha=0.2)
    for axes in grid[len(found) :]:
        axes.set_axis_off()
    legends_below(figure, "x-small")
    with written_whole(path) as partial:
        figure.savefig(partial, format="png")


def _of(found: Findings, name: str) -> Any:
    return (found.probes or {})[name]


def _graded_colours(count: int) -> Any:
    return colormaps["viridis"](np.linspace(0, 0.9, count))


def _update_function(axes: Any, found: Findings) -> None:
    function = _of(found, "update_function")
    middle = len(function.steps) // 2
    relative = function.gradients[:, 0] / function.units[0]
    for name, others in function.others.items():
        style = hand_designed_style(name) | {"linewidth": 1}
        axes.plot(relative, np.median(others[middle], axis=1), label=name, **style)
    own = np.median(function.deltas, axis=2)
    for step, deltas, colour in zip(
        function.steps, own, _graded_colours(len(function.steps)), strict=True
    ):
        axes.plot(relative, deltas, color=colour, linewidth=2.2, label=f"step {step}")
    limit = 1.5 * np.abs(own).max()
    axes.set(
        xlabel="gradient / its usual size",
        ylabel="delta",
        ylim=(-limit, limit) if limit > 0 else None,
    )
    axes.set_xscale("symlog", linthresh=1e-2)
    axes.set_xticks([-100, -1, -0.01, 0.01, 1, 100])


def _impulse(axes: Any, found: Findings) -> None:
    for name, dashes in (("impulse", "-"), ("lone_impulse", ":")):
        response = _of(found, name)
        curves = np.median(response.deltas * response.units, axis=2)
        colours = _graded_colours(len(response.steps))
        for step, curve, colour in zip(response.steps, curves, colours, strict=True):
            label = f"at step {step}" if dashes == "-" else "alone, among zeros"
            scale = np.abs(curve).max() or 1
            axes.plot(curve / scale, dashes, color=colour, marker=".", ms=3, label=label)
    axes.set(xlabel="steps after the impulse", ylabel="change of the delta / the largest")


def _autonomous(axes: Any, found: Findings) -> None:
    response = _of(found, "autonomous")
    usual = np.sqrt(np.mean(np.square(found.record.deltas))) or 1
    colours = _graded_colours(len(response.steps))
    for step, deltas, colour in zip(response.steps, response.deltas, colours, strict=True):
        sizes = np.sqrt(np.mean(np.square(deltas), axis=1))
        axes.plot(sizes / usual, color=colour, label=f"after step {step}")
    axes.set(xlabel="steps without gradients", ylabel="size of delta / the usual one")


def _effective_rate(axes: Any, found: Findings) -> None:
    rates = found.rates
    colours = _graded_colours(len(rates.tensors))
    for column, (tensor, colour) in enumerate(zip(rates.tensors, colours, strict=True)):
        axes.plot(rates.starts, rates.of_momentum[:, column], color=colour, label=tensor)
        axes.plot(rates.starts, rates.of_gradient[:, column], ":", color=colour)
    drawn = np.abs(np.concatenate([rates.of_momentum.ravel(), rates.of_gradient.ravel()]))
    drawn = drawn[np.isfinite(drawn) & (drawn > 0)]
    if drawn.size:
        # Negative rates are drawn too; smaller ones than a thousandth of the largest, linearly.
        axes.set_yscale("symlog", linthresh=1e-3 * drawn.max())
    axes.set(xlabel="step", ylabel="rate along momentum (dotted: gradient)")


def _saturation(axes: Any, found: Findings) -> None:
    bends, function = _of(found, "saturation"), _of(found, "update_function")
    axes.stairs(bends.density, bends.sizes, fill=True, color="0.8", label="gradients met")
    relative = np.median(bends.bends / function.units, axis=1)
    colours = _graded_colours(len(bends.steps))
    for step, bend, colour in zip(bends.steps, relative, colours, strict=True):
        if np.isfinite(bend):
            axes.axvline(bend, color=colour, label=f"bend at step {step}")
    axes.set(xscale="log", xlabel="size of gradient / its usual size", ylabel="share")


def _adaptation(axes: Any, found: Findings) -> None:
    constant = _of(found, "adaptation")
    settled = np.abs(constant.settled[:, 0])
    style = learned_style()
    axes.plot(constant.sizes, settled, label="settled delta", **style)
    negative = np.abs(constant.settled_of_negative[:, 0])
    dotted = {"color": style["color"], "linestyle": ":"}
    axes.plot(constant.sizes, negative, label="of negative gradients", **dotted)
    axes.plot(constant.sizes, np.abs(constant.deltas[0, :, 0]), "k--", label="first delta")
    sizes = np.abs(found.record.gradients[found.record.gradients != 0])
    if sizes.size:
        low, high = np.quantile(sizes, [0.05, 0.95])
        axes.axvspan(low, high, color="0.9", label="gradients met, 5 to 95 %")
    axes.set(xscale="log", yscale="log", xlabel="constant gradient", ylabel="size of delta")


def _noise(axes: Any, found: Findings) -> None:
    noise = _of(found, "noise")
    colours = _graded_colours(len(noise.means))
    for column, (mean, colour) in enumerate(zip(noise.means, colours, strict=True)):
        axes.plot(noise.sizes[:, column, 0], color=colour, label=f"{mean:g} + noise")
    if noise.sizes.max() > 0:
        axes.set_yscale("log")
    axes.set(xlabel="step", ylabel="size of delta")


def _fixed_points(axes: Any, found: Findings) -> None:
    angles = np.linspace(0, 2 * np.pi, 200)
    axes.plot(np.cos(angles), np.sin(angles), color="0.7", linewidth=0.8)
    points = _of(found, "fixed_points").points[:4]
    if not points:
        axes.text(0, 0, "none found", ha="center", va="center")
    for point, colour in zip(points, _graded_colours(len(points)), strict=True):
        sizes = np.abs(point.rates) / max(np.abs(point.rates).max(initial=0), 1e-30)
        label = f"from {point.num_starts} starts, drift {point.delta:.2g}"
        axes.scatter(
            point.momenta.real,
            point.momenta.imag,
            s=5 + 80 * sizes,
            alpha=0.6,
            color=colour,
            label=label,
        )
    axes.set(xlabel="eigenvalue, real part", ylabel="imaginary part", aspect="equal")


def _state_space(axes: Any, found: Findings) -> None:
    space = _of(found, "state_space")
    shown = space.projections
    steps = np.repeat(np.arange(shown.shape[0]), shown.shape[1])
    second = shown[..., 1] if shown.shape[-1] > 1 else np.zeros(shown.shape[:2])
    dots = axes.scatter(
        shown[..., 0].ravel(), second.ravel(), c=steps, s=2, alpha=0.5, cmap="viridis"
    )
    axes.figure.colorbar(dots, ax=axes, label="step")
    axes.set(
        xlabel="first component",
        ylabel=f"second; participation ratio {space.participation_ratio:.1f}",
    )


def _attribution(axes: Any, found: Findings) -> None:
    shares = found.attribution
    axes.plot(shares.starts, shares.explained, color="k", linewidth=2, label="all of them")
    colours = _graded_colours(len(shares.features))
    for column, (name, colour) in enumerate(zip(shares.features, colours, strict=True)):
        style = {"color": colour, "linestyle": _DASHES[column % len(_DASHES)]}
        axes.plot(shares.starts, shares.alone[:, column], label=f"{name} alone", **style)
    axes.set(xlabel="step", ylabel="share of deltas explained", ylim=(0, 1.02))


def _gradients(axes: Any, found: Findings) -> None:
    sizes = np.abs(found.record.gradients)
    bins = np.geomspace(1e-8, 1e2, 60)
    parts = np.array_split(sizes, 3)
    for part, colour, name in zip(
        parts, _graded_colours(3), ("first", "second", "last"), strict=True
    ):
        density, _ = np.histogram(np.clip(part[part > 0], bins[0], bins[-1]), bins)
        axes.stairs(density / max(part.size, 1), bins, color=colour, label=f"{name} third")
    axes.set(xscale="log", xlabel="size of gradient", ylabel="share")


_FIGURES: dict[str, Callable[[Any, Findings], None]] = {
    "gradients": _gradients,
    "update_function": _update_function,
    "impulse_response": _impulse,
    "autonomous_response": _autonomous,
    "effective_rate": _effective_rate,
    "saturation": _saturation,
    "adaptation": _adaptation,
    "noise_response": _noise,
    "fixed_points": _fixed_points,
    "state_space": _state_space,
    "attribution": _attribution,
}
# Those that need no steps of a rule outside of its trajectory.
_OF_RECORDS = ("gradients", "effective_rate", "attribution")
