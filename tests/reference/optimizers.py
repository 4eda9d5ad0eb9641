"""Hand-designed optimizers in NumPy float64, from their papers' algorithms.

Each takes the gradients of consecutive steps, `[T, N]`, and returns the deltas, `[T, N]`.
"""

from collections.abc import Callable

import numpy as np


def sgd(gradients: np.ndarray, learning_rate: float, momentum: float = 0.0) -> np.ndarray:
    """Returns the deltas of Polyak's heavy ball: v <- momentum v - rate g."""
    velocity = np.zeros(gradients.shape[1])
    deltas = []
    for gradient in gradients.astype(np.float64):
        velocity = momentum * velocity - learning_rate * gradient
        deltas.append(velocity)
    return np.stack(deltas)


def textbook_nag(
    gradient_at: Callable[[np.ndarray], np.ndarray],
    start: np.ndarray,
    num_steps: int,
    learning_rate: float,
    momentum: float,
) -> np.ndarray:
    """Returns the points, `[T + 1, N]`, at which Nesterov's method takes its gradients.

    The iterate x, its velocity v and the point x + momentum v are those of Sutskever et al. 2013,
    equations 3 and 4.
    """
    iterate, velocity = start.astype(np.float64), np.zeros(start.shape)
    points = []
    for _ in range(num_steps + 1):
        points.append(iterate + momentum * velocity)
        velocity = momentum * velocity - learning_rate * gradient_at(points[-1])
        iterate = iterate + velocity
    return np.stack(points)


def rmsprop(gradients: np.ndarray, learning_rate: float, rho: float, epsilon: float) -> np.ndarray:
    """Returns the deltas of RMSprop, with epsilon inside the square root."""
    mean_square = np.zeros(gradients.shape[1])
    deltas = []
    for gradient in gradients.astype(np.float64):
        mean_square = rho * mean_square + (1 - rho) * gradient**2
        deltas.append(-learning_rate * gradient / np.sqrt(mean_square + epsilon))
    return np.stack(deltas)


def adam(
    gradients: np.ndarray, learning_rate: float, beta_1: float, beta_2: float, epsilon: float
) -> np.ndarray:
    """Returns the deltas of Kingma and Ba 2014 (arXiv 1412.6980), the variant of section 2.

    That variant, which Keras has too, corrects the biases in the rate and adds "epsilon hat" to the
    root of the uncorrected mean square.
    """
    mean, mean_square = np.zeros(gradients.shape[1]), np.zeros(gradients.shape[1])
    deltas = []
    for step, gradient in enumerate(gradients.astype(np.float64), start=1):
        mean = beta_1 * mean + (1 - beta_1) * gradient
        mean_square = beta_2 * mean_square + (1 - beta_2) * gradient**2
        rate = learning_rate * np.sqrt(1 - beta_2**step) / (1 - beta_1**step)
        deltas.append(-rate * mean / (np.sqrt(mean_square) + epsilon))
    return np.stack(deltas)
