"""Random quadratics: the paper's first experiment."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from l2l_tf.checks import check_count, check_non_negative, check_one_of
from l2l_tf.problems.problem import Problem
from l2l_tf.problems.seeds import fold_in, normal, uniform

# The condition number of each Hessian of the ill-conditioned family.
CONDITION_NUMBER = 1e4


def _ill_conditioned(shape: Sequence[int], seed: tf.Tensor) -> tf.Tensor:
    """Returns matrices `[F, D, D]` whose singular values fall from sqrt(D) in equal ratios.

    A diagonal matrix is reflected at D random planes, which keeps its singular values.
    """
    num_dimensions = shape[-1]
    exponents = tf.range(num_dimensions, dtype=tf.float32) / max(1, num_dimensions - 1)
    values = num_dimensions**0.5 * CONDITION_NUMBER ** (-exponents / 2)
    matrices = tf.broadcast_to(tf.linalg.diag(values), shape)
    for normals in tf.unstack(normal([num_dimensions, *shape[:-1]], seed)):
        lengths = tf.reduce_sum(tf.square(normals), axis=-1)
        products = tf.reduce_sum(matrices * normals[..., tf.newaxis, :], axis=-1)
        factors = 2 * products / lengths[..., tf.newaxis]
        matrices -= factors[..., tf.newaxis] * normals[..., tf.newaxis, :]
    return matrices


class Family(NamedTuple):
    """How the functions of a task are drawn, each by a shape and a seed.

    Attributes:
        matrices: draws W, float32 `[F, D, D]`.
        targets: draws y, float32 `[F, D]`.
    """

    matrices: Callable[[Sequence[int], tf.Tensor], tf.Tensor]
    targets: Callable[[Sequence[int], tf.Tensor], tf.Tensor]


# The paper's text (section 3.1) says Gaussian entries. But the curves of its figure 4 start at
# E||y||^2 = 10/3, which means entries uniform on [0, 1). The third family is ours. Its Hessians
# 2 W^T W all have one condition number.
FAMILIES = {
    "uniform": Family(uniform, uniform),
    "gaussian": Family(normal, normal),
    "ill_conditioned": Family(_ill_conditioned, normal),
}


class Quadratic(Problem):
    """Random quadratics f(theta) = ||W theta - y||^2, F of them in a task.

    W is `[D, D]` and y is `[D]`, both drawn separately for each function. The initial theta is
    drawn from N(0, sigma^2).
    Source: Andrychowicz et al. 2016, section 3.1 (arXiv 1606.04474).

    Args:
        family: a key of `FAMILIES`, how W and y are drawn.
        num_functions: F, the number of functions in a task.
        num_dimensions: D.
        initial_stddev: sigma, the standard deviation of the initial parameters.
        dtype: the dtype of parameters, batches and losses; float64 is for derivative tests.

    Raises:
        ValueError: the family or dtype is unknown, a count is not a positive integer, or
            `initial_stddev` is negative or not finite.
    """

    is_stochastic = False

    def __init__(
        self,
        family: str = "uniform",
        num_functions: int = 128,
        num_dimensions: int = 10,
        initial_stddev: float = 0.01,
        dtype: str = "float32",
    ):
        check_one_of("family", family, FAMILIES)
        check_count("num_functions", num_functions)
        check_count("num_dimensions", num_dimensions)
        if dtype not in ("float32", "float64"):
            raise ValueError(
                "dtype must be 'float32' or 'float64'. "
                f"Received: dtype={dtype!r}. Leave it out for float32."
            )
        advice = "Give the standard deviation of theta at step 0."
        check_non_negative("initial_stddev", initial_stddev, advice)
        self.family = family
        self.num_functions = num_functions
        self.num_dimensions = num_dimensions
        self.initial_stddev = initial_stddev
        self.dtype = dtype
        self.name = f"quadratic_{family}"

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return (self.num_functions,)

    def initial_parameters(self, seed: tf.Tensor) -> list[tf.Tensor]:
        """Returns theta of every function, `[F, D]`."""
        theta = normal([self.num_functions, self.num_dimensions], fold_in(seed, 0))
        return [tf.cast(self.initial_stddev * theta, self.dtype)]

    def batch(self, seed: tf.Tensor, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns W, `[F, D, D]`, and y, `[F, D]`: the same at every step."""
        family = FAMILIES[self.family]
        matrices = family.matrices(
            [self.num_functions, self.num_dimensions, self.num_dimensions], fold_in(seed, 1)
        )
        targets = family.targets([self.num_functions, self.num_dimensions], fold_in(seed, 2))
        return tf.cast(matrices, self.dtype), tf.cast(targets, self.dtype)

    def loss(self, parameters: list[tf.Tensor], batch: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        """Returns ||W theta - y||^2 of every function, `[F]`: a sum over the D residuals."""
        (theta,) = parameters
        matrices, targets = batch
        # For matrices this small, a product and a sum are five times faster than
        # `tf.linalg.matvec`.
        products = tf.reduce_sum(matrices * theta[..., tf.newaxis, :], axis=-1)
        return tf.reduce_sum(tf.square(products - targets), axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {
            "family": self.family,
            "num_functions": self.num_functions,
            "num_dimensions": self.num_dimensions,
            "initial_stddev": self.initial_stddev,
            "dtype": self.dtype,
        }
