"""Recording a rule along a trajectory of any problem."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from l2l_tf.analysis.record import WHOLE, Record
from l2l_tf.analysis.stepping import Stepper
from l2l_tf.checks import check_count, check_instance
from l2l_tf.evaluation.unroll import bind, start, step_function
from l2l_tf.problems.problem import Problem
from l2l_tf.rules.routed import OTHER, RoutedRule, parts_of
from l2l_tf.rules.routing import assign_routes
from l2l_tf.rules.rule import FlatLayout, Rule


def record_trajectory(
    rule: Rule,
    problem: Problem,
    seed: tf.Tensor,
    num_steps: int,
    num_coordinates: int = 128,
    draw: int = 0,
    keep_states: bool = True,
) -> Record:
    """Runs a rule on a task and records what it sees and does on some coordinates.

    They are drawn from each tensor, as many from each if it has so many. Where possible, they are
    of those whose first gradient is not zero: much of an image never changes.

    Args:
        rule: any rule, not bound.
        problem: the problem.
        seed: names the task, int32 `[2]`.
        num_steps: T.
        num_coordinates: about C, over all tensors.
        draw: the seed of the choice of coordinates.
        keep_states: whether to keep the states of a coordinatewise rule, which probes that step it
            need. They are computed again from the gradients.

    Raises:
        TypeError: the rule or the problem is none.
        ValueError: the seed is none, a count is not positive, or a gradient was not finite.
    """
    check_instance("rule", rule, Rule, "a rule", "Load one with l2l_tf.load_rule.")
    check_instance("problem", problem, Problem, "a Problem", "See l2l_tf.problems.")
    check_count("num_steps", num_steps)
    check_count("num_coordinates", num_coordinates)
    if np.shape(seed) != (2,) or not tf.as_dtype(np.asarray(seed).dtype).is_integer:
        raise ValueError(
            f"seed must be two integers that name a task. Received: seed={seed!r}. Take one of "
            "task_seeds(0, 'test', 0, 1)."
        )
    bound = bind(rule, problem).for_steps()
    first = tf.function(lambda: start(bound, problem, seed), autograph=False)()
    layout = FlatLayout(problem.parameter_shapes)
    chosen = chosen_coordinates(layout.sizes, num_coordinates, draw, first.gradient.numpy())

    @tf.function(autograph=False)
    def run() -> tuple[tf.Tensor, ...]:
        take_step = step_function(bound, problem, seed, first.step, num_steps)

        def body(index, iterate, arrays):
            delta, after = take_step(index, iterate)
            values = (
                tf.gather(iterate.gradient, chosen),
                tf.gather(delta, chosen),
                tf.reduce_mean(iterate.losses),
            )
            return (
                index + 1,
                after,
                [array.write(index, one) for array, one in zip(arrays, values, strict=True)],
            )

        arrays = [tf.TensorArray(first.parameters.dtype, num_steps) for _ in range(3)]
        _, _, arrays = tf.while_loop(
            lambda index, *_: index < num_steps,
            body,
            (tf.constant(0), first, arrays),
            maximum_iterations=num_steps,
        )
        return tuple(array.stack() for array in arrays)

    gradients, deltas, losses = (one.numpy() for one in run())
    return make_record(
        rule, problem.variables, layout.sizes, chosen, gradients, deltas, losses, keep_states
    )


def chosen_coordinates(
    sizes: Sequence[int], count: int, draw: int = 0, preferred: np.ndarray | None = None
) -> np.ndarray:
    """Returns positions in a flat vector of tensors, ascending, about as many of each tensor.

    Args:
        sizes: the numbers of coordinates of the tensors.
        count: the number of positions over all tensors, about; at least one of each.
        draw: the seed of the choice.
        preferred: float `[N]`. Where it is not zero, coordinates are chosen first.
    """
    generator = np.random.default_rng(draw)
    chosen, offset = [], 0
    present = [size for size in sizes if size]
    share = max(1, count // max(1, len(present)))
    for size in sizes:
        order = generator.permutation(size)
        if preferred is not None:
            is_zero = preferred[offset : offset + size][order] == 0
            order = order[np.argsort(is_zero, kind="stable")]
        chosen.append(offset + np.sort(order[:share]))
        offset += size
    return np.concatenate(chosen)


def make_record(
    rule: Rule,
    variables: Sequence[Any],
    sizes: Sequence[int],
    chosen: np.ndarray,
    gradients: np.ndarray,
    deltas: np.ndarray,
    losses: np.ndarray,
    keep_states: bool = True,
) -> Record:
    """Returns a record, with the states that the rule had after these gradients.

    Args:
        rule: the rule that was run.
        variables: descriptions of the tensors, each with a `shape` and a `path` or `name`.
        sizes: their numbers of coordinates, with batch axes.
        chosen: int `[C]`, positions in the flat vector of all tensors.
        gradients: float `[T, C]`.
        deltas: float `[T, C]`.
        losses: float `[T]`.
        keep_states: whether to compute the states of a coordinatewise rule.
    """
    owners = np.searchsorted(np.cumsum(sizes), chosen, side="right")
    parts = _parts(rule, variables, owners)
    paths = tuple(getattr(one, "path", None) or one.name for one in variables)
    record = Record(gradients, deltas, losses, paths, owners, parts)
    if not (rule.is_coordinatewise and keep_states):
        return record
    _, states = Stepper(rule, parts).replay(gradients)
    return dataclasses.replace(record, states=states)


def _parts(rule: Rule, variables: Sequence[Any], owners: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the coordinates of each part that has some."""
    if not isinstance(rule, RoutedRule):
        return {WHOLE: np.arange(len(owners))}
    names = list(parts_of(rule))
    routes = assign_routes(rule.routes, variables)
    of_tensor = [OTHER if route is None else names[route] for route in routes]
    of_coordinate = np.array([of_tensor[owner] for owner in owners])
    found = {name: np.flatnonzero(of_coordinate == name) for name in names}
    return {name: one for name, one in found.items() if one.size}
