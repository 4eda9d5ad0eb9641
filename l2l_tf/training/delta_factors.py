"""The search for how far a learned rule should go: one factor for all of its deltas."""

import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from l2l_tf.problems.problem import Problem
from l2l_tf.rules.routed import RoutedRule
from l2l_tf.training.evaluation import evaluate
from l2l_tf.training.meta_settings import VALIDATION_METRICS


def tune_deltas(
    rule: keras.layers.Layer,
    problem: Problem,
    seeds: tf.Tensor,
    num_steps: int,
    factors: Sequence[float],
    metric: str = "final_loss",
) -> dict[float, float]:
    """Multiplies a learned rule's deltas by the factor that is best over the whole horizon.

    What an unroll's loss gains by a delta ends with the unroll, but what minibatches' noise costs
    shows at once, so rules that are trained on short unrolls of long trajectories may take steps
    that are too small (short-horizon bias: Wu et al. 2018, arXiv 1803.02021). This is to a learned
    rule what the search for a learning rate is to a hand-designed one.

    Args:
        rule: a learned rule; the factor becomes a part of its output scale (`scale_deltas`).
        problem: the problem that the tasks are drawn from.
        seeds: the tasks, int32 `[M, 2]`: those of validation, not those that results are of.
        num_steps: the horizon.
        factors: what to try: positive numbers, in any order.
        metric: one of `VALIDATION_METRICS`, as `Evaluation` has them (with minibatches, the final
            loss is the mean of several); the lowest decides, of equal ones the first.

    Returns:
        What each factor came to, by factor; infinite where a run diverged. Where all are infinite,
        the rule stays as it is.

    Raises:
        TypeError: the rule, or a part of it, has no `scale_deltas`.
        ValueError: there are no factors, one is not positive and finite, the metric is unknown, or
            what `evaluate` refuses.
    """
    for part in rule.parts.values() if isinstance(rule, RoutedRule) else [rule]:
        if not hasattr(part, "scale_deltas"):
            raise TypeError(
                "rule must be a learned rule whose deltas can be scaled. "
                f"Received: {part!r}. Give a CoordinatewiseLSTM, an RNNprop or a RoutedRule of "
                "such, or give yours a method scale_deltas(factor)."
            )
    if not factors or not all(0 < factor < math.inf for factor in factors):
        raise ValueError(
            "factors must hold positive, finite numbers. "
            f"Received: factors={list(factors)}. Give, say, [1, 2, 4]."
        )
    check_metric(metric)
    config, weights = rule.get_config(), rule.get_weights()

    def scaled(factor: float) -> keras.layers.Layer:
        copy = type(rule).from_config(config)
        copy.set_weights(weights)
        copy.scale_deltas(factor)
        return copy

    losses = {
        factor: getattr(evaluate(scaled(factor), problem, seeds, num_steps), metric)
        for factor in factors
    }
    best = min(losses, key=lambda factor: losses[factor])
    if np.isfinite(losses[best]):
        rule.scale_deltas(best)
    return losses


def check_metric(metric: str) -> None:
    """Raises a ValueError unless the metric is one of `VALIDATION_METRICS`."""
    if metric not in VALIDATION_METRICS:
        raise ValueError(
            f"metric must be one of {sorted(VALIDATION_METRICS)}. "
            f"Received: metric={metric!r}. Choose one of them."
        )
