"""The gradient of an unroll's loss with respect to a rule's weights."""

from typing import NamedTuple

import keras
import tensorflow as tf

from l2l_tf.problems.problem import Problem
from l2l_tf.training.replay import choose_chunk_size, replay_gradient
from l2l_tf.training.unroll import Iterate, unroll


class MetaGradient(NamedTuple):
    """What one unroll gives to meta-training.

    Attributes:
        meta_loss: float `[]`, the sum over steps of the mean loss over functions.
        losses: float `[T, F]`, at the iterates after each step.
        gradients: of the meta-loss, one for each of the rule's trainable weights.
        iterate: where the next unroll begins.
    """

    meta_loss: tf.Tensor
    losses: tf.Tensor
    gradients: list[tf.Tensor]
    iterate: Iterate


def meta_gradient(
    rule: keras.layers.Layer,
    problem: Problem,
    seed: tf.Tensor,
    iterate: Iterate,
    num_steps: int,
    step_weights: tf.Tensor | None = None,
    second_derivatives: bool = False,
    chunk_size: int | None = None,
) -> MetaGradient:
    """Returns the meta-loss L = sum over t of w_t f(theta_t) of an unroll, and its gradient.

    f is the mean over the F functions of a task; t runs from 1 to T, as theta_0 depends on no
    weight.
    Source: Andrychowicz et al. 2016, equation 3 (arXiv 1606.04474).

    With the optimizee's gradients g_t taken as constants (the paper's approximation), the gradient
    with respect to the weights phi decouples exactly:

        dL/dphi = sum over t < T of (du_t/dphi)^T G_t,   G_t = sum over s > t of w_s g_s,

    where u_t is the delta of step t. The g_s are those that the unroll computed anyway, so each
    step costs one forward and one backward pass of the optimizee, and none of its activations are
    kept.

    Args:
        rule: a learned rule.
        problem: the problem.
        seed: names the task, int32 `[2]` (`[M, 2]` for a `StackedProblem`).
        iterate: where the unroll begins; a constant to the gradient (truncation).
        num_steps: T.
        step_weights: w_1 .. w_T, float `[T]`; ones if None, as in the paper.
        second_derivatives: whether to differentiate through the optimizee's gradients too. That is
            the true gradient of the unroll's loss; it keeps the optimizee's activations, and costs
            little on problems as small as quadratics, much on networks.
        chunk_size: coordinates that the backward pass takes at once, if it is not to be chosen
            by size (`choose_chunk_size`); plays no part with second derivatives.
    """
    weights = [weight.value for weight in rule.trainable_variables]
    scale = tf.ones([num_steps], iterate.parameters.dtype) if step_weights is None else step_weights
    scale = scale[:, tf.newaxis] / problem.num_functions
    if second_derivatives:
        chunk_size = None
    elif chunk_size is None:
        chunk_size = choose_chunk_size(rule, iterate.parameters.shape[0], num_steps)
    record = [] if second_derivatives else ["gradients"] if chunk_size else ["gradients", "deltas"]
    # Without a watched variable, the tape keeps nothing.
    with tf.GradientTape(watch_accessed_variables=chunk_size is None) as tape:
        steps, last = unroll(rule, problem, seed, iterate, num_steps, record, second_derivatives)
        meta_loss = tf.reduce_sum(scale * steps.losses)
    target, cotangents = meta_loss, None
    if not second_derivatives:
        target = steps.deltas
        cotangents = tf.cumsum(scale * steps.gradients, axis=0, reverse=True)
    if chunk_size is not None:
        inputs = tf.concat([iterate.gradient[tf.newaxis], steps.gradients[:-1]], axis=0)
        gradients = replay_gradient(rule, iterate.rule_state, inputs, cotangents, chunk_size)
    else:
        # Weights that play no part in a delta have a gradient of zero.
        gradients = tape.gradient(target, weights, cotangents, tf.UnconnectedGradients.ZERO)
    return MetaGradient(meta_loss, steps.losses, gradients, last)
