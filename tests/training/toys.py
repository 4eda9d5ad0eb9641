"""Small problems and rules of which tests of training know everything."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from l2l_tf.problems.problem import Problem
from l2l_tf.problems.tasks import fold_in, normal


class Parabolas(Problem):
    """f(x) = c x^2 from x = 1, where c depends on the task's index: seeds are (key, index).

    SGD of rate r has x_t = (1 - 2 c r)^t. A curvature of NaN or infinity breaks its task.

    Args:
        curvatures: c of task 0, 1, ..., and from the first again.
        first_step: the first step whose loss has that curvature; before it c is 1.
        last_step: the last such step; after it c is 1.
    """

    name = "parabolas"

    def __init__(
        self, curvatures: Sequence[float] = (1.0,), first_step: int = 0, last_step: int = 10**6
    ):
        self.curvatures = tuple(curvatures)
        self.first_step = first_step
        self.last_step = last_step
        self.is_stochastic = (first_step, last_step) != (0, 10**6)

    def initial_parameters(self, seed: tf.Tensor) -> list[tf.Tensor]:
        return [tf.ones([])]

    def batch(self, seed: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        curvature = tf.gather(tf.constant(self.curvatures), seed[1] % len(self.curvatures))
        is_on = (self.first_step <= step) & (step <= self.last_step)
        return tf.where(is_on, curvature, tf.ones([]))

    def loss(self, parameters: list[tf.Tensor], batch: tf.Tensor) -> tf.Tensor:
        return tf.reshape(batch * tf.square(parameters[0]), [1])

    def get_config(self) -> dict[str, Any]:
        return {
            "curvatures": self.curvatures,
            "first_step": self.first_step,
            "last_step": self.last_step,
        }


class NoisyBowls(Problem):
    """F functions sum over i of c_i (x_i - z_i)^2, with fresh noise z, `[F, 3]`, at every step.

    The three coordinates of a function lie in two parameters, `[F, 2]` and `[F]`.

    Args:
        num_functions: F.
        order: in which order the coordinates, each with its start, curvature and noise, stand.
        dtype: of parameters, batches and losses.
    """

    name = "noisy_bowls"
    curvatures = np.array([0.3, 1.0, 2.0])

    def __init__(
        self, num_functions: int = 2, order: Sequence[int] = (0, 1, 2), dtype: str = "float32"
    ):
        self.num_functions = num_functions
        self.order = tuple(order)
        self.dtype = dtype

    def initial_parameters(self, seed: tf.Tensor) -> list[tf.Tensor]:
        start = self._draw(fold_in(seed, 0))
        return [start[:, :2], start[:, 2]]

    def batch(self, seed: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        return 0.3 * self._draw(fold_in(fold_in(seed, 1), step))

    def loss(self, parameters: list[tf.Tensor], batch: tf.Tensor) -> tf.Tensor:
        pair, single = parameters
        point = tf.concat([pair, single[:, tf.newaxis]], axis=1)
        curvatures = tf.constant(self.curvatures[list(self.order)], self.dtype)
        return tf.reduce_sum(curvatures * tf.square(point - batch), axis=1)

    def get_config(self) -> dict[str, Any]:
        return {
            "num_functions": self.num_functions,
            "order": self.order,
            "dtype": self.dtype,
        }

    def _draw(self, seed: tf.Tensor) -> tf.Tensor:
        numbers = tf.cast(normal([self.num_functions, 3], seed), self.dtype)
        return tf.gather(numbers, self.order, axis=1)


@keras.saving.register_keras_serializable(package="l2l_tf_tests")
class LinearRule(keras.layers.Layer):
    """delta = weight * gradient + bias, both zero at first; counts how often it is traced."""

    is_coordinatewise = True

    def __init__(self, **arguments):
        super().__init__(**arguments, autocast=False)
        self.slope = self.add_weight(name="slope", shape=(), initializer="zeros")
        self.bias = self.add_weight(name="bias", shape=(), initializer="zeros")
        self.built = True
        self.num_calls = 0

    def initial_state(self, num_coordinates: int) -> tuple[()]:
        return ()

    def call(self, gradient: tf.Tensor, state: tuple[()]) -> tuple[tf.Tensor, tuple[()]]:
        self.num_calls += 1
        return self.slope * gradient + self.bias, state


class NormalizedGradient:
    """Steps of one length against the gradient: a rule that is not coordinatewise."""

    is_coordinatewise = False

    def initial_state(self, num_coordinates: int) -> tuple[()]:
        return ()

    def __call__(self, gradient: tf.Tensor, state: tuple[()]) -> tuple[tf.Tensor, tuple[()]]:
        return -0.1 * gradient / tf.norm(gradient), state
