"""The search for the learning rate of a hand-designed rule."""

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from l2l_tf.problems.problem import Problem
from l2l_tf.rules.rule import Rule
from l2l_tf.training.evaluation import MAX_COORDINATES, Evaluation, evaluate_rates

# Quarter decades from 1e-6 to 10: 29 rates.
DEFAULT_LEARNING_RATES = tuple(float(f"{10 ** (k / 4):.4g}") for k in range(-24, 5))


@dataclasses.dataclass(frozen=True)
class Tuning:
    """The outcome of a search.

    Attributes:
        learning_rate: the rate with the lowest final loss.
        learning_rates: all rates tried, ascending.
        final_losses: the final loss of each, averaged over runs; infinite where one diverged.
    """

    learning_rate: float
    learning_rates: tuple[float, ...]
    final_losses: tuple[float, ...]

    @property
    def is_at_edge(self) -> bool:
        """Whether the best rate is the lowest or highest tried, so that a better may lie beyond."""
        return self.learning_rate in (self.learning_rates[0], self.learning_rates[-1])


def tune(
    make_rule: Callable[[tf.Tensor], Rule],
    problem: Problem,
    seeds: tf.Tensor,
    num_steps: int,
    learning_rates: Sequence[float] = DEFAULT_LEARNING_RATES,
    max_coordinates: int = MAX_COORDINATES,
) -> Tuning:
    """Returns the learning rate with the lowest final loss on validation tasks.

    All rates run side by side, each on the same tasks, as far as memory allows.

    Args:
        make_rule: a coordinatewise rule for a vector of learning rates `[N]`; see `BASELINES`.
        problem: the problem that the tasks are drawn from.
        seeds: the tasks, int32 `[M, 2]`; not those that results are reported on.
        num_steps: the horizon.
        learning_rates: what to try: positive numbers, two or more, in any order.
        max_coordinates: how many coordinates run side by side, as in `evaluate`: where the tasks
            at all rates have more of them together, they run in groups.

    Raises:
        ValueError: fewer than two rates, a rate that is not positive and finite, a rule that is not
            coordinatewise, at each rate a run diverged, or what `evaluate` refuses.

    Warns:
        UserWarning: the best rate is the lowest or highest.
    """
    rates = tuple(sorted(set(learning_rates)))
    if len(rates) < 2 or not all(0 < rate < math.inf for rate in rates):
        raise ValueError(
            "learning_rates must hold two or more different positive numbers. "
            f"Received: learning_rates={tuple(learning_rates)}. Give a grid, say in half decades."
        )
    num_rates, num_tasks = len(rates), seeds.shape[0]
    if not make_rule(tf.constant(rates)).is_coordinatewise:
        raise ValueError(
            "make_rule must make coordinatewise rules, for rates to run side by side. "
            f"Received: make_rule={make_rule!r}. Evaluate another rule at each rate apart."
        )
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
    final_losses = [Evaluation(losses, runs.num_final).final_loss for losses in per_rate]
    best = int(np.argmin(final_losses))
    if not np.isfinite(final_losses[best]):
        raise ValueError(
            "learning_rates must hold a rate at which no run diverges. "
            f"Received: learning_rates={rates}. Try lower ones."
        )
    tuning = Tuning(rates[best], rates, tuple(final_losses))
    if tuning.is_at_edge:
        warnings.warn(
            f"The best learning rate, {rates[best]:g}, is at the edge of the {num_rates} rates "
            f"tried, {rates[0]:g} to {rates[-1]:g}; a better one may lie beyond.",
            UserWarning,
            stacklevel=2,
        )
    return tuning
