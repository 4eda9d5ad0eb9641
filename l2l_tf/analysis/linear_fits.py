"""Linear fits to recorded deltas: effective rates, and what explains how much."""

import dataclasses
import itertools
from collections.abc import Mapping

import numpy as np

from l2l_tf.analysis.record import Record, check_record
from l2l_tf.checks import check_count


@dataclasses.dataclass(frozen=True)
class EffectiveRate:
    """How far a rule goes along the gradient and along momentum, by step and tensor.

    Attributes:
        starts: int `[W]`, the first step of each of W windows.
        tensors: the paths of P tensors.
        of_gradient: float `[W, P]`, minus the slope of deltas against gradients: SGD's rate. NaN
            where all gradients are zero.
        of_momentum: float `[W, P]`, minus the slope against momentum, the sum of earlier gradients
            that are multiplied by `momentum` at each step: the rate of SGD with momentum.
        explained_by_gradient: float `[W, P]`, R^2 without a constant.
        explained_by_momentum: float `[W, P]`, likewise.
        momentum: the decay.
    """

    starts: np.ndarray
    tensors: tuple[str, ...]
    of_gradient: np.ndarray
    of_momentum: np.ndarray
    explained_by_gradient: np.ndarray
    explained_by_momentum: np.ndarray
    momentum: float


@dataclasses.dataclass(frozen=True)
class Attribution:
    """How much of the deltas features explain, by step.

    Attributes:
        starts: int `[W]`, the first step of each of W windows.
        features: the names of F features.
        explained: float `[W]`, R^2 of a linear fit to all features.
        alone: float `[W, F]`, R^2 of a fit to one of them.
        lost: float `[W, F]`, by how much R^2 falls when one of them is left out.
        weights: float `[W, F]`, of the fit to all, where each feature has mean square 1 and the
            deltas too.
    """

    starts: np.ndarray
    features: tuple[str, ...]
    explained: np.ndarray
    alone: np.ndarray
    lost: np.ndarray
    weights: np.ndarray


def effective_rate(record: Record, num_windows: int = 10, momentum: float = 0.9) -> EffectiveRate:
    """Returns the rates of SGD, and of SGD with momentum, that are nearest to a record's deltas.

    Args:
        record: the record of any rule.
        num_windows: W, the number of windows into which the steps are cut.
        momentum: the decay of momentum.

    Raises:
        TypeError: the record is none.
        ValueError: the number of windows is not positive, or the decay not in [0, 1).
    """
    check_record(record)
    _check_decay("momentum", momentum)
    sums = decayed_sums(record.gradients, momentum)
    windows = _windows(record.num_steps, num_windows)
    tables = np.full((4, len(windows), len(record.tensors)), np.nan)
    for row, window in enumerate(windows):
        for column in range(len(record.tensors)):
            own = record.of_tensor(column)
            deltas = record.deltas[window][:, own]
            for index, inputs in enumerate((record.gradients, sums)):
                slope, explained = _slope(inputs[window][:, own], deltas)
                tables[index, row, column] = -slope
                tables[2 + index, row, column] = explained
    starts = np.array([window.start for window in windows])
    of_gradient, of_momentum, by_gradient, by_momentum = tables
    return EffectiveRate(
        starts, record.tensors, of_gradient, of_momentum, by_gradient, by_momentum, momentum
    )


def attribution(
    record: Record,
    features: Mapping[str, np.ndarray] | None = None,
    num_windows: int = 10,
) -> Attribution:
    """Returns how much of a record's deltas each feature explains.

    Args:
        record: the record of any rule.
        features: float `[T, C]` each, by name. By default, `default_features`.
        num_windows: W, the number of windows into which the steps are cut.

    Raises:
        TypeError: the record is none.
        ValueError: there are no features, one has another shape, or the number of windows is not
            positive.
    """
    check_record(record)
    known = default_features(record) if features is None else features
    if not known or any(one.shape != record.deltas.shape for one in known.values()):
        shapes = {name: one.shape for name, one in known.items()}
        raise ValueError(
            f"features must be arrays of the record's shape {record.deltas.shape}, one or more. "
            f"Received: {shapes}. Compute them from record.gradients."
        )
    table = np.stack([one.astype(np.float64) for one in known.values()], axis=-1)
    windows = _windows(record.num_steps, num_windows)
    explained, alone, lost, weights = [], [], [], []
    columns = range(len(known))
    for window in windows:
        inputs = table[window].reshape(-1, len(known))
        deltas = record.deltas[window].astype(np.float64).ravel()
        inputs, deltas = _normalised(inputs), _normalised(deltas[:, np.newaxis])[:, 0]
        whole, solution = _explained(inputs, deltas)
        explained.append(whole)
        weights.append(solution)
        alone.append([_explained(inputs[:, [one]], deltas)[0] for one in columns])
        rests = [[other for other in columns if other != one] for one in columns]
        lost.append([whole - _explained(inputs[:, rest], deltas)[0] for rest in rests])
    starts = np.array([window.start for window in windows])
    arrays = (np.array(one) for one in (explained, alone, lost, weights))
    return Attribution(starts, tuple(known), *arrays)


def default_features(record: Record) -> dict[str, np.ndarray]:
    """Returns what known rules are made of, float `[T, C]` each.

    "gradient" and "momentum" are in the loss's units. The others are not: "relative gradient" is
    divided by the root of a running mean of squares, as in RMSprop; "relative mean", a running
    mean, and a slower one, are divided likewise, as in Adam; "sign" is the gradient's.
    """
    gradients = record.gradients.astype(np.float64)
    size = np.sqrt(running_mean(np.square(gradients), 0.95)) + 1e-30
    return {
        "gradient": gradients,
        "momentum": decayed_sums(gradients, 0.9),
        "relative gradient": gradients / size,
        "relative mean": running_mean(gradients, 0.9) / size,
        "slow relative mean": running_mean(gradients, 0.98) / size,
        "sign": np.sign(gradients),
    }


def decayed_sums(values: np.ndarray, decay: float) -> np.ndarray:
    """Returns s_t = decay s_(t-1) + value_t along the first axis, float64."""
    total = np.zeros(values.shape[1:])
    sums = []
    for value in values.astype(np.float64):
        total = decay * total + value
        sums.append(total)
    return np.stack(sums)


def running_mean(values: np.ndarray, decay: float) -> np.ndarray:
    """Returns exponentially weighted means along the first axis, corrected for their start."""
    counts = 1 - decay ** np.arange(1, len(values) + 1)
    means = (1 - decay) * decayed_sums(values, decay)
    return means / counts.reshape(-1, *[1] * (values.ndim - 1))


def _windows(num_steps: int, num_windows: int) -> list[slice]:
    check_count("num_windows", num_windows)
    edges = np.unique(np.linspace(0, num_steps, num_windows + 1).round().astype(int))
    return [slice(int(a), int(b)) for a, b in itertools.pairwise(edges)]


def _slope(inputs: np.ndarray, deltas: np.ndarray) -> tuple[float, float]:
    """Returns the slope of a line through the origin, and R^2; NaN if all inputs are zero."""
    x, y = inputs.astype(np.float64).ravel(), deltas.astype(np.float64).ravel()
    # Without this, squares of tiny gradients would underflow.
    scale = np.abs(x).max(initial=0.0)
    total = float(y @ y)
    if not scale or not total:
        return (0.0 if scale else np.nan), np.nan
    x = x / scale
    slope = float(x @ y) / float(x @ x)
    return slope / scale, 1 - float(np.square(y - slope * x).sum()) / total


def _normalised(columns: np.ndarray) -> np.ndarray:
    size = np.sqrt(np.mean(np.square(columns), axis=0))
    return columns / np.where(size > 0, size, 1)


def _explained(inputs: np.ndarray, deltas: np.ndarray) -> tuple[float, np.ndarray]:
    """Returns R^2 without a constant, and the weights, of a least-squares fit."""
    total = float(deltas @ deltas)
    if not inputs.shape[1] or not total:
        return 0.0, np.zeros(inputs.shape[1])
    weights, *_ = np.linalg.lstsq(inputs, deltas, rcond=1e-10)
    return 1 - float(np.square(deltas - inputs @ weights).sum()) / total, weights


def _check_decay(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(
            f"{name} must be at least 0 and below 1. Received: {name}={value}. Give, say, 0.9."
        )
