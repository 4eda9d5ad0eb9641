"""The update function: a delta against the gradient of one step, with the history held."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from l2l_tf.analysis.record import Record, check_record
from l2l_tf.analysis.stepping import (
    Stepper,
    checked_steps,
    spread_steps,
    state_at,
    stepper_for,
)
from l2l_tf.checks import check_one_of
from l2l_tf.rules.hand_designed import BASELINES
from l2l_tf.rules.rule import Rule

# The rules that others are compared with.
COMPARED = ("adam", "momentum", "sgd")
# Gradients in units of a coordinate's root mean square gradient, for an update function's grid.
_SIZES = np.geomspace(1e-3, 1e2, 41)
# Without zero, where the root of a mean of squares has no derivative before the first step.
DEFAULT_GRID = np.concatenate([-_SIZES[::-1], _SIZES])
# Slopes below this share of that at the smallest gradients count as bent.
_BENT = 0.5


@dataclasses.dataclass(frozen=True)
class Likeness:
    """A hand-designed rule with the rate that brings its deltas nearest to those of a record.

    Attributes:
        rate: that rate, by least squares over all steps and coordinates.
        explained: the share of the deltas' mean square that it explains, R^2 without a constant.
            1 if it is the rule.
        deltas: its deltas `[T, C]` for the record's gradients.
    """

    rate: float
    explained: float
    deltas: np.ndarray


@dataclasses.dataclass(frozen=True)
class UpdateFunction:
    """Deltas at S steps for K gradients, in place of the one that C coordinates really had.

    Attributes:
        steps: int `[S]`, the steps whose states are held.
        gradients: float `[K, C]`, ascending.
        units: float `[C]`, what the grid of gradients was multiplied by.
        deltas: float `[S, K, C]`.
        slopes: float `[S, K, C]`, derivatives of the deltas with respect to the gradients.
        others: for each compared rule, its deltas `[S, K, C]` with the same history and its
            likeness's rate.
        likeness: for each compared rule, how like it the rule is.
    """

    steps: np.ndarray
    gradients: np.ndarray
    units: np.ndarray
    deltas: np.ndarray
    slopes: np.ndarray
    others: Mapping[str, np.ndarray]
    likeness: Mapping[str, Likeness]


@dataclasses.dataclass(frozen=True)
class Saturation:
    """Where an update function bends, and how often gradients are beyond.

    Attributes:
        steps: int `[S]`.
        bends: float `[S, C]`, the smallest size of a gradient, of either sign, at which the slope
            is below half of that at the smallest sizes. Infinite where there is none.
        beyond: float `[S]`, the share of the gradients of the record that are larger than their
            coordinate's bend at that step.
        sizes: float `[B + 1]`, edges of bins, in the coordinates' units.
        density: float `[B]`, the share of the record's gradients whose size falls into a bin. Those
            outside of all bins count in the nearest.
    """

    steps: np.ndarray
    bends: np.ndarray
    beyond: np.ndarray
    sizes: np.ndarray
    density: np.ndarray


def likeness(record: Record, name: str) -> Likeness:
    """Returns how like the hand-designed rule of a name (`BASELINES`) a record's rule is.

    Raises:
        TypeError: the record is none.
        ValueError: there is no rule of that name.
    """
    check_record(record)
    check_one_of("name", name, BASELINES)
    answers, _ = Stepper(BASELINES[name](1.0), _one_part(record)).replay(record.gradients)
    answers = answers.astype(np.float64)
    deltas = record.deltas.astype(np.float64)
    size = float(np.square(answers).sum())
    rate = float((answers * deltas).sum()) / size if size else 0.0
    total = float(np.square(deltas).sum())
    rest = float(np.square(deltas - rate * answers).sum())
    return Likeness(rate, 1 - rest / total if total else 0.0, rate * answers)


def update_function(
    rule: Rule,
    record: Record,
    steps: Sequence[int] | None = None,
    grid: np.ndarray = DEFAULT_GRID,
    is_relative: bool = True,
) -> UpdateFunction:
    """Returns deltas against the gradient of one step, at states that the rule has visited.

    Source: Andrychowicz et al. 2016, appendix B (arXiv 1606.04474).

    Args:
        rule: the rule that was recorded.
        record: its record.
        steps: S steps whose states are held. By default, four, evenly spread.
        grid: float `[K]`, the gradients to try, finite and ascending.
        is_relative: whether the grid is in units of each coordinate's root mean square gradient
            (`Record.units`), rather than of the loss.

    Raises:
        TypeError: the rule or the record is none.
        ValueError: the rule looks at whole tensors, the record is of another rule, or steps or grid
            are out of range.
    """
    stepper = stepper_for(rule, record)
    at = spread_steps(record.num_steps, 4) if steps is None else checked_steps(record, steps)
    tried = np.asarray(grid, float)
    if tried.ndim != 1 or not tried.size or not _is_ascending(tried):
        raise ValueError(
            f"grid must be one or more finite numbers, ascending. Received: grid={grid!r}. Leave "
            "it out for 82 of both signs."
        )
    units = record.units if is_relative else np.ones_like(record.units)
    gradients = (tried[:, np.newaxis] * units).astype(np.float32)
    deltas, slopes = _curves(stepper, record, at, gradients)
    like = {name: likeness(record, name) for name in COMPARED}
    others = {}
    for name, one in like.items():
        hand_designed = BASELINES[name](one.rate)
        own = Stepper(hand_designed, _one_part(record))
        _, states = own.replay(record.gradients)
        replayed = dataclasses.replace(record, parts=own.parts, states=states)
        others[name], _ = _curves(own, replayed, at, gradients)
    return UpdateFunction(at, gradients, units, deltas, slopes, others, like)


def saturation(function: UpdateFunction, record: Record) -> Saturation:
    """Returns where an update function bends, beside the sizes of the gradients met.

    Args:
        function: the update function, of a grid with both signs.
        record: the record that it is of.

    Raises:
        TypeError: the record is none.
        ValueError: the grid lacks gradients of a sign, or the record has other coordinates.
    """
    check_record(record)
    signs = np.sign(function.gradients[:, 0])
    if not {-1, 1} <= set(signs.tolist()):
        raise ValueError(
            "function must be of gradients of both signs. Received: gradients from "
            f"{function.gradients.min():.3g} to {function.gradients.max():.3g}. Leave out grid in "
            "update_function."
        )
    if len(function.units) != record.num_coordinates:
        raise ValueError(
            "record must be the one that the update function is of. "
            f"Received: {record.num_coordinates} coordinates with a function of "
            f"{len(function.units)}. Give the same to both."
        )
    bends = np.full(function.deltas[:, 0].shape, np.inf)
    for sign in (1, -1):
        rows = np.flatnonzero(signs == sign)
        rows = rows[np.argsort(np.abs(function.gradients[rows, 0]))]
        slopes = np.abs(function.slopes[:, rows])
        is_bent = slopes < _BENT * slopes[:, :1]
        first = is_bent.argmax(axis=1)
        sizes = np.abs(function.gradients[rows])
        found = np.take_along_axis(sizes[np.newaxis], first[:, np.newaxis], axis=1)[:, 0]
        bends = np.minimum(bends, np.where(is_bent.any(axis=1), found, np.inf))
    beyond = (np.abs(record.gradients) > bends[:, np.newaxis]).mean(axis=(1, 2))
    edges = np.geomspace(1e-4, 1e2, 25)
    relative = np.clip(np.abs(record.gradients) / function.units, edges[0], edges[-1])
    density, _ = np.histogram(relative, edges)
    return Saturation(function.steps, bends, beyond, edges, density / relative.size)


def _one_part(record: Record) -> dict[str, np.ndarray]:
    return {"rule": np.arange(record.num_coordinates)}


def _is_ascending(values: np.ndarray) -> bool:
    return bool(np.isfinite(values).all() and (np.diff(values) > 0).all())


def _curves(
    stepper: Stepper, record: Record, steps: np.ndarray, gradients: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns deltas and their slopes, `[S, K, C]` each."""
    primals = tf.constant(gradients)
    deltas, slopes = [], []
    for step in steps:
        state = state_at(record, int(step), len(gradients))
        with tf.autodiff.ForwardAccumulator(primals, tf.ones_like(primals)) as accumulator:
            delta, _ = stepper(primals, state)
        deltas.append(delta.numpy())
        slopes.append(accumulator.jvp(delta, tf.UnconnectedGradients.ZERO).numpy())
    return np.stack(deltas), np.stack(slopes)
