"""A run of consecutive steps of one rule on one problem, in one loop."""

from collections.abc import Collection
from typing import Any, NamedTuple

import tensorflow as tf

from l2l_tf.problems.problem import Problem
from l2l_tf.rules.routed import on_problem
from l2l_tf.rules.rule import FlatLayout, Rule


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


def start(rule: Rule, problem: Problem, seed: tf.Tensor) -> Iterate:
    """Returns the iterate at step 0 of the task that a seed names."""
    rule = on_problem(rule, problem)
    layout = FlatLayout(problem.parameter_shapes)
    parameters = layout.flatten(problem.initial_parameters(seed))
    step = tf.constant(0)
    losses, gradient = _evaluate(problem, layout, parameters, problem.batch(seed, step))
    state = rule.initial_state(layout.num_coordinates)
    return Iterate(step, parameters, tf.stop_gradient(gradient), losses, state)


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
        rule: the rule.
        problem: the problem.
        seed: names the task, int32 `[2]` (`[M, 2]` for a `StackedProblem`).
        iterate: where to begin.
        num_steps: T.
        record: what to return beside the losses, TN numbers each: "gradients", "deltas".
        second_derivatives: how much of what flows back through a gradient, from the rule that
            sees it to the parameters where it was taken, a tape around this call lets through. 1
            is the true derivative; a share of it damps what grows from step to step. With 0,
            gradients and losses are constants to the tape: the paper's approximation (section 2),
            under which `l2l_tf.training.meta_gradient` needs no more than the deltas' derivatives.
        backpropagation_steps: after how many steps the rule's state is a constant to a tape; never
            if None.
    """
    rule = on_problem(rule, problem)
    layout = FlatLayout(problem.parameter_shapes)
    fixed_batch = None if problem.is_stochastic else problem.batch(seed, iterate.step)

    def body(index, iterate, records):
        state = cut_off(iterate.rule_state, index, backpropagation_steps)
        delta, state = rule(iterate.gradient, state)
        parameters = iterate.parameters + delta
        step = iterate.step + 1
        batch = problem.batch(seed, step) if problem.is_stochastic else fixed_batch
        losses, gradient = _evaluate(problem, layout, parameters, batch)
        if not second_derivatives:
            # Here and not on the parameters: what lies behind would be kept for a backward pass.
            losses, gradient = tf.stop_gradient(losses), tf.stop_gradient(gradient)
        elif second_derivatives < 1:
            gradient = _damped(gradient, second_derivatives)
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


def cut_off(state: Any, index: tf.Tensor, every: int | None) -> Any:
    """Returns a rule's state as it is: a constant to a tape where a step's index says so.

    Args:
        state: tensors in a nest, before the step.
        index: int32 `[]`, of the step, from 0.
        every: the state is a constant before each step whose index is a multiple of it; never if
            None.
    """
    if every is None:
        return state
    passes = index % every != 0
    return tf.nest.map_structure(lambda leaf: _damped(leaf, tf.cast(passes, leaf.dtype)), state)


def _damped(values: tf.Tensor, share: float | tf.Tensor) -> tf.Tensor:
    """Returns values as they are; of a gradient with respect to them, a share passes."""

    @tf.custom_gradient
    def damp(values):
        return tf.identity(values), lambda upstream: share * upstream

    return damp(values)


def _evaluate(
    problem: Problem, layout: FlatLayout, parameters: tf.Tensor, batch: Any
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the losses `[F]` and the gradient `[N]` of their sum."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(parameters)
        losses = problem.loss(layout.unflatten(parameters), batch)
    return losses, tape.gradient(losses, parameters)
