"""Fixed points of a rule's state without gradients, and the rule's dynamics around them."""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from l2l_tf.analysis.record import WHOLE, Record
from l2l_tf.analysis.state_space import checked_part
from l2l_tf.analysis.stepping import Stepper, stepper_for
from l2l_tf.checks import check_count
from l2l_tf.rules.rule import Rule

_NUM_NEWTON_STEPS = 8
# Residuals, and distances between points that count as one, relative to the states' sizes.
_RESIDUAL, _SAME = 1e-4, 1e-2
# Below this share of the residual that is accepted, Newton's method needs no more iterations.
_NEAR = 0.1
# Gradients, and steps without them, after which it is judged what falls.
_NUM_JUDGED = 20
# Modes whose share in the deltas is below this share of the largest are left out.
_SMALLEST_SHARE = 1e-3


@dataclasses.dataclass(frozen=True)
class FixedPoint:
    """A state that stays as it is without gradients, and the rule for small gradients around it.

    There, a rule is a sum of momenta, one for each mode of its state: a gradient g moves the
    parameter by -rate g at once and by -rate momentum^k g after k steps. In addition, it may move
    by -direct_rate g at once.

    Attributes:
        state: float `[S]`.
        delta: the delta without a gradient: a drift.
        jacobian: float `[S, S]`, of the next state with respect to the state.
        rates: complex `[M]`, of the modes that count, the largest time-integrated effect first.
        momenta: complex `[M]`, their eigenvalues. Complex ones come in pairs: they oscillate.
        direct_rate: what moves without memory.
        largest_eigenvalue: the largest modulus of all eigenvalues; above 1, the point is unstable.
        unit: the root mean square gradient of the coordinate whose scales were held; rates times it
            are deltas.
        num_starts: how many of the starting states led to it.
    """

    state: np.ndarray
    delta: float
    jacobian: np.ndarray
    rates: np.ndarray
    momenta: np.ndarray
    direct_rate: float
    largest_eigenvalue: float
    unit: float
    num_starts: int

    @property
    def time_constants(self) -> np.ndarray:
        """Steps in which each mode falls to 1 / e, `[M]`; infinite for one that does not fall."""
        sizes = np.abs(self.momenta)
        # Powers of tiny numbers have no meaning; their time constants round to zero.
        logs = np.log(np.clip(sizes, 1e-300, 1 - 1e-15))
        return np.where(sizes < 1, -1 / logs, np.inf)


@dataclasses.dataclass(frozen=True)
class FixedPoints:
    """The fixed points that a search from visited states has found.

    Attributes:
        part: the name of the part of the rule.
        points: the points, that of most starts first.
        num_lost: how many starts led to none.
        held: which leaves of the state were held, in the order of `tf.nest.flatten`.
    """

    part: str
    points: tuple[FixedPoint, ...]
    num_lost: int
    held: tuple[int, ...]


def fixed_points(
    rule: Rule,
    record: Record,
    part: str | None = None,
    num_starts: int = 16,
    num_iterations: int = 2000,
    draw: int = 0,
) -> FixedPoints:
    """Returns fixed points of a rule's state under zero gradient, with their modes.

    Scales are held at visited values: counts of steps, and leaves of the state that would be the
    same if all gradients had the other sign and that fall towards zero without gradients, or stay,
    such as a mean of squares. They would fall for ever, and the rule divides by them.

    The search iterates the rule from visited states until they hardly move, and ends with Newton's
    method.
    Source: Maheswaranathan et al. 2021 (arXiv 2011.02159).

    Args:
        rule: the rule that was recorded.
        record: its record.
        part: the part of the rule. May be left out if there is one.
        num_starts: the number of visited states to start from.
        num_iterations: the largest number of steps without gradients.
        draw: the seed of the choice of starts.

    Raises:
        TypeError: the rule or the record is none.
        ValueError: the rule looks at whole tensors, the record is of another rule, there is no such
            part, a count is not positive, or the rule has no state that moves.
    """
    check_count("num_starts", num_starts)
    check_count("num_iterations", num_iterations)
    stepper = stepper_for(rule, record)
    name = checked_part(record, part)
    own = record.parts[name]
    held = _held(stepper, record, name)
    draws = np.random.default_rng(draw)
    chosen = np.sort(draws.choice(len(own), min(num_starts, len(own)), replace=False))
    steps = draws.integers(record.num_steps, size=len(chosen))
    states = record.states[name]  # type: ignore[index]
    visited = tf.nest.map_structure(lambda leaf: _visited(leaf, steps, chosen), states)
    system = _System(stepper.rules[name], visited, held)
    points = system.pack(visited)
    size = system.sizes(points)
    for _ in range(num_iterations):
        before, points = points, system.step(points)
        if np.abs((points - before) / size).max() < _NEAR * _RESIDUAL:
            break
    points, residuals = system.newton(points, size)
    found: list[FixedPoint] = []
    centres: list[np.ndarray] = []
    counts: list[int] = []
    is_lost = ~(residuals < _RESIDUAL)
    for index in np.flatnonzero(~is_lost):
        for known, centre in enumerate(centres):
            if np.abs((points[index] - centre) / size).max() < _SAME:
                counts[known] += 1
                break
        else:
            centres.append(points[index])
            counts.append(1)
            unit = float(record.units[own[chosen[index]]])
            found.append(system.around(points, int(index), unit))
    order = np.argsort([-count for count in counts], kind="stable")
    ordered = tuple(dataclasses.replace(found[i], num_starts=counts[i]) for i in order)
    return FixedPoints(name, ordered, int(is_lost.sum()), tuple(held))


def optimal_heavy_ball(smallest: float, largest: float) -> tuple[float, float]:
    """Returns the rate and momentum that minimise quadratics of these curvatures fastest.

    Source: Polyak 1964: rate 4 / (sqrt(L) + sqrt(l))^2, momentum ((sqrt(L) - sqrt(l)) / (sqrt(L) +
    sqrt(l)))^2 for curvatures from l to L.

    Raises:
        ValueError: the curvatures are not positive, or the first is larger.
    """
    if not 0 < smallest <= largest < np.inf:
        raise ValueError(
            "smallest and largest must be positive curvatures, the smaller first. "
            f"Received: smallest={smallest}, largest={largest}. Give, say, 0.01 and 1."
        )
    roots = np.sqrt(smallest), np.sqrt(largest)
    total = roots[0] + roots[1]
    return float(4 / total**2), float(((roots[1] - roots[0]) / total) ** 2)


def curvatures_of(rate: float, momentum: float) -> tuple[float, float]:
    """Returns the curvatures for which a rate and a momentum are the optimal heavy ball's.

    It inverts `optimal_heavy_ball`.

    Raises:
        ValueError: the rate is not positive, or the momentum not in [0, 1).
    """
    if not (0 < rate < np.inf and 0 <= momentum < 1):
        raise ValueError(
            "rate must be positive, and momentum at least 0 and below 1. "
            f"Received: rate={rate}, momentum={momentum}. Give those of a real mode."
        )
    root = np.sqrt(momentum)
    return float((1 - root) ** 2 / rate), float((1 + root) ** 2 / rate)


def _visited(leaf: np.ndarray, steps: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Returns a leaf at M pairs of step and coordinate; of a scalar, the last one."""
    return leaf[steps, chosen] if leaf.ndim > 1 else leaf[-1]


def _held(stepper: Stepper, record: Record, part: str) -> list[int]:
    """Returns which leaves of a part's state are scales or counts.

    A leaf is a scale if gradients of the other sign would have left it the same, it moved, and it
    does not move away from zero without gradients.
    """
    alone = Stepper(stepper.rules[part], {WHOLE: np.arange(len(record.parts[part]))})
    own = record.gradients[:_NUM_JUDGED][:, record.parts[part]]
    after, ends = [], []
    for sign in (1, -1):
        state = alone.initial_state()
        for gradient in sign * own:
            _, state = alone(gradient[np.newaxis], state)
        after.append([leaf.numpy() for leaf in tf.nest.flatten(state)])
        for _ in range(_NUM_JUDGED):
            _, state = alone(np.zeros_like(own[:1]), state)
        ends.append([leaf.numpy() for leaf in tf.nest.flatten(state)])

    def is_scale(one: np.ndarray, other: np.ndarray, end: np.ndarray) -> bool:
        has_no_sign = np.abs(one).max() > 0 and np.allclose(one, other, 1e-4, 0)
        # Towards zero, on its own side.
        falls = (end * one >= 0).all() and (np.abs(end) <= np.abs(one)).all()
        return bool(has_no_sign and falls)

    return [
        index
        for index, (one, other, end) in enumerate(zip(*after, ends[0], strict=True))
        if one.ndim == 0 or is_scale(one, other, end)
    ]


class _System:
    """A rule's state without its held leaves, as vectors, and the rule as a map of them.

    Args:
        rule: the rule of one part.
        visited: M states, as a nest of arrays `[M, ...]` and scalars.
        held: the indices of the held leaves.
    """

    def __init__(self, rule: Any, visited: Any, held: list[int]):
        self._rule = rule
        self._structure = visited
        self._leaves = [tf.constant(leaf) for leaf in tf.nest.flatten(visited)]
        self._held = set(held)
        self._take_step = tf.function(self._map, autograph=False)
        if len(self._held) == len(self._leaves):
            raise ValueError(
                "fixed_points needs a rule with a state that gradients move. Received: "
                f"{rule!r}, which has none but scales and counts. Look at another rule."
            )

    def pack(self, state: Any) -> np.ndarray:
        """Returns the leaves that are not held as vectors `[M, S]`, float64."""
        leaves = [np.asarray(leaf) for leaf in tf.nest.flatten(state)]
        kept = [leaf for index, leaf in enumerate(leaves) if index not in self._held]
        return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in kept], 1).astype(np.float64)

    def sizes(self, points: np.ndarray) -> np.ndarray:
        """Returns the root mean square of the leaf that each number is in, `[S]`."""
        sizes: list[float] = []
        for index, leaf in enumerate(self._leaves):
            if index not in self._held:
                count = int(np.prod(leaf.shape[1:]))
                own = points[:, len(sizes) : len(sizes) + count]
                sizes += [1e-12 + float(np.sqrt(np.mean(np.square(own))))] * count
        return np.array(sizes)

    def _unpack(self, vectors: tf.Tensor, rows: Any) -> Any:
        """Returns states whose held leaves are those of some of the M states."""
        leaves, offset = [], 0
        for index, leaf in enumerate(self._leaves):
            own = tf.gather(leaf, rows) if leaf.shape.rank else leaf
            if index not in self._held:
                size = int(np.prod(leaf.shape[1:]))
                own = tf.reshape(vectors[:, offset : offset + size], own.shape)
                own = tf.cast(own, leaf.dtype)
                offset += size
            leaves.append(own)
        return tf.nest.pack_sequence_as(self._structure, leaves)

    def _map(
        self, vectors: tf.Tensor, gradient: tf.Tensor, rows: Any
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns deltas `[M]` and the next states `[M, S]`."""
        delta, state = self._rule(gradient, self._unpack(vectors, rows))
        leaves = tf.nest.flatten(state)
        kept = [leaf for index, leaf in enumerate(leaves) if index not in self._held]
        return delta, tf.concat([tf.reshape(leaf, [rows.shape[0], -1]) for leaf in kept], axis=1)

    def step(self, points: np.ndarray) -> np.ndarray:
        """Returns the states after a step without gradients."""
        vectors = tf.constant(points, tf.float32)
        rows = np.arange(len(points))
        _, after = self._take_step(vectors, tf.zeros([len(points)]), tf.constant(rows))
        return after.numpy().astype(np.float64)

    def _derivatives(
        self, points: np.ndarray, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Returns deltas, and derivatives with respect to the states and the gradient.

        They are `[M]`; `[M, S, S]` of the next states and `[M, S]` of the deltas; `[M, S]` and
        `[M]` with respect to the gradient.
        """
        count, size = points.shape
        # One copy for each direction: a coordinate's answer depends on its own state alone.
        copies = tf.constant(np.repeat(points, size + 1, axis=0), tf.float32)
        directions = np.tile(np.eye(size + 1, dtype=np.float32), [count, 1])
        gradient = tf.zeros([len(directions)])
        tangents = [tf.constant(directions[:, :size]), tf.constant(directions[:, size])]
        with tf.autodiff.ForwardAccumulator([copies, gradient], tangents) as accumulator:
            delta, after = self._map(copies, gradient, np.repeat(rows, size + 1))
        of_delta, of_state = (
            accumulator.jvp(one, tf.UnconnectedGradients.ZERO).numpy().astype(np.float64)
            for one in (delta, after)
        )
        of_state = of_state.reshape(count, size + 1, size)
        of_delta = of_delta.reshape(count, size + 1)
        deltas = delta.numpy().reshape(count, size + 1)[:, 0]
        jacobians = of_state[:, :size].transpose(0, 2, 1)
        return deltas, jacobians, of_delta[:, :size], of_state[:, size], of_delta[:, size]

    def newton(self, points: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns refined points, and how far a step moves each, relative to sizes of states."""
        rows = np.arange(len(points))

        def residual(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            moved = self.step(points) - points
            return moved, np.abs(moved / size).max(axis=1)

        moved, residuals = residual(points)
        for _ in range(_NUM_NEWTON_STEPS):
            _, jacobians, *_ = self._derivatives(points, rows)
            systems = jacobians - np.eye(points.shape[1])
            step = np.stack(
                [np.linalg.lstsq(a, -b, rcond=None)[0] for a, b in zip(systems, moved, strict=True)]
            )
            tried = points + step
            tried_moved, tried_residuals = residual(tried)
            is_better = tried_residuals < residuals
            if not is_better.any():
                break
            points = np.where(is_better[:, np.newaxis], tried, points)
            moved = np.where(is_better[:, np.newaxis], tried_moved, moved)
            residuals = np.where(is_better, tried_residuals, residuals)
        return points, residuals

    def around(self, points: np.ndarray, index: int, unit: float) -> FixedPoint:
        """Returns one of the points with the rule's linearisation around it."""
        delta, (jacobian,), (of_state,), (into_state,), (direct,) = self._derivatives(
            points[index : index + 1], np.array([index])
        )
        values, vectors = np.linalg.eig(jacobian)
        # delta_k = direct g for k = 0; of_state jacobian^(k - 1) into_state g after that.
        into_modes = np.linalg.lstsq(vectors, into_state.astype(complex), rcond=None)[0]
        shares = (of_state @ vectors) * into_modes
        is_zero = np.abs(values) < 1e-6
        rates = np.where(is_zero, 0, -shares / np.where(is_zero, 1, values))
        effects = np.abs(rates) / np.maximum(np.abs(1 - values), 1e-6)
        order = np.argsort(-effects, kind="stable")
        order = order[effects[order] > _SMALLEST_SHARE * effects.max(initial=0.0)]
        return FixedPoint(
            state=points[index],
            delta=float(delta[0]),
            jacobian=jacobian,
            rates=rates[order],
            momenta=values[order],
            direct_rate=float(-direct - rates.sum().real),
            largest_eigenvalue=float(np.abs(values).max()),
            unit=unit,
            num_starts=1,
        )
