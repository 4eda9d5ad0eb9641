"""The gradient of an unroll's loss with respect to a rule's weights."""

from typing import Any, NamedTuple

import tensorflow as tf

from l2l_tf.evaluation.unroll import Iterate, bind, unroll
from l2l_tf.problems.problem import Problem
from l2l_tf.rules.rule import Rule


class MetaGradient(NamedTuple):
    """The result of one unroll.

    Attributes:
        meta_loss: float `[]`, the weighted sum over steps of the mean loss over functions.
        losses: float `[T, F]`, at the iterates after each step.
        gradients: those of the meta-loss, one for each of the rule's trainable weights.
        iterate: the iterate at which the next unroll begins.
    """

    meta_loss: tf.Tensor
    losses: tf.Tensor
    gradients: list[tf.Tensor]
    iterate: Iterate


def meta_gradient(
    rule: Rule,
    problem: Problem,
    seed: tf.Tensor,
    iterate: Iterate,
    num_steps: int,
    step_weights: tf.Tensor | None = None,
    second_derivatives: float = 0.0,
    backpropagation_steps: int | None = None,
    horizon: Any = None,
) -> MetaGradient:
    """Returns the meta-loss L = sum over t of w_t f(theta_t) of an unroll, and its gradient.

    f is the mean over the F functions of a task. t runs from 1 to T, as theta_0 does not depend on
    the weights.
    Source: Andrychowicz et al. 2016, equation 3 (arXiv 1606.04474).

    If the optimizee's gradients g_t are held constant (the paper's approximation), the gradient
    with respect to the weights phi decouples exactly:

        dL/dphi = sum over t < T of (du_t/dphi)^T G_t,   G_t = sum over s > t of w_s g_s,

    where u_t is the delta of step t. The unroll computes the g_s anyway. Each step therefore costs
    one forward and one backward pass of the optimizee, and none of its activations are kept.

    Args:
        rule: a learned rule, or one already bound to the problem's parameters. If it is replayed,
            only gradients are stored, and the backward pass runs the rule again. Otherwise the tape
            of the unroll is kept (`BoundRule.for_training` chooses).
        problem: the problem.
        seed: names the task, int32 `[2]` (`[M, 2]` for a `StackedProblem`).
        iterate: the iterate at which the unroll begins. It is a constant to the gradient
            (truncation).
        num_steps: T.
        step_weights: w_1 .. w_T, float `[T]`. None means ones, as in the paper.
        second_derivatives: the share of the derivative through the optimizee's gradients. 1 (or
            True) gives the true gradient of the unroll's loss, 0 (or False) the approximation
            above. A value in between is the share that passes through each gradient, loss and
            parameter that the rule sees. Unlike the approximation, it penalises a step that goes
            too far. Unlike the true gradient, it does not explode over many such steps when a rule
            sees signs and logarithms. Values other than 0 keep the optimizee's activations.
        backpropagation_steps: K. Each delta gets credit for all losses up to the end of the unroll,
            but its derivative holds the rule's state constant at every K-th step. An unroll can
            then be long, to capture long-term effects of a delta, without derivatives through as
            many steps of the rule. None means the length of the unroll.
        horizon: the number of steps of the whole trajectory, as in `unroll`.

    Raises:
        ValueError: second derivatives are requested for a rule in chunks.
    """
    bound = bind(rule, problem)
    if bound.is_replayed and second_derivatives:
        raise ValueError(
            "second_derivatives need the tape of a whole unroll. "
            f"Received: second_derivatives={second_derivatives} with a rule in chunks. Leave out "
            "one of the two."
        )
    weights = [weight.value for weight in bound.trainable_variables]
    if step_weights is None:
        step_weights = tf.ones([num_steps], iterate.parameters.dtype)
    step_weights = step_weights / problem.num_functions
    record = ["gradients"] if bound.is_replayed else ["gradients", "deltas"]
    # Without watched variables, the tape records nothing.
    with tf.GradientTape(watch_accessed_variables=not bound.is_replayed) as tape:
        steps, last = unroll(
            bound,
            problem,
            seed,
            iterate,
            num_steps,
            [] if second_derivatives else record,
            second_derivatives,
            backpropagation_steps,
            horizon,
        )
        meta_loss = tf.reduce_sum(step_weights[:, tf.newaxis] * steps.losses)
    if bound.is_replayed:
        gradients = bound.pullback(
            iterate.rule_state,
            iterate.gradient,
            steps.gradients,
            step_weights,
            backpropagation_steps,
        )
        return MetaGradient(meta_loss, steps.losses, gradients, last)
    target, cotangents = meta_loss, None
    if not second_derivatives:
        target = steps.deltas
        cotangents = tf.cumsum(step_weights[:, tf.newaxis] * steps.gradients, 0, reverse=True)
    # Weights that don't affect a delta have a zero gradient.
    gradients = tape.gradient(target, weights, cotangents, tf.UnconnectedGradients.ZERO)
    return MetaGradient(meta_loss, steps.losses, gradients, last)
