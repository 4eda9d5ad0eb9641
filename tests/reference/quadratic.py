"""Random quadratics in NumPy float64, one function at a time."""

import numpy as np


def loss(matrix: np.ndarray, target: np.ndarray, theta: np.ndarray) -> float:
    """Returns ||W theta - y||^2 for W `[D, D]`, y and theta `[D]`."""
    total = 0.0
    for row, wanted in zip(matrix.astype(np.float64), target.astype(np.float64), strict=True):
        residual = sum(row * theta.astype(np.float64)) - wanted
        total += residual**2
    return total


def gradient(matrix: np.ndarray, target: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Returns 2 W^T (W theta - y), `[D]`."""
    matrix, target, theta = (array.astype(np.float64) for array in (matrix, target, theta))
    return 2 * matrix.T @ (matrix @ theta - target)
