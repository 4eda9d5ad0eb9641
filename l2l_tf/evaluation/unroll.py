"""Consecutive steps of one rule on one problem, in one loop."""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import tensorflow as tf

from l2l_tf.problems.problem import Problem
from l2l_tf.rules.execution.trajectory import cut_off, damped
from l2l_tf.rules.rule import BoundRule, FlatLayout, Rule, StepInfo


class Iterate(NamedTuple):
    """The state of a trajectory: everything that the next step needs.

    Attributes:
        step: int32 `[]`, the number of steps taken.
        parameters: float `[N]`, all parameters of the task in one vector.
        gradient: float `[N]`, the gradient of the summed losses at the parameters.
        losses: float `[F]`, at the parameters.
        rule_state: the rule's state.
    """

    step: tf.Tensor
    parameters: tf.Tensor
    gradient: tf.Tensor
    losses: tf.Tensor
    rule_state: Any


class Unroll(NamedTuple):
    """The results of T steps. Row t belongs to the iterate after the unroll's step t + 1.

    Attributes:
        losses: float `[T, F]`.
        gradients: float `[T, N]`. None if not recorded.
        deltas: float `[T, N]`, which led to the iterates. None if not recorded.
    """

    losses: tf.Tensor
    gradients: Any = None
    deltas: Any = None


def bind(rule: Rule, problem: Problem) -> BoundRule:
    """Binds a rule to all parameters of a problem's task. A bound rule is returned unchanged.

    Raises:
        ValueError: the rule is bound to tensors of other shapes, or is inside a guard with
            backtracking while the problem has minibatches.
    """
    bound = rule.bind(problem.variables, problem.batch_shape)
    if bound.needs_one_function and problem.is_stochastic:
        raise ValueError(
            "backtracking must be left out where each step has another minibatch, because it "
            f"compares their losses. Received: backtracking=True on {problem.name!r}. Choose "
            "eta yourself, or set is_stochastic to False if batches do not depend on the step."
        )
    return bound


def start(rule: Rule, problem: Problem, seed: tf.Tensor) -> Iterate:
    """Returns the initial iterate of the task that a seed names.

    Args:
        rule: a rule, or one already bound to the problem's parameters (`bind`).
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
    horizon: Any = None,
) -> tuple[Unroll, Iterate]:
    """Takes T steps from an iterate; returns their results and the iterate after them.

    In each step, the rule turns the gradient at the iterate into a delta, and the delta is added.
    The losses and the gradient are then computed at the new iterate, on the minibatch of its step.
    Each iterate is thus evaluated only once, even between two unrolls. Five unrolls of 20 are
    exactly one of 100, if a rule that must know the horizon is told 100.

    Args:
        rule: a rule, or one already bound to the problem's parameters (`bind`).
        problem: the problem.
        seed: names the task, int32 `[2]` (`[M, 2]` for a `StackedProblem`).
        iterate: the iterate to begin with.
        num_steps: T.
        record: what to return besides the losses: "gradients", "deltas". Each takes T N numbers.
        second_derivatives: the share of derivatives that a tape around this call passes from the
            rule's inputs back to the parameters at which they were taken. The inputs are gradients,
            and losses and parameters if the rule needs them. 1 gives the true derivative. A smaller
            share damps what grows from step to step. 0 makes the inputs constants to the tape: the
            paper's approximation (section 2), with which `l2l_tf.training.meta_gradient` needs only
            the deltas' derivatives.
        backpropagation_steps: the interval, in steps, at which the rule's state is detached from a
            tape. None never detaches it.
        horizon: the number of steps of the whole trajectory, for rules that need it: an integer or
            int32 `[]`. None means that the unroll is the whole.
    """
    # Before anything else: an iterate of another problem gets an error that is harder to read.
    bound = bind(rule, problem)
    take_step = step_function(
        bound,
        problem,
        seed,
        iterate.step,
        num_steps if horizon is None else horizon,
        second_derivatives,
        backpropagation_steps,
    )

    def body(index, iterate, records):
        delta, iterate = take_step(index, iterate)
        values = {"losses": iterate.losses, "gradients": iterate.gradient, "deltas": delta}
        records = {name: array.write(index, values[name]) for name, array in records.items()}
        return index + 1, iterate, records

    dtype = iterate.parameters.dtype
    records = {name: tf.TensorArray(dtype, num_steps) for name in ("losses", *record)}
    _, iterate, records = tf.while_loop(
        lambda index, *_: index < num_steps,
        body,
        (tf.constant(0), iterate, records),
        maximum_iterations=num_steps,
    )
    return Unroll(**{name: array.stack() for name, array in records.items()}), iterate


def step_function(
    rule: Rule,
    problem: Problem,
    seed: tf.Tensor,
    first: tf.Tensor,
    horizon: Any,
    second_derivatives: float = 0.0,
    backpropagation_steps: int | None = None,
) -> Callable[[tf.Tensor, Iterate], tuple[tf.Tensor, Iterate]]:
    """Returns a step of an unroll.

    It maps the step's index within the unroll, int32 `[]`, and the iterate before it to the delta,
    float `[N]`, and the iterate after it.

    Args:
        rule: as in `unroll`, like all arguments but the next one.
        problem: the problem.
        seed: names the task.
        first: the number of steps before the unroll, int32 `[]`.
        horizon: the number of steps of the whole trajectory, never None.
        second_derivatives: the share of derivatives through the rule's inputs.
        backpropagation_steps: the interval at which the rule's state is detached from a tape.
    """
    bound = bind(rule, problem)
    layout = FlatLayout(problem.parameter_shapes)
    fixed_batch = None if problem.is_stochastic else problem.batch(seed, first)

    def take_step(index: tf.Tensor, iterate: Iterate) -> tuple[tf.Tensor, Iterate]:
        state = cut_off(iterate.rule_state, index, backpropagation_steps)
        info = _info(bound, iterate, second_derivatives)
        if "num_steps" in bound.needs:
            info = info._replace(num_steps=horizon)
        delta, state = bound(iterate.gradient, state, info)
        parameters = iterate.parameters + delta
        step = iterate.step + 1
        batch = problem.batch(seed, step) if problem.is_stochastic else fixed_batch
        losses, gradient = _evaluate(problem, layout, parameters, batch)
        if not second_derivatives:
            # Stopped here, not at the parameters, or a tape would keep the evaluation for a
            # backward pass.
            losses, gradient = tf.stop_gradient(losses), tf.stop_gradient(gradient)
        elif second_derivatives < 1:
            gradient = damped(gradient, second_derivatives)
        return delta, Iterate(step, parameters, gradient, losses, state)

    return take_step


def _info(rule: BoundRule, iterate: Iterate, second_derivatives: float) -> StepInfo:
    """Returns the information about a step that the rule needs besides its gradient."""

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
