"""The search for how much Nesterov momentum a learned rule should have beside it."""

import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from l2l_tf.problems.problem import Problem
from l2l_tf.rules.nesterov_rnnprop import with_nesterov
from l2l_tf.training.delta_factors import check_metric
from l2l_tf.training.evaluation import evaluate


def add_nesterov(
    rule: keras.layers.Layer,
    problem: Problem,
    seeds: tf.Tensor,
    num_steps: int,
    rates: Sequence[float],
    metric: str = "final_loss",
    damping_power: float = 2.0,
) -> tuple[keras.layers.Layer, dict[float, float]]:
    """Adds Nesterov momentum to a learned RNNprop, at the rate that is best over the whole horizon.

    Args:
        rule: an RNNprop, or a `RoutedRule` of such; it stays as it is.
        problem: the problem that the tasks are drawn from.
        seeds: the tasks, int32 `[M, 2]`: those of validation, not those that results are of.
        num_steps: the horizon.
        rates: what to try, in any order: `nesterov_rate` of `NesterovRNNprop`, the same for all
            parts, and 0 for the rule as it is.
        metric: one of `VALIDATION_METRICS`, as `Evaluation` has them; the lowest decides, of equal
            ones the first.
        damping_power: that of `NesterovRNNprop`.

    Returns:
        The best rule, and what each rate came to, by rate; infinite where a run diverged. Where all
        are infinite, the rule is the one that was given.

    Raises:
        TypeError: the rule, or a part of it, is no RNNprop.
        ValueError: there are no rates, one is negative or not finite, the metric is unknown, the
            power is one that `NesterovRNNprop` refuses, or what `evaluate` refuses.
    """
    if not rates or not all(0 <= rate < math.inf for rate in rates):
        raise ValueError(
            "rates must hold finite numbers from 0 on. "
            f"Received: rates={list(rates)}. Give, say, [0, 0.005, 0.01]."
        )
    check_metric(metric)
    # So that what can't be added to is refused even where 0 is all that is tried.
    with_nesterov(rule, 1.0, damping_power)
    candidates = {
        rate: with_nesterov(rule, rate, damping_power) if rate else rule for rate in rates
    }
    losses = {
        rate: getattr(evaluate(candidate, problem, seeds, num_steps), metric)
        for rate, candidate in candidates.items()
    }
    best = min(losses, key=lambda rate: losses[rate])
    return (candidates[best] if np.isfinite(losses[best]) else rule), losses
