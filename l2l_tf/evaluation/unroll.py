"""A run of consecutive steps of one rule on one problem, in one loop."""

from collections.abc import Collection
from typing import Any, NamedTuple

import tensorflow as tf

from l2l_tf.problems.problem import Problem
from l2l_tf.rules.execution.trajectory import cut_off, damped
from l2l_tf.rules.rule import BoundRule, FlatLayout, Rule, StepInfo


class Iterate(NamedTuple):
    """Where a trajectory stands: all that the next step needs.

    Attributes:
        step: int32 `[]`, how many steps were taken.
        parameters: float `[N]`, all parameters of the task in one vector.
        gradient: float `[N]`, of the summed losses at the parameters.
        losses: float `[F]`, at the parameters.
        rule_state: the rule's state.
    """

    step: tf.Tensor
    parameters: tf.Tensor
    gradient: tf.Tensor
    losses: tf.Tensor
    rule_state: Any


class Unroll(NamedTuple):
    """What T steps gave; row t belongs to the iterate after the unroll's step t + 1.

    Attributes:
        losses: float `[T, F]`.
        gradients: float `[T, N]`; None if not recorded.
        deltas: float `[T, N]`, that led to the iterates; None if not recorded.
    """

    losses: tf.Tensor
    gradients: Any = None
    deltas: Any = None


def bind(rule: Rule, problem: Problem) -> BoundRule:
    """Returns a rule for all parameters of a problem's task; one that is bound to them, as it is.

    Raises:
        ValueError: the rule is bound to tensors of other shapes.
    """
    return rule.bind(problem.variables, problem.batch_shape)


def start(rule: Rule, problem: Problem, seed: tf.Tensor) -> Iterate:
    """Returns the iterate at step 0 of the task that a seed names.

    Args:
        rule: a rule, or one that is bound to the problem's parameters already (`bind`).
        problem: the problem.
        seed: names the task, int32 `[2]` (`[M, 2]` for a `StackedProblem`).
    """
    bound = bind(rule, problem)
    layout = FlatLayout(problem.parameter_shapes)
    parameters = layout.flatten(problem.initial_parameters(seed))
    step = tf.constant(0)
    losses, gradient = _evaluate(problem, layout, parameters, problem.batch(seed, step))
    return Iterate(step, parameters, tf.stop_gradient(gradient), losses, bound.initial_state())


def unroll(
    rule: Rule,
    problem: Problem,
    seed: tf.Tensor,
    iterate: Iterate,
    num_steps: int,
    record: Collection[str] = (),
    second_derivatives: float = 0.0,
    backpropagation_steps: int | None = None,
) -> tuple[Unroll, Iterate]:
    """Returns T steps from an iterate and the iterate after them.

    A step is: the rule turns the gradient at the iterate into a delta; the delta is added; losses
    and gradient are taken at the new iterate, on the minibatch of its step. Each iterate is thus
    evaluated once, also where one unroll ends and the next begins, so that five unrolls of 20 are
    exactly one of 100.

    Args:
        rule: a rule, or one that is bound to the problem's parameters already (`bind`).
        problem: the problem.
        seed: names the task, int32 `[2]` (`[M, 2]` for a `StackedProblem`).
        iterate: where to begin.
        num_steps: T.
        record: what to return beside the losses, TN numbers each: "gradients", "deltas".
        second_derivatives: how much of what flows back through what the rule sees of the problem
            (gradients, and losses and parameters if it needs them), to the parameters where that
            was taken, a tape around this call lets through. 1 is the true derivative; a share of
            it damps what grows from step to step. With 0, all of it is a constant to the tape: the
            paper's approximation (section 2), under which `l2l_tf.training.meta_gradient` needs no
            more than the deltas' derivatives.
        backpropagation_steps: after how many steps the rule's state is a constant to a tape; never
            if None.
    """
    bound = bind(rule, problem)
    layout = FlatLayout(problem.parameter_shapes)
    fixed_batch = None if problem.is_stochastic else problem.batch(seed, iterate.step)

    def body(index, iterate, records):
        state = cut_off(iterate.rule_state, index, backpropagation_steps)
        info = _info(bound, iterate, second_derivatives)
        delta, state = bound(iterate.gradient, state, info)
        parameters = iterate.parameters + delta
        step = iterate.step + 1
        batch = problem.batch(seed, step) if problem.is_stochastic else fixed_batch
        losses, gradient = _evaluate(problem, layout, parameters, batch)
        if not second_derivatives:
            # Here and not on the parameters: what lies behind would be kept for a backward pass.
            losses, gradient = tf.stop_gradient(losses), tf.stop_gradient(gradient)
        elif second_derivatives < 1:
            gradient = damped(gradient, second_derivatives)
        values = {"losses": losses, "gradients": gradient, "deltas": delta}
        records = {name: array.write(index, values[name]) for name, array in records.items()}
        return index + 1, Iterate(step, parameters, gradient, losses, state), records

    dtype = iterate.parameters.dtype
    records = {name: tf.TensorArray(dtype, num_steps) for name in ("losses", *record)}
    _, iterate, records = tf.while_loop(
        lambda index, *_: index < num_steps,
        body,
        (tf.constant(0), iterate, records),
        maximum_iterations=num_steps,
    )
    return Unroll(**{name: array.stack() for name, array in records.items()}), iterate


def _info(rule: BoundRule, iterate: Iterate, second_derivatives: float) -> StepInfo:
    """Returns what the rule needs to know of a step beside its gradient, and no more."""

    def seen(values: tf.Tensor) -> tf.Tensor:
        if not second_derivatives:
            return tf.stop_gradient(values)
        return damped(values, second_derivatives) if second_derivatives < 1 else values

    return StepInfo(
        iterate.step if "step" in rule.needs else None,
        seen(iterate.losses) if "losses" in rule.needs else None,
        seen(iterate.parameters) if "parameters" in rule.needs else None,
    )


def _evaluate(
    problem: Problem, layout: FlatLayout, parameters: tf.Tensor, batch: Any
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the losses `[F]` and the gradient `[N]` of their sum."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(parameters)
        losses = problem.loss(layout.unflatten(parameters), batch)
    return losses, tape.gradient(losses, parameters)
