"""Searches for the best learning rate of a rule, or any other number in it."""

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from l2l_tf.checks import check_one_of, check_positive
from l2l_tf.evaluation.evaluation import METRICS, Evaluation, evaluate, evaluate_rates
from l2l_tf.problems.problem import Problem
from l2l_tf.rules.rule import Rule

# Quarter decades from 1e-6 to 10: 29 rates.
DEFAULT_LEARNING_RATES = tuple(float(f"{10 ** (k / 4):.4g}") for k in range(-24, 5))


@dataclasses.dataclass(frozen=True)
class Tuning:
    """The outcome of a search.

    Attributes:
        best: the candidate with the lowest loss among those that ran to the end.
        candidates: all candidates tried, in ascending order.
        losses: the loss of each candidate, averaged over runs. Infinite if a run diverged.
        num_steps: the number of steps after which each loss was taken. If all candidates ran to the
            end, it is empty or holds only the horizon.
    """

    best: float
    candidates: tuple[float, ...]
    losses: tuple[float, ...]
    num_steps: tuple[int, ...] = ()

    @property
    def best_loss(self) -> float:
        """The loss of the best candidate."""
        return self.losses[self.candidates.index(self.best)]

    @property
    def is_at_edge(self) -> bool:
        """Whether the best is the lowest or highest tried, so that a better one may lie beyond."""
        return self.best in (self.candidates[0], self.candidates[-1])

    @property
    def has_diverged(self) -> bool:
        """Whether every candidate had a diverging run; `best` is then meaningless."""
        return not np.isfinite(self.losses).any()


def search(
    make_rule: Callable[[float], Rule],
    problem: Problem,
    seeds: tf.Tensor,
    num_steps: int,
    candidates: Sequence[float],
    metric: str = "final_loss",
) -> Tuning:
    """Returns the candidate whose rule is best over the whole horizon.

    This works for any number in any rule, since rules run one after another. For the rates of
    hand-designed rules, `tune` is faster. For example, to find the best scale of a learned rule's
    steps:

        tuning = search(rule.rescaled, problem, seeds, 1000, [1, 2, 4])
        rule = rule.rescaled(tuning.best)

    A rule trained on short unrolls may take steps that are too small for long trajectories. A short
    unroll contains the full cost of minibatch noise, but only part of the gain of a step
    (short-horizon bias: Wu et al. 2018, arXiv 1803.02021).

    Args:
        make_rule: returns the rule for a candidate.
        problem: the problem that the tasks are drawn from.
        seeds: the tasks, int32 `[M, 2]`. Use validation tasks, not those that results are reported
            on.
        num_steps: the horizon.
        candidates: finite numbers, in any order.
        metric: one of `METRICS`, computed by `Evaluation`. The candidate with the lowest value
            wins. In a tie, the lowest candidate wins.

    Returns:
        The outcome. Check `has_diverged` and `is_at_edge`: unlike `tune`, a search neither raises
        if every candidate diverges, nor warns if the best one is at the edge.

    Raises:
        ValueError: there are no candidates, one is not finite, the metric is unknown, or
            `make_rule` or `evaluate` raises it.
    """
    tried = tuple(sorted(set(candidates)))
    if not tried or not all(math.isfinite(one) for one in tried):
        raise ValueError(
            "candidates must hold finite numbers. "
            f"Received: candidates={list(candidates)}. Give, say, [1, 2, 4]."
        )
    check_one_of("metric", metric, METRICS)
    # All rules are made before the first one runs, so that a bad candidate is rejected at once.
    rules = [make_rule(one) for one in tried]
    losses = tuple(getattr(evaluate(rule, problem, seeds, num_steps), metric) for rule in rules)
    return Tuning(tried[int(np.argmin(losses))], tried, losses)


def tune(
    make_rule: Callable[[tf.Tensor], Rule],
    problem: Problem,
    seeds: tf.Tensor,
    num_steps: int,
    learning_rates: Sequence[float] = DEFAULT_LEARNING_RATES,
    max_coordinates: int | None = None,
) -> Tuning:
    """Returns the learning rate with the lowest final loss on validation tasks.

    All rates run on the same tasks, side by side in groups.

    Args:
        make_rule: returns a rule for a vector of learning rates `[N]`; see `BASELINES`.
        problem: the problem that the tasks are drawn from.
        seeds: the tasks, int32 `[M, 2]`. Don't use those that results are reported on.
        num_steps: the horizon.
        learning_rates: two or more positive numbers, in any order.
        max_coordinates: the number of coordinates that run side by side, as in `evaluate`.

    Raises:
        ValueError: there are fewer than two rates, a rate is not positive and finite, a run
            diverged at every rate, or `evaluate` raises it.

    Warns:
        UserWarning: the best rate is the lowest or highest.
    """
    rates = _checked_rates(learning_rates)
    final_losses = _final_losses(make_rule, problem, seeds, rates, num_steps, max_coordinates)
    best = int(np.argmin(final_losses))
    return _checked_tuning(Tuning(rates[best], rates, tuple(final_losses)))


def tune_by_halving(
    make_rule: Callable[[tf.Tensor], Rule],
    problem: Problem,
    seeds: tf.Tensor,
    num_steps: int,
    learning_rates: Sequence[float] = DEFAULT_LEARNING_RATES,
    max_coordinates: int | None = None,
) -> Tuning:
    """Returns the learning rate with the lowest final loss, stopping poor rates early.

    This is successive halving, but by thirds. All rates run for a ninth of the horizon, the best
    third of them for a third of it, and the best third of those to the end. A rate that does well
    early may do worse late. So while the best rate has a neighbour on the grid that was not run to
    the end, that one is run too. The returned rate is therefore better at the end than both its
    neighbours. If the final losses have one minimum over rates, it is the best of all, whatever the
    losses were before.
    Source: Jamieson and Talwalkar 2016 (arXiv 1502.07943).

    Args:
        make_rule: as in `tune`.
        problem: as in `tune`.
        seeds: as in `tune`.
        num_steps: the horizon.
        learning_rates: as in `tune`.
        max_coordinates: as in `tune`.

    Raises:
        ValueError: as in `tune`.

    Warns:
        UserWarning: the best rate is the lowest or highest.
    """
    rates = _checked_rates(learning_rates)
    runs = _Runs(make_rule, problem, seeds, num_steps, max_coordinates)
    survivors: Sequence[float] = rates
    for share in (_SHARE**2, _SHARE, 1):
        runs.run(survivors, math.ceil(num_steps / share))
        finite = [rate for rate in survivors if np.isfinite(runs.loss(rate))]
        if share > 1:
            num_kept = math.ceil(len(survivors) / _SHARE)
            survivors = sorted(sorted(finite, key=runs.loss)[:num_kept])
        if not survivors:
            break
    return _checked_tuning(runs.search_neighbours(rates))


def tune_from(
    make_rule: Callable[[tf.Tensor], Rule],
    problem: Problem,
    seeds: tf.Tensor,
    num_steps: int,
    first_rate: float,
    learning_rates: Sequence[float] = DEFAULT_LEARNING_RATES,
    max_coordinates: int | None = None,
) -> Tuning:
    """Returns the learning rate found by a local search from a likely one.

    This is for costly problems, if the best rate is known for a similar one. It runs the rate on
    the grid that is nearest to the first one, in ratio, to the end. If that diverges, it tries the
    next lower rate, until one does not diverge. Then, while the best rate has a neighbour that was
    not run, it runs that one to the end too. The returned rate is therefore better than both its
    neighbours. If losses have one minimum over rates, it is the best of all.

    Args:
        make_rule: as in `tune`.
        problem: as in `tune`.
        seeds: as in `tune`.
        num_steps: the horizon.
        first_rate: the positive number at which the search begins.
        learning_rates: as in `tune`.
        max_coordinates: as in `tune`.

    Raises:
        ValueError: the first rate is not positive and finite, or as in `tune`.

    Warns:
        UserWarning: the best rate is the lowest or highest.
    """
    advice = "Give a rate that was good for a problem like it."
    check_positive("first_rate", first_rate, advice)
    rates = _checked_rates(learning_rates)
    runs = _Runs(make_rule, problem, seeds, num_steps, max_coordinates)
    nearest = min(rates, key=lambda rate: abs(math.log(rate / first_rate)))
    for rate in reversed(rates[: rates.index(nearest) + 1]):
        runs.run([rate], num_steps)
        if np.isfinite(runs.loss(rate)):
            break
    return _checked_tuning(runs.search_neighbours(rates))


# In each round of successive halving, runs are this many times as long as in the round before.
_SHARE = 3


class _Runs:
    """The results for each rate: the number of steps in its last run, and its loss then."""

    def __init__(
        self,
        make_rule: Callable[[tf.Tensor], Rule],
        problem: Problem,
        seeds: tf.Tensor,
        num_steps: int,
        max_coordinates: int | None,
    ):
        self._arguments = make_rule, problem, seeds
        self._num_steps = num_steps
        self._max_coordinates = max_coordinates
        self._ends: dict[float, tuple[int, float]] = {}

    def run(self, rates: Sequence[float], num_steps: int) -> None:
        losses = _final_losses(*self._arguments, rates, num_steps, self._max_coordinates)
        for rate, loss in zip(rates, losses, strict=True):
            self._ends[rate] = (num_steps, loss)

    def loss(self, rate: float) -> float:
        return self._ends[rate][1]

    def search_neighbours(self, rates: Sequence[float]) -> Tuning:
        """Runs the best rate's neighbours until both are worse; returns all results."""
        while True:
            complete = [rate for rate in rates if self._num_steps_of(rate) == self._num_steps]
            best = min(complete, key=self.loss, default=math.inf)
            if complete and np.isfinite(self.loss(best)):
                index = rates.index(best)
                candidates = list(rates[max(0, index - 1) : index + 2])
            else:
                candidates = [rate for rate in rates if not self._has_diverged(rate)]
            missing = [rate for rate in candidates if rate not in complete]
            if not missing:
                break
            self.run(missing, self._num_steps)
        tried = tuple(rate for rate in rates if rate in self._ends)
        num_steps, losses = zip(*(self._ends[rate] for rate in tried), strict=True)
        return Tuning(best, tried, losses, num_steps)

    def _num_steps_of(self, rate: float) -> int:
        return self._ends.get(rate, (0, math.inf))[0]

    def _has_diverged(self, rate: float) -> bool:
        return rate in self._ends and not np.isfinite(self.loss(rate))


def _checked_rates(learning_rates: Sequence[float]) -> tuple[float, ...]:
    """Returns the distinct rates in ascending order, after checking them."""
    rates = tuple(sorted(set(learning_rates)))
    if len(rates) < 2 or not all(0 < rate < math.inf for rate in rates):
        raise ValueError(
            "learning_rates must hold two or more different positive numbers. "
            f"Received: learning_rates={tuple(learning_rates)}. Give a grid, say in half decades."
        )
    return rates


def _final_losses(
    make_rule: Callable[[tf.Tensor], Rule],
    problem: Problem,
    seeds: tf.Tensor,
    rates: Sequence[float],
    num_steps: int,
    max_coordinates: int | None,
) -> list[float]:
    """Returns the final loss of each rate on the same tasks."""
    num_rates, num_tasks = len(rates), seeds.shape[0]
    # All tasks at the first rate, all tasks at the second, ...
    runs = evaluate_rates(
        make_rule,
        problem,
        tf.tile(seeds, [num_rates, 1]),
        np.repeat(rates, num_tasks).tolist(),
        num_steps,
        max_coordinates,
    )
    per_rate = np.split(runs.losses, num_rates, axis=1)
    return [Evaluation(losses, runs.num_final).final_loss for losses in per_rate]


def _checked_tuning(tuning: Tuning) -> Tuning:
    """Returns a tuning. Raises if all rates diverged, and warns if the best is at the edge."""
    rates = tuning.candidates
    if tuning.has_diverged:
        raise ValueError(
            "learning_rates must hold a rate at which no run diverges. "
            f"Received: learning_rates={rates}. Try lower ones."
        )
    if tuning.is_at_edge:
        warnings.warn(
            f"The best learning rate, {tuning.best:g}, is at the edge of the {len(rates)} "
            f"rates tried, {rates[0]:g} to {rates[-1]:g}; a better one may lie beyond.",
            UserWarning,
            stacklevel=3,
        )
    return tuning
