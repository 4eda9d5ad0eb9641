"""BFGS and L-BFGS without a line search, in NumPy float64, for one function."""

from collections.abc import Callable

import numpy as np

Gradient = Callable[[np.ndarray], np.ndarray]


def bfgs(
    gradient: Gradient, start: np.ndarray, initial_scale: float, rate: float, num_steps: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Returns the deltas and the inverse Hessians that they were taken with.

    Source: Nocedal and Wright 2006, equations 6.17 and 6.20.
    """
    size = len(start)
    identity, point, previous, delta = np.eye(size), start, None, None
    inverse = initial_scale * identity
    deltas, inverses = [], []
    for _ in range(num_steps):
        now = gradient(point)
        if previous is not None:
            difference = now - previous
            curvature = difference @ delta
            if len(deltas) == 1:
                inverse = curvature / (difference @ difference) * identity
            left = identity - np.outer(delta, difference) / curvature
            inverse = left @ inverse @ left.T + np.outer(delta, delta) / curvature
        delta = -rate * inverse @ now
        point, previous = point + delta, now
        deltas.append(delta)
        inverses.append(inverse)
    return deltas, inverses


def l_bfgs(
    gradient: Gradient,
    start: np.ndarray,
    initial_scale: float,
    rate: float,
    num_steps: int,
    history_size: int,
) -> list[np.ndarray]:
    """Returns the deltas of L-BFGS.

    The inverse Hessian is made anew at each step, from products of matrices, not by two loops.
    Source: Nocedal and Wright 2006, equations 7.19 and 7.20.
    """
    identity, point, previous = np.eye(len(start)), start, None
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    deltas: list[np.ndarray] = []
    for _ in range(num_steps):
        now = gradient(point)
        scale = initial_scale
        if previous is not None:
            pairs.append((deltas[-1], now - previous))
            pairs = pairs[-history_size:]
            last_delta, last_difference = pairs[-1]
            scale = last_delta @ last_difference / (last_difference @ last_difference)
        inverse = scale * identity
        for delta, difference in pairs:
            curvature = difference @ delta
            left = identity - np.outer(delta, difference) / curvature
            inverse = left @ inverse @ left.T + np.outer(delta, delta) / curvature
        deltas.append(-rate * inverse @ now)
        point, previous = point + deltas[-1], now
    return deltas
