"""Responses of a rule to made-up gradients: an impulse, none at all, one that stays."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from l2l_tf.analysis.record import Record
from l2l_tf.analysis.stepping import (
    Stepper,
    checked_steps,
    spread_steps,
    state_at,
    stepper_for,
)
from l2l_tf.checks import check_count, check_one_of, check_positive
from l2l_tf.rules.rule import Rule

BACKGROUNDS = ("zeros", "recorded")
# Halvings of the interval in which a momentum is sought.
_NUM_HALVINGS = 50


@dataclasses.dataclass(frozen=True)
class ImpulseResponse:
    """What one gradient changes in the deltas of L steps, per unit of gradient.

    Attributes:
        steps: int `[S]`, the steps of the record at which the impulse came.
        deltas: float `[S, L, C]`, the changes of deltas, divided by the impulse.
        units: float `[C]`, the impulse.
    """

    steps: np.ndarray
    deltas: np.ndarray
    units: np.ndarray

    @property
    def sums(self) -> np.ndarray:
        """How far the gradient moves the parameter in all, per unit, `[S, C]`."""
        return self.deltas.sum(axis=1)

    @property
    def half_times(self) -> np.ndarray:
        """The number of steps in which half of all movement is done, `[S, C]`.

        Movement counts without its sign. 1 for a rule without memory.
        """
        moved = np.abs(self.deltas).cumsum(axis=1)
        return 1 + (moved < 0.5 * moved[:, -1:]).sum(axis=1)

    @property
    def time_constants(self) -> np.ndarray:
        """The mean delay of a movement after its gradient, in steps, `[S, C]`.

        0 for a rule without memory. NaN where nothing moves. For momentum mu it is mu / (1 - mu) of
        a response that does not end, and less of one that ends after L steps (`momenta`).
        """
        sizes = np.abs(self.deltas)
        total = sizes.sum(axis=1)
        delays = (sizes * np.arange(sizes.shape[1])[:, np.newaxis]).sum(axis=1)
        return np.where(total > 0, delays / np.where(total > 0, total, 1), np.nan)

    @property
    def momenta(self) -> np.ndarray:
        """The momenta whose responses of L steps have the same mean delays, `[S, C]`.

        The mean delay of momentum mu over L steps is mu / (1 - mu) - L mu^L / (1 - mu^L). It is
        (L - 1) / 2 for a momentum of 1; of longer delays, the result is 1. NaN where nothing moves.
        """
        delays, length = self.time_constants, self.deltas.shape[1]
        low, high = np.zeros_like(delays), np.ones_like(delays)
        for _ in range(_NUM_HALVINGS):
            middle = (low + high) / 2
            # Near 1, the difference of two large numbers would be lost.
            powers = middle[..., np.newaxis] ** np.arange(length)
            is_below = (powers * np.arange(length)).sum(axis=-1) / powers.sum(axis=-1) < delays
            low, high = np.where(is_below, middle, low), np.where(is_below, high, middle)
        return np.where(np.isnan(delays), np.nan, (low + high) / 2)

    @property
    def oscillations(self) -> np.ndarray:
        """The share of all movement that is undone by later movement, `[S, C]`; 0 to 1."""
        total = np.abs(self.deltas).sum(axis=1)
        return 1 - np.abs(self.sums) / np.where(total > 0, total, 1) * (total > 0)


@dataclasses.dataclass(frozen=True)
class AutonomousResponse:
    """The deltas of L steps without gradients.

    Attributes:
        steps: int `[S]`, the steps of the record before which gradients ended. The first is 0, the
            initial state.
        deltas: float `[S, L, C]`.
    """

    steps: np.ndarray
    deltas: np.ndarray

    @property
    def drift(self) -> np.ndarray:
        """How far a parameter moves in all without gradients, `[S, C]`."""
        return self.deltas.sum(axis=1)


@dataclasses.dataclass(frozen=True)
class Adaptation:
    """The deltas of L steps for gradients that do not change, of K sizes.

    Attributes:
        sizes: float `[K]`, ascending.
        deltas: float `[L, K, P]`, for each of P parts of the rule.
        deltas_of_negative: the same for the negative of the gradients.
    """

    sizes: np.ndarray
    deltas: np.ndarray
    deltas_of_negative: np.ndarray

    @property
    def settled(self) -> np.ndarray:
        """The mean delta of the last tenth of the steps, `[K, P]`."""
        return self._settled(self.deltas)

    @property
    def settled_of_negative(self) -> np.ndarray:
        """The same for the negative of the gradients. A rule need not be symmetric."""
        return self._settled(self.deltas_of_negative)

    @staticmethod
    def _settled(deltas: np.ndarray) -> np.ndarray:
        return deltas[-max(1, len(deltas) // 10) :].mean(axis=0)

    @property
    def exponents(self) -> np.ndarray:
        """The power of the gradient's size with which settled deltas grow, `[K - 1, P]`.

        1 for SGD, whose deltas are proportional; 0 for a rule that does not see the scale. NaN
        where the sign of the delta changes.
        """
        settled = self.settled
        logs = np.log(np.maximum(np.abs(settled), 1e-30))
        exponents = np.diff(logs, axis=0) / np.diff(np.log(self.sizes))[:, np.newaxis]
        return np.where(settled[1:] * settled[:-1] < 0, np.nan, exponents)

    @property
    def schedule(self) -> np.ndarray:
        """The size of a delta by step over the largest, for the size in the middle, `[L, P]`."""
        deltas = np.abs(self.deltas[:, len(self.sizes) // 2])
        largest = deltas.max(axis=0)
        return deltas / np.where(largest > 0, largest, 1)


@dataclasses.dataclass(frozen=True)
class NoiseResponse:
    """The sizes of deltas for noise of variance 1 around K means.

    Attributes:
        means: float `[K]`, the mean of the gradients.
        sizes: float `[L, K, P]`, the root mean square of deltas by step, for each of P parts of the
            rule.
        drifts: float `[L, K, P]`, the mean deltas.
    """

    means: np.ndarray
    sizes: np.ndarray
    drifts: np.ndarray


def impulse_response(
    rule: Rule,
    record: Record,
    steps: Sequence[int] | None = None,
    num_steps: int = 50,
    size: float = 1.0,
    background: str = "zeros",
) -> ImpulseResponse:
    """Returns what one gradient changes in the deltas of the following steps.

    Two runs start from a visited state, with the same gradients except for the impulse, which is
    added to the first of one of them. The result is the difference of their deltas, so that what
    the rule would have done anyway does not count.

    Args:
        rule: the rule that was recorded.
        record: its record.
        steps: S steps at which the impulse comes. By default, the first, whose state is the initial
            one, and the one in the middle.
        num_steps: L, from the step of the impulse on. With recorded gradients, no more than the
            record has left after the last of `steps`.
        size: the impulse, in units of each coordinate's root mean square gradient (`Record.units`).
        background: the gradients to which it is added: "zeros", or those "recorded". A rule that
            divides gradients by their running size answers an impulse among zeros as if nothing
            else had ever happened; among recorded gradients it is in its element.

    Raises:
        TypeError: the rule or the record is none.
        ValueError: the rule looks at whole tensors, the record is of another rule or too short, or
            an argument is out of range.
    """
    check_count("num_steps", num_steps)
    check_positive("size", size, "Give, say, 1 for a gradient of the usual size.")
    check_one_of("background", background, BACKGROUNDS)
    stepper = stepper_for(rule, record)
    at = checked_steps(record, [0, record.num_steps // 2] if steps is None else steps)
    is_zero = background == "zeros"
    if not is_zero and at.max() + num_steps > record.num_steps:
        raise ValueError(
            "num_steps must be at most what the record has left after the impulse. Received: "
            f"num_steps={num_steps} after step {at.max()} of {record.num_steps}. Record more "
            "steps, or give fewer."
        )
    units = size * record.units
    changes = []
    for step in at:
        known = record.gradients[step : step + num_steps]
        gradients = np.zeros((num_steps, record.num_coordinates), np.float32)
        gradients = gradients if is_zero else known
        without = np.stack([gradients, gradients], axis=1)
        without[0, 1] += units
        deltas = _answers(stepper, state_at(record, int(step), 2), without)
        changes.append((deltas[:, 1] - deltas[:, 0]) / units)
    return ImpulseResponse(at, np.stack(changes), units)


def autonomous_response(
    rule: Rule, record: Record, steps: Sequence[int] | None = None, num_steps: int = 50
) -> AutonomousResponse:
    """Returns what a rule does without gradients, from states that it has visited.

    Args:
        rule: the rule that was recorded.
        record: its record.
        steps: S steps before which gradients end. By default, four, evenly spread, from the first.
        num_steps: L.

    Raises:
        TypeError: the rule or the record is none.
        ValueError: the rule looks at whole tensors, the record is of another rule, or an argument
            is out of range.
    """
    check_count("num_steps", num_steps)
    stepper = stepper_for(rule, record)
    at = spread_steps(record.num_steps, 4) if steps is None else checked_steps(record, steps)
    nothing = np.zeros((num_steps, 1, record.num_coordinates), np.float32)
    deltas = [_answers(stepper, state_at(record, int(step)), nothing)[:, 0] for step in at]
    return AutonomousResponse(at, np.stack(deltas))


def adaptation(rule: Rule, sizes: np.ndarray | None = None, num_steps: int = 100) -> Adaptation:
    """Returns what a rule makes of gradients that stay the same, from its initial state.

    Args:
        rule: the rule. Each part of it is run on coordinates of its own.
        sizes: float `[K]`, sizes of gradients, positive, finite and ascending. By default, 41 over
            ten decades, from 1e-6 to 1e4.
        num_steps: L.

    Raises:
        TypeError: the rule is none.
        ValueError: the rule looks at whole tensors, or an argument is out of range.
    """
    check_count("num_steps", num_steps)
    tried = np.geomspace(1e-6, 1e4, 41) if sizes is None else np.asarray(sizes, float)
    is_sequence = tried.ndim == 1 and tried.size > 1 and bool(np.isfinite(tried).all())
    if not is_sequence or tried[0] <= 0 or not (np.diff(tried) > 0).all():
        raise ValueError(
            "sizes must be two or more positive, finite numbers, ascending. "
            f"Received: sizes={sizes!r}. Give, say, np.geomspace(1e-6, 1e4, 41)."
        )
    stepper = Stepper(rule)
    both = np.concatenate([tried, -tried]).astype(np.float32)
    gradients = np.repeat(both[:, np.newaxis], stepper.num_coordinates, axis=1)
    constant = np.repeat(gradients[np.newaxis], num_steps, axis=0)
    deltas = _answers(stepper, stepper.initial_state(len(both)), constant)
    return Adaptation(tried, deltas[:, : len(tried)], deltas[:, len(tried) :])


def noise_response(
    rule: Rule,
    means: Sequence[float] = (0.0, 0.3, 1.0, 3.0),
    num_steps: int = 100,
    num_draws: int = 64,
    draw: int = 0,
) -> NoiseResponse:
    """Returns what a rule makes of normal noise around a constant gradient, from its initial state.

    It shows whether steps become smaller where gradients are mostly noise.

    Args:
        rule: the rule. Each part of it is run on coordinates of its own.
        means: K means of the gradients, whose standard deviation is 1.
        num_steps: L.
        num_draws: the number of coordinates for each mean, with noise of their own.
        draw: the seed of the noise.

    Raises:
        TypeError: the rule is none.
        ValueError: the rule looks at whole tensors, there are no means, or a count is not positive.
    """
    check_count("num_steps", num_steps)
    check_count("num_draws", num_draws)
    tried = np.asarray(means, float)
    if tried.ndim != 1 or not tried.size or not np.isfinite(tried).all():
        raise ValueError(
            f"means must be one or more finite numbers. Received: means={means!r}. Give, say, "
            "[0.0, 1.0]."
        )
    stepper = Stepper(rule)
    shape = (num_steps, len(tried), num_draws, stepper.num_coordinates)
    noise = np.random.default_rng(draw).standard_normal(shape)
    gradients = (noise + tried[:, np.newaxis, np.newaxis]).astype(np.float32)
    flat = gradients.reshape(num_steps, -1, stepper.num_coordinates)
    deltas = _answers(stepper, stepper.initial_state(flat.shape[1]), flat).reshape(shape)
    sizes = np.sqrt(np.square(deltas).mean(axis=2))
    return NoiseResponse(tried, sizes, deltas.mean(axis=2))


def _answers(stepper: Stepper, state: dict, gradients: np.ndarray) -> np.ndarray:
    """Returns deltas `[L, K, C]` for gradients `[L, K, C]`."""
    deltas = []
    for gradient in gradients:
        delta, state = stepper(tf.constant(gradient), state)
        deltas.append(delta.numpy())
    return np.stack(deltas)
