"""The report of an analysis: what its numbers say, in sentences."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from l2l_tf.reporting import format_markdown

# Shares above which a rule is said to be like another, or a curve flat.
_LIKE, _FLAT = 0.9, 0.1


def report(contents: Mapping[str, Any]) -> str:
    """Returns a Markdown document that states the numbers of an analysis.

    Args:
        contents: the contents of `analysis.json`.
    """
    found = contents["findings"]
    lines = [
        "# What rules have learned",
        "",
        f"Each was recorded over {contents['num_steps']} steps of one task. The command was",
        "",
        f"    {contents['command']}",
        "",
        format_markdown(*_table(found)),
    ]
    for label, numbers in found.items():
        lines += [f"## {label}", "", *(f"- {one}" for one in sentences(numbers)), ""]
    return "\n".join(lines)


def _table(found: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    header = [
        "rule and problem",
        "loss",
        "size of deltas",
        "like Adam",
        "like momentum",
        "like SGD",
    ]
    lines = [
        [
            label,
            f"{one['first_loss']:.3g} to {one['last_losses']:.3g}",
            f"{one['delta_size']:.2g}",
            *(_explained(one["likeness"][name]) for name in ("adam", "momentum", "sgd")),
        ]
        for label, one in found.items()
    ]
    return header, lines


def _explained(likeness: Mapping[str, float]) -> str:
    return f"{likeness['explained']:.2f}, rate {likeness['rate']:.2g}"


def sentences(numbers: Mapping[str, Any]) -> list[str]:
    """Returns what the numbers of one rule on one problem say, a few sentences for each probe."""
    texts = [_gradients(numbers), _likeness(numbers), _rates(numbers), _attribution(numbers)]
    if "impulse" not in numbers:
        texts.append(
            "The rule looks at whole tensors, so probes that answer gradients of single "
            "coordinates say nothing of it."
        )
        return texts
    return [
        *texts,
        _update_function(numbers),
        _impulse(numbers),
        _autonomous(numbers),
        _adaptation(numbers),
        _noise(numbers),
        _fixed_points(numbers),
        _state_space(numbers),
    ]


def _gradients(numbers: Mapping[str, Any]) -> str:
    one = numbers["gradients"]
    if one["size_0.5"] is None or not math.isfinite(one["size_0.5"]):
        return "Gradients: all of them are zero."
    return (
        f"Gradients: half of those that are not zero ({1 - one['zeros']:.0%}) are above "
        f"{one['size_0.5']:.2g}, and one in twenty above {one['size_0.95']:.2g}. Signs of "
        f"successive ones correlate by {one['persistence']:.2f}, and {one['signal']:.0%} of their "
        "mean square is constant."
    )


def _likeness(numbers: Mapping[str, Any]) -> str:
    likeness = numbers["likeness"]
    best = max(likeness, key=lambda name: likeness[name]["explained"])
    one = likeness[best]
    judgement = "It is nearly" if one["explained"] > _LIKE else "The nearest of three is"
    rest = ", ".join(
        f"{other} {likeness[other]['explained']:.2f}" for other in likeness if other != best
    )
    return (
        f"Likeness: {judgement} {best} of rate {one['rate']:.2g}, which explains "
        f"{one['explained']:.2f} of the mean square of its deltas ({rest}). Deltas have a root "
        f"mean square of {numbers['delta_size']:.2g}: "
        f"{numbers['delta_size_by_window'][0]:.2g} in the first tenth of the steps, "
        f"{max(numbers['delta_size_by_window']):.2g} in the tenth where it is largest, "
        f"{numbers['delta_size_by_window'][-1]:.2g} in the last."
    )


def _rates(numbers: Mapping[str, Any]) -> str:
    rates = numbers["effective_rate"]
    parts = []
    for column, tensor in enumerate(rates["tensors"]):
        first, last = (rates["of_momentum"][row][column] for row in (0, -1))
        if all(one is not None and math.isfinite(one) for one in (first, last)):
            parts.append(f"{tensor} {first:.2g} to {last:.2g}")
    return (
        "Effective rate against momentum 0.9, from the first to the last window of steps: "
        f"{'; '.join(parts)}."
    )


def _attribution(numbers: Mapping[str, Any]) -> str:
    shares = numbers["attribution"]
    features = shares["features"]
    mean = [
        sum(row[i] for row in shares["alone"]) / len(shares["alone"]) for i in range(len(features))
    ]
    order = sorted(range(len(features)), key=lambda index: -mean[index])
    named = ", ".join(f"{features[index]} {mean[index]:.2f}" for index in order[:3])
    return (
        f"Attribution: {len(features)} features of Adam, RMSprop and momentum together explain "
        f"{shares['explained'][0]:.2f} of the deltas in the first window and "
        f"{shares['explained'][-1]:.2f} in the last. Those that explain most alone: {named}."
    )


def _update_function(numbers: Mapping[str, Any]) -> str:
    one = numbers["saturation"]
    bends = []
    for step, bend, beyond in zip(one["steps"], one["relative_bends"], one["beyond"], strict=True):
        where = "nowhere" if bend is None or not math.isfinite(bend) else f"at {bend:.2g}"
        bends.append(f"{where} in step {step} ({beyond:.0%} of gradients are beyond)")
    return (
        "Update function: the slope falls below half of that at small gradients, in units of the "
        f"usual gradient, {'; '.join(bends)}."
    )


def _impulse(numbers: Mapping[str, Any]) -> str:
    one, lone = numbers["impulse"], numbers["lone_impulse"]
    texts = [
        f"at step {step}, half of the movement is done after {half} steps, the mean delay is "
        f"{delay:.1f} steps (as that of momentum {momentum:.2f} over {len(one['deltas'][0])} "
        f"steps), and {undone:.0%} of the movement is undone again"
        for step, half, delay, momentum, undone in zip(
            one["steps"],
            one["half_time"],
            one["time_constants"],
            one["momenta"],
            one["oscillations"],
            strict=True,
        )
    ]
    return (
        f"Impulse: added to recorded gradients {'; '.join(texts)}. Alone among zeros it has a mean "
        f"delay of {lone['time_constants'][0]:.1f} steps."
    )


def _autonomous(numbers: Mapping[str, Any]) -> str:
    one, usual = numbers["autonomous"], numbers["delta_size"] or 1.0
    first, last = one["sizes"][0][-1] / usual, one["sizes"][-1][-1] / usual
    return (
        f"Without gradients for {len(one['sizes'][0])} steps, deltas are {first:.2g} of the usual "
        f"size from the initial state, and {last:.2g} after step {one['steps'][-1]}; parameters "
        f"drift by {one['drifts'][0]:.2g} and {one['drifts'][-1]:.2g}."
    )


def _adaptation(numbers: Mapping[str, Any]) -> str:
    one = numbers["adaptation"]
    sizes = one["sizes"]
    flat = _flat_ranges(sizes, one["exponents"])
    where = (
        f"hardly depends on the gradient's size {' and '.join(flat)}"
        if flat
        else "depends on the gradient's size everywhere"
    )
    sampled = range(0, len(sizes), max(1, (len(sizes) - 1) // 5))

    def values(settled: Sequence[float]) -> str:
        return ", ".join(f"{settled[index]:.2g} at {sizes[index]:.0e}" for index in sampled)

    climbs = [
        f"{sign} {size:.0e}"
        for sign, settled, direction in (
            ("positive", one["settled"], 1),
            ("negative", one["settled_of_negative"], -1),
        )
        for size, delta in zip(sizes, settled, strict=True)
        if direction * delta > 0
    ]
    warning = (
        f" At {len(climbs)} of {2 * len(sizes)} gradients, {climbs[0]} the first, it climbs."
        if climbs
        else ""
    )
    peak = max(range(len(one["schedule"])), key=lambda index: one["schedule"][index])
    return (
        f"Adaptation: the delta that settles under a constant, positive gradient {where}: "
        f"{values(one['settled'])}. Under a negative one it is "
        f"{values(one['settled_of_negative'])}.{warning} For the positive one of the size in the "
        f"middle, it is largest at step {peak}, and {one['schedule'][-1]:.2f} of that at the end."
    )


def _flat_ranges(sizes: Sequence[float], exponents: Sequence[float | None]) -> list[str]:
    """Returns the ranges of sizes, each as long as possible, in which a curve is flat."""
    ranges, start = [], 0
    flat = [power is not None and abs(power) < _FLAT for power in exponents]
    for is_flat, group in itertools.groupby(flat):
        end = start + len(list(group))
        if is_flat:
            ranges.append(f"from {sizes[start]:.0e} to {sizes[end]:.0e}")
        start = end
    return ranges


def _noise(numbers: Mapping[str, Any]) -> str:
    one = numbers["noise"]
    texts = [
        f"{first:.2g} to {last:.2g} where the mean is {mean:g}"
        for mean, first, last in zip(one["means"], one["sizes"][0], one["sizes"][-1], strict=True)
    ]
    return (
        "Noise: for normal gradients of standard deviation 1, the size of deltas goes from the "
        f"first step to step {len(one['sizes'])} from {'; from '.join(texts)}."
    )


def _fixed_points(numbers: Mapping[str, Any]) -> str:
    points = numbers["fixed_points"]["points"]
    lost = numbers["fixed_points"]["num_lost"]
    if not points:
        return f"Fixed points: none; {lost} starts did not settle."
    one = points[0]
    stable = "stable" if one["largest_eigenvalue"] < 1 else "unstable"
    modes = "; ".join(
        f"momentum {mode['momentum']:.3f}"
        + (f" +- {abs(mode['momentum_imaginary']):.3f}i" if mode["momentum_imaginary"] else "")
        + f", rate {mode['rate'] * one['unit']:.2g} per usual gradient"
        + _heavy_ball(mode["curvatures"])
        for mode in one["modes"][:3]
    )
    return (
        f"Fixed points: {len(points)} of the state without gradients, {lost} starts lost. That of "
        f"most starts is {stable} (largest eigenvalue {one['largest_eigenvalue']:.3f}), with a "
        f"delta of {one['delta']:.2g}. Its strongest modes: {modes or 'none'}."
    )


def _heavy_ball(curvatures: Sequence[float] | None) -> str:
    if not curvatures:
        return ""
    return f" (the optimal heavy ball of curvatures {curvatures[0]:.2g} to {curvatures[1]:.2g})"


def _state_space(numbers: Mapping[str, Any]) -> str:
    one = numbers["state_space"]
    by_step = one["participation_ratio_by_step"]
    last = by_step[-1]
    ending = f", {last:.1f} at the last step" if last is not None and math.isfinite(last) else ""
    return (
        f"State space: of {one['num_dimensions']} numbers of a coordinate, states use "
        f"{one['participation_ratio']:.1f} dimensions (participation ratio{ending})."
    )
