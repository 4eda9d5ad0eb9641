"""The gradient of an unroll's loss with respect to a rule's weights."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from l2l_tf.evaluation.unroll import Iterate, bind, step_function, unroll
from l2l_tf.problems.problem import Problem
from l2l_tf.rules.rule import BoundRule, Rule


class MetaGradient(NamedTuple):
    """The result of one unroll.

    Attributes:
        meta_loss: float `[]`, the weighted sum over steps of the mean normalised loss over
            functions.
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
    num_steps: int | tf.Tensor,
    step_weights: tf.Tensor | None = None,
    second_derivatives: float = 0.0,
    backpropagation_steps: int | None = None,
    horizon: Any = None,
    rematerializes: bool = False,
) -> MetaGradient:
    """Returns the meta-loss L = sum over t of w_t f(theta_t) of an unroll, and its gradient.

    f is the mean over the F functions of a task, of losses as they count in meta-training
    (`Problem.normalized`). t runs from 1 to T, as theta_0 does not depend on the weights.
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
        rematerializes: whether to keep the iterates alone, and to compute each step again in a
            backward loop of its own. It has no effect without second derivatives.

    Raises:
        ValueError: second derivatives are requested for a rule in chunks, or left out for a problem
            whose logarithms count.
    """
    bound = bind(rule, problem)
    if bound.is_replayed and second_derivatives:
        raise ValueError(
            "second_derivatives need the tape of a whole unroll. "
            f"Received: second_derivatives={second_derivatives} with a rule in chunks. Leave out "
            "one of the two."
        )
    if problem.is_logarithmic and not second_derivatives:
        raise ValueError(
            "second_derivatives must be given for problems whose logarithms count. "
            f"Received: second_derivatives={second_derivatives} with the logarithmic problem "
            f"{problem.name!r}. Give, say, 1."
        )
    weights = [weight.value for weight in bound.trainable_variables]
    if step_weights is None:
        step_weights = tf.ones([num_steps], iterate.parameters.dtype)
    step_weights = step_weights / problem.num_functions
    if rematerializes and second_derivatives:
        return _rematerialized(
            bound,
            problem,
            seed,
            iterate,
            num_steps,
            step_weights,
            second_derivatives,
            backpropagation_steps,
            num_steps if horizon is None else horizon,
        )
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
        counted = problem.normalized(steps.losses)
        meta_loss = tf.reduce_sum(step_weights[:, tf.newaxis] * counted)
    if problem.loss_unit != 1:
        step_weights /= problem.loss_unit
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


def _rematerialized(
    bound: BoundRule,
    problem: Problem,
    seed: tf.Tensor,
    iterate: Iterate,
    num_steps: int | tf.Tensor,
    step_weights: tf.Tensor,
    second_derivatives: float,
    backpropagation_steps: int | None,
    horizon: Any,
) -> MetaGradient:
    """Returns the same as `meta_gradient`; the arguments are its own.

    A loop over the steps keeps the iterates. Another one goes back over them: it takes each step
    again, on a tape of its own, and carries the derivative with respect to the iterate.
    """
    take_step = step_function(
        bound, problem, seed, iterate.step, horizon, second_derivatives, backpropagation_steps
    )
    weights = bound.trainable_variables

    def forward(index, iterate, kept):
        leaves = tf.nest.flatten(iterate)
        kept = [array.write(index, leaf) for array, leaf in zip(kept, leaves, strict=True)]
        return index + 1, take_step(index, iterate)[1], kept

    first = tf.nest.flatten(iterate)
    kept = [
        tf.TensorArray(leaf.dtype, num_steps, element_shape=leaf.shape, clear_after_read=False)
        for leaf in first
    ]
    _, last, kept = tf.while_loop(
        lambda index, *_: index < num_steps,
        forward,
        (tf.constant(0), iterate, kept),
        maximum_iterations=num_steps,
    )
    is_float = [leaf.dtype.is_floating for leaf in first]

    def floats(leaves: Iterable[tf.Tensor]) -> list[tf.Tensor]:
        return [leaf for leaf, is_chosen in zip(leaves, is_float, strict=True) if is_chosen]

    def backward(index, cotangents, gradients):
        before = [array.read(index) for array in kept]
        own = [weight.value for weight in weights]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([*floats(before), *own])
            moved = list(zip(weights, own, strict=True))
            with keras.StatelessScope(state_mapping=moved):
                _, after = take_step(index, tf.nest.pack_sequence_as(iterate, before))
            counted = step_weights[index] * tf.reduce_sum(problem.normalized(after.losses))
        targets = [counted, *floats(tf.nest.flatten(after))]
        derivatives = tape.gradient(
            targets,
            [*floats(before), *own],
            [tf.ones_like(counted), *cotangents],
            tf.UnconnectedGradients.ZERO,
        )
        count = len(cotangents)
        sums = [old + new for old, new in zip(gradients, derivatives[count:], strict=True)]
        return index - 1, derivatives[:count], sums

    _, _, gradients = tf.while_loop(
        lambda index, *_: index >= 0,
        backward,
        (
            tf.convert_to_tensor(num_steps) - 1,
            [tf.zeros_like(leaf) for leaf in floats(first)],
            [tf.zeros_like(weight.value) for weight in weights],
        ),
        maximum_iterations=num_steps,
        # Steps further back do not wait for anything, but each takes memory.
        parallel_iterations=1,
    )
    of_iterates = tf.nest.pack_sequence_as(iterate, kept).losses.stack()
    losses = tf.concat([of_iterates[1:], last.losses[tf.newaxis]], axis=0)
    meta_loss = tf.reduce_sum(step_weights[:, tf.newaxis] * problem.normalized(losses))
    return MetaGradient(meta_loss, losses, gradients, last)
