"""A trajectory in NumPy float64: a rule and a function, one step at a time."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Trajectory(NamedTuple):
    """T steps: points `[T + 1, N]`, the gradients at them `[T + 1, N]` and deltas `[T, N]`."""

    points: np.ndarray
    gradients: np.ndarray
    deltas: np.ndarray


def follow(
    deltas_of: Callable[[np.ndarray], np.ndarray],
    gradient_at: Callable[[np.ndarray, int], np.ndarray],
    start: np.ndarray,
    num_steps: int,
) -> Trajectory:
    """Returns where a rule goes from a start, `[N]`.

    Args:
        deltas_of: the rule's deltas `[t, N]` for the gradients `[t, N]` of its first t steps.
        gradient_at: the gradient `[N]` at a point `[N]` and a step.
        start: `[N]`.
        num_steps: T.
    """
    points = [start.astype(np.float64)]
    gradients = [gradient_at(points[0], 0)]
    deltas = []
    for step in range(1, num_steps + 1):
        # The whole past at each step: slow, and without any state that could go wrong.
        deltas.append(deltas_of(np.stack(gradients))[-1])
        points.append(points[-1] + deltas[-1])
        gradients.append(gradient_at(points[-1], step))
    return Trajectory(np.stack(points), np.stack(gradients), np.stack(deltas))
