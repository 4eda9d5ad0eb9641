"""Augmentations of a problem, for rules that generalise to other problems.

Random scaling and the combination with a convex function come from Lv, Jiang and Li 2017 (arXiv
1703.03633). Augmentations are for training. Rules are compared on the original problem.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from l2l_tf.checks import check_count, check_instance
from l2l_tf.parameter_spec import ParameterSpec
from l2l_tf.problems.problem import Problem, WrappedProblem
from l2l_tf.problems.seeds import fold_in, uniform

# Tags to fold into a task's seed, far from the small numbers that problems use. The inner task
# stays the one that the seed names.
_SCALES_TAG, _CONVEX_TAG, _GAINS_TAG = 1_000_000, 1_000_001, 1_000_002
# Above this, gradients with respect to scaled parameters come too close to the largest float32.
_MAX_LOG_RANGE = 20.0


class RandomlyScaled(WrappedProblem):
    """A problem f(theta) in scaled parameters: f(c theta') from theta'_0 = theta_0 / c.

    Each coordinate has its own c = exp(r), with r uniform on [-R, R), drawn once per task. Initial
    losses are those of f. But a rule can't memorise the size of a coordinate's gradient, nor that
    of the delta it needs.

    Args:
        problem: f.
        log_range: R; 3 in the paper.

    Raises:
        TypeError: `problem` is not a problem.
        ValueError: `log_range` is not positive, or too large.
    """

    def __init__(self, problem: Problem, log_range: float = 3.0):
        _check_problem(problem)
        _check_log_range(log_range, includes_zero=False)
        super().__init__(problem, f"{problem.name}_scaled")
        self.log_range = log_range

    def initial_parameters(self, seed: tf.Tensor) -> list[tf.Tensor]:
        parameters = self.problem.initial_parameters(seed)
        scales = self._scales(seed, [parameter.shape for parameter in parameters])
        return [
            parameter / tf.cast(scale, parameter.dtype)
            for parameter, scale in zip(parameters, scales, strict=True)
        ]

    def batch(self, seed: tf.Tensor, step: tf.Tensor) -> tuple[Any, list[tf.Tensor]]:
        """Returns the problem's batch and the scales, which have the shapes of the parameters."""
        return self.problem.batch(seed, step), self._scales(seed, self.parameter_shapes)

    def loss(self, parameters: list[tf.Tensor], batch: tuple[Any, list[tf.Tensor]]) -> tf.Tensor:
        batch_of_problem, scales = batch
        return self.problem.loss(_scaled(parameters, scales), batch_of_problem)

    def losses_of_tasks(
        self, parameters: list[tf.Tensor], batch: tuple[Any, list[tf.Tensor]]
    ) -> tf.Tensor:
        batch_of_problem, scales = batch
        return self.problem.losses_of_tasks(_scaled(parameters, scales), batch_of_problem)

    def get_config(self) -> dict[str, Any]:
        return {"problem": self.problem.get_config(), "log_range": self.log_range}

    def _scales(self, seed: tf.Tensor, shapes: Sequence[Sequence[int]]) -> list[tf.Tensor]:
        seed = fold_in(seed, _SCALES_TAG)
        return [
            _random_scales(shape, fold_in(seed, index), self.log_range)
            for index, shape in enumerate(shapes)
        ]


class WithRandomGains(WrappedProblem):
    """A problem whose initial weights are larger or smaller than it draws them.

    Each initial parameter with two axes or more is multiplied by exp(r), with r uniform on
    [-R, R), drawn once per task.

    Args:
        problem: the problem.
        log_range: R.

    Raises:
        TypeError: `problem` is not a problem.
        ValueError: `log_range` is not positive, or too large.
    """

    def __init__(self, problem: Problem, log_range: float = 0.5):
        _check_problem(problem)
        _check_log_range(log_range, includes_zero=False)
        super().__init__(problem, f"{problem.name}_gains")
        self.log_range = log_range

    def initial_parameters(self, seed: tf.Tensor) -> list[tf.Tensor]:
        own_seed = fold_in(seed, _GAINS_TAG)
        num_axes = len(self.batch_shape)
        return [
            parameter
            if parameter.shape.rank < num_axes + 2
            else parameter
            * tf.cast(_random_scales([], fold_in(own_seed, index), self.log_range), parameter.dtype)
            for index, parameter in enumerate(self.problem.initial_parameters(seed))
        ]

    def batch(self, seed: tf.Tensor, step: tf.Tensor) -> Any:
        return self.problem.batch(seed, step)

    def loss(self, parameters: list[tf.Tensor], batch: Any) -> tf.Tensor:
        return self.problem.loss(parameters, batch)

    def losses_of_tasks(self, parameters: list[tf.Tensor], batch: Any) -> tf.Tensor:
        return self.problem.losses_of_tasks(parameters, batch)

    def get_config(self) -> dict[str, Any]:
        return {"problem": self.problem.get_config(), "log_range": self.log_range}


class WithConvexTerm(WrappedProblem):
    """A problem f(theta) with a convex term in extra parameters: f(theta) + mean of (c x - v)^2.

    Each function has K extra coordinates x, which start at zero, targets v uniform on [-1, 1), and
    scales c = exp(r) with r uniform on [-R, R). All are drawn once per task. Amid a network's
    erratic gradients, the rule thus also sees some that lead to a minimum it must reach.

    This follows the authors' code (github.com/vfleaking/rnnprop), with one difference. The code
    caps the square at 10, beyond which a coordinate gets no gradient.

    Args:
        problem: f.
        num_dimensions: K; 20 in the authors' code.
        log_range: R; 1 in the authors' code.

    Raises:
        TypeError: `problem` is not a problem.
        ValueError: `num_dimensions` is not a positive integer, or `log_range` is negative or too
            large.
    """

    def __init__(self, problem: Problem, num_dimensions: int = 20, log_range: float = 1.0):
        _check_problem(problem)
        check_count("num_dimensions", num_dimensions)
        _check_log_range(log_range, includes_zero=True)
        super().__init__(problem, f"{problem.name}_with_convex_term")
        self.num_dimensions = num_dimensions
        self.log_range = log_range

    def initial_parameters(self, seed: tf.Tensor) -> list[tf.Tensor]:
        """Returns the problem's parameters and x, `[F, K]`."""
        parameters = self.problem.initial_parameters(seed)
        return [*parameters, tf.zeros(self._shape, parameters[0].dtype)]

    def batch(self, seed: tf.Tensor, step: tf.Tensor) -> tuple[Any, tf.Tensor, tf.Tensor]:
        """Returns the problem's batch, c and v, `[F, K]` each."""
        own_seed = fold_in(seed, _CONVEX_TAG)
        scales = _random_scales(self._shape, fold_in(own_seed, 0), self.log_range)
        targets = 2 * uniform(self._shape, fold_in(own_seed, 1)) - 1
        return self.problem.batch(seed, step), scales, targets

    def loss(
        self, parameters: list[tf.Tensor], batch: tuple[Any, tf.Tensor, tf.Tensor]
    ) -> tf.Tensor:
        *of_problem, x = parameters
        batch_of_problem, scales, targets = batch
        return self.problem.loss(of_problem, batch_of_problem) + _bowl(x, scales, targets)

    def losses_of_tasks(
        self, parameters: list[tf.Tensor], batch: tuple[Any, tf.Tensor, tf.Tensor]
    ) -> tf.Tensor:
        *of_problem, x = parameters
        batch_of_problem, scales, targets = batch
        losses = self.problem.losses_of_tasks(of_problem, batch_of_problem)
        return losses + _bowl(x, scales, targets)

    @property
    def variables(self) -> list[ParameterSpec]:
        own = ParameterSpec("convex_term/x", self._shape[len(self.batch_shape) :])
        return [*self.problem.variables, own]

    def get_config(self) -> dict[str, Any]:
        return {
            "problem": self.problem.get_config(),
            "num_dimensions": self.num_dimensions,
            "log_range": self.log_range,
        }

    @property
    def _shape(self) -> tuple[int, int]:
        return self.num_functions, self.num_dimensions


def _scaled(parameters: list[tf.Tensor], scales: list[tf.Tensor]) -> list[tf.Tensor]:
    return [
        parameter * tf.cast(scale, parameter.dtype)
        for parameter, scale in zip(parameters, scales, strict=True)
    ]


def _bowl(x: tf.Tensor, scales: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Returns the mean over K of (c x - v)^2, `[..., F]`, for x, c and v `[..., F, K]`."""
    residuals = tf.cast(scales, x.dtype) * x - tf.cast(targets, x.dtype)
    return tf.reduce_mean(tf.square(residuals), axis=-1)


def _random_scales(shape: Sequence[int], seed: tf.Tensor, log_range: float) -> tf.Tensor:
    """Returns exp(r), float32 of the given shape, with r uniform on [-log_range, log_range)."""
    return tf.exp(log_range * (2 * uniform(shape, seed) - 1))


def _check_problem(problem: Problem) -> None:
    advice = "Give an instance of one of its subclasses."
    check_instance("problem", problem, Problem, "a Problem", advice)


def _check_log_range(log_range: float, includes_zero: bool) -> None:
    # Written so that NaN is out of range.
    if not (0 < log_range <= _MAX_LOG_RANGE or (includes_zero and log_range == 0)):
        least = "not negative" if includes_zero else "positive"
        raise ValueError(
            f"log_range must be {least} and at most {_MAX_LOG_RANGE:g}. "
            f"Received: log_range={log_range}. Give, say, 1: scales from 1/e to e."
        )
