"""Small problems and rules about which tests of training know everything."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from l2l_tf.problems.problem import Problem
from l2l_tf.rules import BoundToTensors, CoordinatewiseRule
from l2l_tf.rules.rule import NO_INFO


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

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return (self.num_functions,)

    def initial_parameters(self, seed: tf.Tensor) -> list[tf.Tensor]:
        start = self._draw(seed)
        return [start[:, :2], start[:, 2]]

    def batch(self, seed: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        return 0.3 * self._draw(seed + tf.stack([step + 1, 0]))

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
        """Returns uniform numbers of variance 1, in fewer operations than `seeds.uniform` takes."""
        integers = tf.raw_ops.StatelessRandomUniformIntV2(
            shape=[self.num_functions, 3],
            key=tf.reshape(tf.bitcast(seed, tf.uint64), [1]),
            counter=tf.zeros([2], tf.uint64),
            alg=1,  # Philox, on every device.
            minval=0,
            maxval=2**24,
        )
        numbers = tf.cast(tf.gather(integers, self.order, axis=1), self.dtype)
        return (numbers * 2.0**-24 - 0.5) * 12**0.5


@keras.saving.register_keras_serializable(package="l2l_tf_tests")
class LinearRule(CoordinatewiseRule, keras.layers.Layer):
    """delta = slope * gradient + bias, both zero at first; counts how often it is traced."""

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


@keras.saving.register_keras_serializable(package="l2l_tf_tests")
class LearnedMomentum(CoordinatewiseRule, keras.layers.Layer):
    """delta = slope * momentum, a mean of the gradients so far: the smallest rule with a state."""

    def __init__(self, **arguments):
        super().__init__(**arguments, autocast=False)
        constant = keras.initializers.Constant(-0.1)
        self.slope = self.add_weight(name="slope", shape=(), initializer=constant)
        self.built = True

    def initial_state(self, num_coordinates: int) -> tf.Tensor:
        return tf.zeros([num_coordinates])

    def call(self, gradient: tf.Tensor, state: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        state = 0.5 * state + 0.5 * gradient
        return self.slope * state, state


class NormalizedGradient:
    """Steps of one length against the gradient of all tensors of a task: no coordinatewise rule.

    Args:
        learning_rate: the length, or a tensor `[N]` with one for each coordinate.

    Attributes:
        num_calls: how often it was traced.
    """

    is_coordinatewise = False

    def __init__(self, learning_rate: float | tf.Tensor = 0.1):
        self.learning_rate = learning_rate
        self.num_calls = 0

    def bind(self, variables: Sequence[Any], batch_shape: Sequence[int] = ()) -> "_Normalized":
        return _Normalized(self, variables, batch_shape)


class _Normalized(BoundToTensors):
    def initial_state(self) -> tuple[()]:
        return ()

    def update(self, gradients, state, info=NO_INFO):
        self.rule.num_calls += 1
        rates = self.of_tensors(self.rule.learning_rate)
        return self.against(gradients, rates), state

    def against(self, gradients, rates) -> list[tf.Tensor]:
        """Returns, for each batch entry, steps of some lengths against its gradient."""
        squares = [
            tf.reduce_sum(tf.square(gradient), self.own_axes(index))
            for index, gradient in enumerate(gradients)
        ]
        norms = tf.sqrt(tf.add_n(squares))
        return [
            -rate * gradient / tf.reshape(norms, [*self.batch_shape, *[1] * len(shape)])
            for rate, gradient, shape in zip(rates, gradients, self.shapes, strict=True)
        ]


@keras.saving.register_keras_serializable(package="l2l_tf_tests")
class LearnedLength(keras.layers.Layer):
    """`NormalizedGradient` with a length that is learned, the same for all tasks."""

    is_coordinatewise = False

    def __init__(self, length: float = 0.1, **arguments):
        super().__init__(**arguments, autocast=False)
        constant = keras.initializers.Constant(length)
        self.length = self.add_weight(name="length", shape=(), initializer=constant)
        self.built = True

    def bind(self, variables: Sequence[Any], batch_shape: Sequence[int] = ()) -> "_LearnedLength":
        return _LearnedLength(self, variables, batch_shape)


class _LearnedLength(_Normalized):
    def update(self, gradients, state, info=NO_INFO):
        rates = [tf.convert_to_tensor(self.rule.length)] * len(gradients)
        return self.against(gradients, rates), state


@keras.saving.register_keras_serializable(package="l2l_tf_tests")
class WeightDecay(keras.layers.Layer):
    """delta = -weight (gradient + shrinkage f / (t + 1) theta): needs all that there is to know.

    f is the loss of a tensor's own batch entry, t the number of steps before, theta the parameters.

    Args:
        weight: the weight, which is learned.
        shrinkage: how much parameters count.
        dtype: of the weight.
    """

    is_coordinatewise = False

    def __init__(self, weight: float = 0.125, shrinkage: float = 1.0, dtype: str = "float64"):
        super().__init__(dtype=dtype, autocast=False)
        constant = keras.initializers.Constant(weight)
        self.weight = self.add_weight(name="weight", shape=(), initializer=constant)
        self.shrinkage = shrinkage
        self.built = True

    def bind(self, variables: Sequence[Any], batch_shape: Sequence[int] = ()) -> "_WeightDecay":
        return _WeightDecay(self, variables, batch_shape)


class _WeightDecay(BoundToTensors):
    needs = frozenset({"step", "losses", "parameters"})

    def initial_state(self) -> tuple[()]:
        return ()

    def update(self, gradients, state, info=NO_INFO):
        num_steps = tf.cast(info.step + 1, info.losses.dtype)
        factors = self.rule.shrinkage * info.losses / num_steps
        weight = tf.convert_to_tensor(self.rule.weight)
        deltas = [
            -weight
            * (gradient + tf.reshape(factors, [*self.batch_shape, *[1] * len(shape)]) * theta)
            for gradient, theta, shape in zip(gradients, info.parameters, self.shapes, strict=True)
        ]
        return deltas, state


@dataclasses.dataclass(frozen=True)
class Walk:
    """A trajectory in NumPy.

    Attributes:
        points: float `[T + 1, F, 3]`.
        losses: float `[T + 1, F]`, at the points.
        gradients: float `[T + 1, F, 3]`, at the points.
        directions: float `[T, F, 3]`: the delta of each step is the rule's weight times it.
    """

    points: np.ndarray
    losses: np.ndarray
    gradients: np.ndarray
    directions: np.ndarray

    def vector(self, step: int) -> np.ndarray:
        """Returns the point at a step as the vector of a task's parameters."""
        return np.concatenate([self.points[step][:, :2].reshape(-1), self.points[step][:, 2]])


def walk_of_weight_decay(
    problem: NoisyBowls,
    seed: tf.Tensor,
    num_steps: int,
    weight: float = 0.125,
    shrinkage: float = 1.0,
) -> Walk:
    """Returns the trajectory of `WeightDecay`, computed in NumPy."""
    pair, single = (one.numpy().astype(np.float64) for one in problem.initial_parameters(seed))
    point = np.concatenate([pair, single[:, np.newaxis]], axis=1)
    points, losses, gradients, directions = [], [], [], []
    for step in range(num_steps + 1):
        distances = point - problem.batch(seed, tf.constant(step)).numpy()
        points.append(point)
        losses.append((problem.curvatures * distances**2).sum(axis=1))
        gradients.append(2 * problem.curvatures * distances)
        factors = shrinkage * losses[-1] / (step + 1)
        directions.append(-(gradients[-1] + factors[:, np.newaxis] * point))
        point = point + weight * directions[-1]
    return Walk(*map(np.array, (points, losses, gradients, directions[:-1])))
