"""Functions of known curvature, and rules that no one should use without a guard."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from l2l_tf.delivery import load_rule
from l2l_tf.problems import Quadratic
from l2l_tf.rules import SGD, CoordinatewiseRule, Rule


class Wavy(Quadratic):
    """Random quadratics plus a cosine: f(x) = ||W x - y||^2 + a sum of cos(w x_i).

    The largest curvature is at most beta = 2 s^2 + a w^2, where s is the largest singular value of
    W. Where the cosine curves more than the quadratic, f is not convex.

    Args:
        num_functions: F, the number of functions.
        amplitude: a.
        frequency: w.
        stretch: what W is multiplied by.
        num_dimensions: D.
    """

    def __init__(
        self,
        num_functions: int,
        amplitude: float = 0.0,
        frequency: float = 3.0,
        stretch: float = 1.0,
        num_dimensions: int = 10,
    ):
        super().__init__("uniform", num_functions, num_dimensions)
        self.amplitude = amplitude
        self.frequency = frequency
        self.stretch = stretch

    def batch(self, seed: tf.Tensor, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns W, `[F, D, D]`, and y, `[F, D]`."""
        matrices, targets = super().batch(seed, step)
        return self.stretch * matrices, targets

    def loss(self, parameters: list[tf.Tensor], batch: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        """Returns f of every function, `[F]`."""
        waves = tf.reduce_sum(tf.cos(self.frequency * parameters[0]), -1)
        return super().loss(parameters, batch) + self.amplitude * waves

    def get_config(self) -> dict[str, Any]:
        return {
            "num_functions": self.num_functions,
            "amplitude": self.amplitude,
            "frequency": self.frequency,
            "stretch": self.stretch,
            "num_dimensions": self.num_dimensions,
        }


class Exact:
    """The functions of one `Wavy` task in float64.

    Attributes:
        beta: a bound on the curvature of all of them.
        least: a lower bound on their values.
    """

    def __init__(self, problem: Wavy, seed: tf.Tensor):
        batch = problem.batch(seed, tf.constant(0))
        self._matrices, self._targets = (part.numpy().astype(np.float64) for part in batch)
        self._amplitude, self._frequency = problem.amplitude, problem.frequency
        largest = np.linalg.svd(self._matrices)[1].max()
        self.beta = 2 * largest**2 + abs(self._amplitude) * self._frequency**2
        self.least = -abs(self._amplitude) * problem.num_dimensions

    def losses(self, points: np.ndarray) -> np.ndarray:
        """Returns f, float64 `[F]`, at points `[F, D]`."""
        waves = np.cos(self._frequency * points).sum(-1)
        return np.square(self._residuals(points)).sum(-1) + self._amplitude * waves

    def gradients(self, points: np.ndarray) -> np.ndarray:
        """Returns the gradients, float64 `[F, D]`, at points `[F, D]`."""
        of_squares = 2 * np.einsum("fji,fj->fi", self._matrices, self._residuals(points))
        return of_squares - self._amplitude * self._frequency * np.sin(self._frequency * points)

    def _residuals(self, points: np.ndarray) -> np.ndarray:
        return np.einsum("fij,fj->fi", self._matrices, points) - self._targets


class _Toy(CoordinatewiseRule):
    """A rule with a count of steps, and a number for each coordinate, as its state."""

    def initial_state(self, num_coordinates: int | tf.Tensor) -> Any:
        return tf.zeros([]), tf.zeros([num_coordinates])

    def get_config(self) -> dict[str, Any]:
        return {}


@keras.saving.register_keras_serializable(package="l2l_tf_experiments")
class RandomWalk(_Toy):
    """Deltas from N(0, 1), whatever the gradient."""

    def __call__(self, gradient: tf.Tensor, state: Any) -> tuple[tf.Tensor, Any]:
        count, numbers = state
        seed = tf.stack([tf.cast(count, tf.int32), 5])
        return tf.random.stateless_normal(gradient.shape, seed), (count + 1, numbers)


@keras.saving.register_keras_serializable(package="l2l_tf_experiments")
class NotANumber(_Toy):
    """Gradient descent in which every third delta is not a number."""

    def __call__(self, gradient: tf.Tensor, state: Any) -> tuple[tf.Tensor, Any]:
        count, numbers = state
        factor = tf.where(tf.equal(count % 3, 2), np.nan, -1e-3)
        return factor * gradient, (count + 1, numbers)


@keras.saving.register_keras_serializable(package="l2l_tf_experiments")
class Corrupted(_Toy):
    """Momentum whose velocity is overwritten: by NaN in step 10, by 1e20 in step 20."""

    def __call__(self, gradient: tf.Tensor, state: Any) -> tuple[tf.Tensor, Any]:
        count, velocity = state
        velocity = 0.9 * velocity - 1e-3 * gradient
        is_first = tf.range(gradient.shape[0]) % 10 == 0
        wrong = tf.where(tf.equal(count, 10), np.nan, tf.where(tf.equal(count, 20), 1e20, 0.0))
        kept = tf.where(is_first & tf.not_equal(wrong, 0), wrong, velocity)
        return velocity, (count + 1, kept)


# Each is made from eta, the step size of gradient descent.
RULES: dict[str, Callable[[float], Rule]] = {
    "random": lambda eta: RandomWalk(),
    "uphill": lambda eta: SGD(-eta),
    "a million times too large": lambda eta: SGD(1e6 * eta),
    "NaN": lambda eta: NotANumber(),
    "corrupted state": lambda eta: Corrupted(),
    "quadratic_lstm": lambda eta: load_rule("quadratic_lstm"),
}
