"""Fits of a `DistilledRule` to records of another rule, by least squares."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from l2l_tf.analysis import Record
from l2l_tf.rules import DistilledRule

_DECAY, _EPSILON, _OUTPUT_SCALE = 0.95, 1e-8, 0.1
# A step's errors count relative to the size of its deltas plus this share of the largest, so that
# the small steps near the end count too.
_FLOOR = 0.1
_NUM_ALTERNATIONS = 6
# The numbers that are not found by linear least squares, each tried at these values in turn.
_GRID = {
    "input_gain": (1.0, 2.0, 3.0, 4.0, 6.0),
    "reference_gain": (2.0, 3.0, 5.0, 10.0, 20.0),
    "momentum": (0.5, 0.6, 0.7, 0.8, 0.9),
    "memory": (0.9, 0.93, 0.95, 0.97, 0.98),
    "threshold": (0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
}
# The least floor and slope of a gate, whose logarithms are kept.
_SMALLEST = 1e-4
_NUM_ROUNDS = 3
# Each is a start of its own, since the other numbers depend on it.
_FIRST_THRESHOLDS = (0.3, 0.5, 0.7)


@dataclasses.dataclass(frozen=True)
class Fit:
    """A rule that was fitted to records.

    Attributes:
        rule: the rule.
        numbers: its numbers, in words.
        explained: the share of the weighted mean square of the deltas that it explains.
    """

    rule: DistilledRule
    numbers: dict[str, Any]
    explained: float


@dataclasses.dataclass(frozen=True)
class _Sample:
    """A record as fits need it.

    Attributes:
        relative: float `[T, C]`, gradients relative to their running root mean square.
        deltas: float `[T, C]`, in units of the output scale, with the sign that gradients have.
        weights: float `[T, 1]`, the weight of each step's errors.
    """

    relative: np.ndarray
    deltas: np.ndarray
    weights: np.ndarray


def fit_taps(records: Sequence[Record], num_taps: int) -> Fit:
    """Returns the finite impulse response over saturated gradients that is nearest to records."""
    samples = [_sample(record) for record in records]
    best: tuple[float, float, np.ndarray] | None = None
    for gain in _GRID["input_gain"]:
        inputs = [_lagged(np.tanh(gain * one.relative), num_taps) for one in samples]
        table, targets = _weighted(inputs, samples)
        taps, *_ = np.linalg.lstsq(table, targets, rcond=1e-9)
        explained = _explained(targets, table @ taps)
        if best is None or explained > best[0]:
            best = explained, gain, taps
    assert best is not None
    explained, gain, taps = best
    rule = DistilledRule(
        "taps", num_taps=num_taps, decay=_DECAY, epsilon=_EPSILON, output_scale=_OUTPUT_SCALE
    )
    rule.set_weights([np.log(gain), taps])
    return Fit(rule, {"input_gain": gain, "taps": taps.tolist()}, explained)


def fit_recursive(records: Sequence[Record]) -> Fit:
    """Returns the recursive form that is nearest to records.

    For given gains, decays and threshold, the delta is bilinear in the direction and in the gate's
    floor and slope, which are found by alternating linear least squares. The others are each tried
    at a few values in turn, from several starts.
    """
    samples = [_sample(record) for record in records]
    found = [_descended(samples, threshold) for threshold in _FIRST_THRESHOLDS]
    (explained, direction, gate), chosen = max(found, key=lambda one: one[0][0])
    rule = DistilledRule(decay=_DECAY, epsilon=_EPSILON, output_scale=_OUTPUT_SCALE)
    logits = [math.log(one / (1 - one)) for one in (chosen["momentum"], chosen["memory"])]
    gains = (np.log(chosen["input_gain"]), np.log(chosen["reference_gain"]))
    threshold = np.array(chosen["threshold"])
    rule.set_weights([*gains, np.array(logits), direction, np.log(gate), threshold])
    floor, slope = gate.tolist()
    numbers = {**chosen, "direction": direction.tolist(), "floor": floor, "slope": slope}
    return Fit(rule, numbers, explained)


def _descended(
    samples: Sequence[_Sample], threshold: float
) -> tuple[tuple[float, np.ndarray, np.ndarray], dict[str, float]]:
    """Returns what `_bilinear` gives for the best numbers found from a start, and the numbers."""
    # The others are those of an untrained rule.
    chosen = {"input_gain": 3.0, "reference_gain": 3.0, "momentum": 0.7, "memory": 0.95}
    chosen["threshold"] = threshold
    best = _bilinear(samples, chosen)
    for _ in range(_NUM_ROUNDS):
        for name, values in _GRID.items():
            for value in values:
                tried = _bilinear(samples, chosen | {name: value})
                if tried[0] > best[0]:
                    best, chosen = tried, chosen | {name: value}
    return best, chosen


def _sample(record: Record) -> _Sample:
    gradients = record.gradients.astype(np.float64)
    counts = np.arange(1, len(gradients) + 1)[:, np.newaxis]
    squares = _filtered(np.square(gradients), _DECAY, 0.0) / (1 - _DECAY**counts)
    relative = gradients / np.sqrt(squares + _EPSILON**2)
    deltas = -record.deltas.astype(np.float64) / _OUTPUT_SCALE
    sizes = np.sqrt(np.square(deltas).mean(axis=1, keepdims=True))
    largest = sizes.max()
    return _Sample(relative, deltas, 1 / (sizes + _FLOOR * largest) if largest else sizes + 1)


def _filtered(values: np.ndarray, decay: float, start: float) -> np.ndarray:
    """Returns running means along the first axis that begin at a value."""
    mean, means = np.full(values.shape[1:], start), []
    for value in values:
        mean = decay * mean + (1 - decay) * value
        means.append(mean)
    return np.stack(means)


def _lagged(values: np.ndarray, count: int) -> np.ndarray:
    """Returns `[T, C, count]`, values of as many steps ago, with zeros before the first."""
    padded = np.concatenate([np.zeros((count, *values.shape[1:])), values])
    return np.stack([padded[count - lag : len(padded) - lag] for lag in range(count)], axis=-1)


def _weighted(
    inputs: Sequence[np.ndarray], samples: Sequence[_Sample]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the inputs of all samples as rows, and their deltas, times the weights of steps."""
    rows = [
        (table * sample.weights[..., np.newaxis]).reshape(-1, table.shape[-1])
        for table, sample in zip(inputs, samples, strict=True)
    ]
    targets = [(sample.deltas * sample.weights).ravel() for sample in samples]
    return np.concatenate(rows), np.concatenate(targets)


def _bilinear(
    samples: Sequence[_Sample], chosen: dict[str, float]
) -> tuple[float, np.ndarray, np.ndarray]:
    """Returns the explained share, the direction, and the gate's floor and slope."""
    directions, gates = [], []
    for sample in samples:
        saturated = np.tanh(chosen["input_gain"] * sample.relative)
        momentum = _filtered(saturated, chosen["momentum"], 0.0)
        before = np.concatenate([np.zeros_like(momentum[:1]), momentum[:-1]])
        agreement = 1 + saturated * (np.tanh(chosen["reference_gain"] * before) - saturated)
        confidence = _filtered(agreement, chosen["memory"], 1.0)
        directions.append(np.stack([saturated, momentum], axis=-1))
        excess = np.maximum(confidence - chosen["threshold"], 0)
        gates.append(np.stack([np.ones_like(excess), np.square(excess)], axis=-1))
    direction_table, targets = _weighted(directions, samples)
    gate_table = np.concatenate([gate.reshape(-1, 2) for gate in gates])
    direction, gate = np.ones(2), np.array([0.0, 1.0])
    for _ in range(_NUM_ALTERNATIONS):
        factors = gate_table @ gate
        direction, *_ = np.linalg.lstsq(direction_table * factors[:, np.newaxis], targets, 1e-9)
        # The scale belongs to the gate.
        direction = direction / max(np.abs(direction).max(), 1e-12)
        factors = direction_table @ direction
        gate = _positive_fit(gate_table * factors[:, np.newaxis], targets)
    answers = (direction_table @ direction) * (gate_table @ gate)
    return _explained(targets, answers), direction, gate


def _positive_fit(table: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Returns the two weights, not below the smallest, of a least-squares fit."""
    weights, *_ = np.linalg.lstsq(table, targets, 1e-9)
    for column, weight in enumerate(weights):
        if weight < _SMALLEST:
            # The best is on the border; the other weight is then that of one column.
            other = 1 - column
            size = float(table[:, other] @ table[:, other])
            alone = float(table[:, other] @ targets) / size if size else 0.0
            weights[column], weights[other] = _SMALLEST, max(alone, _SMALLEST)
            break
    return weights


def _explained(targets: np.ndarray, answers: np.ndarray) -> float:
    total = float(targets @ targets)
    return 1 - float(np.square(targets - answers).sum()) / total if total else 0.0
