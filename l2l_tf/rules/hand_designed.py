"""Hand-designed rules with the same call as learned ones, used as baselines."""

from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from l2l_tf.rules.coordinatewise import CoordinatewiseRule
from l2l_tf.rules.rule import Rule

# A single rate, or one per coordinate, `[N]`, so that many rates can be tried in one run.
LearningRate: TypeAlias = float | tf.Tensor


@keras.saving.register_keras_serializable(package="l2l_tf")
class SGD(CoordinatewiseRule):
    """Stochastic gradient descent with optional momentum or Nesterov momentum, as in Keras.

    It matches `keras.optimizers.SGD`. With `nesterov=True`, the parameters are those of Keras and
    Torch: the point where the gradient is taken, x + momentum * velocity for the textbook's iterate
    x. Losses are those at that point.

    Args:
        learning_rate: a number, or a tensor `[N]` with a rate for each coordinate.
        momentum: the share of the last delta that is kept.
        nesterov: whether the gradient is taken one momentum step ahead.
    """

    def __init__(self, learning_rate: LearningRate, momentum: float = 0.0, nesterov: bool = False):
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.nesterov = nesterov

    def initial_state(self, num_coordinates: int | tf.Tensor) -> tf.Tensor:
        """Returns the velocity, zeros `[N]`."""
        return tf.zeros([num_coordinates])

    def __call__(self, gradient: tf.Tensor, state: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        step = self.learning_rate * gradient
        velocity = self.momentum * state - step
        return (self.momentum * velocity - step if self.nesterov else velocity), velocity

    def get_config(self) -> dict[str, Any]:
        return {
            "learning_rate": rate_to_config(self.learning_rate),
            "momentum": self.momentum,
            "nesterov": self.nesterov,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "SGD":
        return cls(**config)


@keras.saving.register_keras_serializable(package="l2l_tf")
class RMSprop(CoordinatewiseRule):
    """RMSprop as in `keras.optimizers.RMSprop`, with its epsilon of 1e-7 inside the square root.

    Args:
        learning_rate: a number, or a tensor `[N]` with a rate for each coordinate.
        rho: the decay of the mean square.
        epsilon: added to the mean square.
    """

    def __init__(self, learning_rate: LearningRate, rho: float = 0.9, epsilon: float = 1e-7):
        self.learning_rate = learning_rate
        self.rho = rho
        self.epsilon = epsilon

    def initial_state(self, num_coordinates: int | tf.Tensor) -> tf.Tensor:
        """Returns the mean square of the gradients, zeros `[N]`."""
        return tf.zeros([num_coordinates])

    def __call__(self, gradient: tf.Tensor, state: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        mean_square = self.rho * state + (1 - self.rho) * tf.square(gradient)
        delta = -self.learning_rate * gradient * tf.math.rsqrt(mean_square + self.epsilon)
        return delta, mean_square

    def get_config(self) -> dict[str, Any]:
        return {
            "learning_rate": rate_to_config(self.learning_rate),
            "rho": self.rho,
            "epsilon": self.epsilon,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "RMSprop":
        return cls(**config)


@keras.saving.register_keras_serializable(package="l2l_tf")
class Adam(CoordinatewiseRule):
    """Adam as in `keras.optimizers.Adam` (Kingma and Ba 2014, arXiv 1412.6980).

    Args:
        learning_rate: a number, or a tensor `[N]` with a rate for each coordinate.
        beta_1: the decay of the mean.
        beta_2: the decay of the mean square.
        epsilon: added to the square root; "epsilon hat" in the paper.
    """

    def __init__(
        self,
        learning_rate: LearningRate,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
    ):
        self.learning_rate = learning_rate
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon

    def initial_state(self, num_coordinates: int | tf.Tensor) -> Any:
        """Returns the number of steps so far, `[]`, and mean and mean square, zeros `[N]`."""
        return tf.zeros([]), tf.zeros([num_coordinates]), tf.zeros([num_coordinates])

    def __call__(self, gradient: tf.Tensor, state: Any) -> tuple[tf.Tensor, Any]:
        step, mean, mean_square = state
        step += 1
        mean += (1 - self.beta_1) * (gradient - mean)
        mean_square += (1 - self.beta_2) * (tf.square(gradient) - mean_square)
        correction = tf.sqrt(1 - self.beta_2**step) / (1 - self.beta_1**step)
        delta = -self.learning_rate * correction * mean / (tf.sqrt(mean_square) + self.epsilon)
        return delta, (step, mean, mean_square)

    def get_config(self) -> dict[str, Any]:
        return {
            "learning_rate": rate_to_config(self.learning_rate),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Adam":
        return cls(**config)


def rate_to_config(learning_rate: LearningRate) -> float | list[float]:
    """Returns a learning rate, or one for each coordinate, as values of JSON."""
    rate = np.asarray(learning_rate)
    return rate.tolist() if rate.ndim else float(rate)


def _momentum(learning_rate: LearningRate) -> Rule:
    return SGD(learning_rate, momentum=0.9)


def _nag(learning_rate: LearningRate) -> Rule:
    return SGD(learning_rate, momentum=0.9, nesterov=True)


BASELINES = {"sgd": SGD, "momentum": _momentum, "nag": _nag, "rmsprop": RMSprop, "adam": Adam}
"""The baselines by name, as functions of the learning rate. Momentum is 0.9, and other constants
keep their defaults.
"""
