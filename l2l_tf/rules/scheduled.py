"""Hand-designed rules with schedules and weight decay: Nesterov momentum, AdamW, NAdam, Muon."""

import abc
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import keras
import tensorflow as tf

from l2l_tf.rules.hand_designed import LearningRate, rate_to_config
from l2l_tf.rules.orthogonal import orthogonalized
from l2l_tf.rules.rule import NO_INFO, StepInfo
from l2l_tf.rules.tensors import BoundToTensors, TensorState

# The root mean square of a matrix's delta, relative to the rate: about that of Adam.
_RMS = 0.2

Schedule: TypeAlias = keras.optimizers.schedules.LearningRateSchedule
Moments: TypeAlias = tuple[tf.Tensor, ...]


class ScheduledStep(NamedTuple):
    """The step in which a delta is taken.

    Attributes:
        number: float32, counted from 1 since the state was new: `[]`, or one for each batch entry,
            with the rank of the tensor.
        rate: float32 `[]`, or a rate for each coordinate of the tensor.
        shared: the state that all tensors share, after this step, likewise.
    """

    number: tf.Tensor
    rate: Any
    shared: Any


class ScheduledRule(abc.ABC):
    """Base class for hand-designed rules with a schedule and decoupled weight decay.

    In step k, counted from 0, the rate is `learning_rate * schedule(k)`. As in Keras, the rate
    times `weight_decay` times the parameters is subtracted too (Loshchilov and Hutter 2017, arXiv
    1711.05101).

    Args:
        learning_rate: a number, or a tensor `[N]` with a rate for each coordinate.
        weight_decay: the share of a parameter that a rate of 1 would remove in one step.
        schedule: a Keras schedule of factors, such as
            `keras.optimizers.schedules.CosineDecay(1.0, num_steps)`. None keeps the rate constant.
    """

    is_coordinatewise = False

    def __init__(
        self,
        learning_rate: LearningRate,
        weight_decay: float = 0.0,
        schedule: Schedule | None = None,
    ):
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.schedule = schedule

    def bind(self, variables: Sequence[Any], batch_shape: Sequence[int] = ()) -> "BoundScheduled":
        """Returns the rule for given tensors."""
        return BoundScheduled(self, variables, batch_shape)

    @abc.abstractmethod
    def num_moments(self, variable: Any) -> int:
        """Returns how many moments the rule keeps of a tensor.

        Args:
            variable: the description of the tensor, with `shape` and `path` or `name`.
        """

    def initial_shared(self, batch_shape: Sequence[int]) -> Any:
        """Returns the state that all tensors share, `[...]` each: none, by default."""
        return ()

    def next_shared(self, shared: Any, number: tf.Tensor) -> Any:
        """Returns the shared state after a step.

        Args:
            shared: the state before.
            number: float32, counted from 1: `[]`, or one for each batch entry, `[...]`.
        """
        return shared

    @abc.abstractmethod
    def delta(
        self, variable: Any, gradient: tf.Tensor, moments: Moments, step: ScheduledStep
    ) -> tuple[tf.Tensor, Moments]:
        """Returns the delta of a tensor, without weight decay, and its next moments.

        Args:
            variable: the description of the tensor.
            gradient: float32, with the tensor's shape after its batch axes.
            moments: float32 of that shape each, zeros before the first step.
            step: the step.
        """

    def get_config(self) -> dict[str, Any]:
        schedule = self.schedule
        return {
            "learning_rate": rate_to_config(self.learning_rate),
            "weight_decay": self.weight_decay,
            "schedule": None if schedule is None else keras.saving.serialize_keras_object(schedule),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ScheduledRule":
        if isinstance(config.get("schedule"), dict):
            schedule = keras.saving.deserialize_keras_object(config["schedule"])
            config = config | {"schedule": schedule}
        return cls(**config)


class BoundScheduled(BoundToTensors):
    """A `ScheduledRule` bound to given tensors.

    Args:
        rule: the rule.
        variables: descriptions of the tensors, each with a static `shape` and a `path` or `name`.
        batch_shape: leading axes that are not part of each tensor's own shape.
    """

    needs = frozenset({"step", "parameters"})

    def __init__(
        self, rule: ScheduledRule, variables: Sequence[Any], batch_shape: Sequence[int] = ()
    ):
        super().__init__(rule, variables, batch_shape)
        self._variables = list(variables)

    def initial_state(self) -> TensorState:
        pairs = zip(self._variables, self.layout.shapes, strict=True)
        return TensorState(
            self.rule.initial_shared(self.batch_shape),
            [
                tuple([tf.zeros(shape)] * self.rule.num_moments(variable))
                for variable, shape in pairs
            ],
        )

    def update(
        self, gradients: Sequence[tf.Tensor], state: TensorState, info: StepInfo = NO_INFO
    ) -> tuple[list[tf.Tensor], TensorState]:
        rule, number = self.rule, tf.cast(info.known_age, tf.float32) + 1
        factor = 1.0 if rule.schedule is None else rule.schedule(info.step)
        shared = rule.next_shared(state.shared, number)
        deltas, moments = [], []
        for variable, rate, gradient, old, parameter in zip(
            self._variables,
            self.of_tensors(rule.learning_rate),
            gradients,
            state.tensors,
            info.parameters,
            strict=True,
        ):
            own_number, *own_shared = (
                _with_rank(one, gradient.shape.rank) for one in (number, *tf.nest.flatten(shared))
            )
            step = ScheduledStep(
                own_number, rate * factor, tf.nest.pack_sequence_as(shared, own_shared)
            )
            delta, new = rule.delta(variable, gradient, old, step)
            if rule.weight_decay:
                delta -= step.rate * rule.weight_decay * parameter
            deltas.append(delta)
            moments.append(new)
        return deltas, TensorState(shared, moments)


def _with_rank(value: tf.Tensor, rank: int) -> tf.Tensor:
    """Returns a value of each batch entry with axes of length 1 up to a rank; a scalar as it is."""
    if not value.shape.rank:
        return value
    return tf.reshape(value, [*value.shape, *[1] * (rank - value.shape.rank)])


@keras.saving.register_keras_serializable(package="l2l_tf")
class NAG(ScheduledRule):
    """Nesterov momentum, as `keras.optimizers.SGD` with `nesterov=True`.

    Without a schedule and weight decay it equals `SGD(learning_rate, momentum, nesterov=True)`,
    which is coordinatewise.

    Args:
        learning_rate: as in `ScheduledRule`.
        momentum: the share of the last velocity that is kept.
        weight_decay: as in `ScheduledRule`.
        schedule: as in `ScheduledRule`.
    """

    def __init__(
        self,
        learning_rate: LearningRate,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        schedule: Schedule | None = None,
    ):
        super().__init__(learning_rate, weight_decay, schedule)
        self.momentum = momentum

    def num_moments(self, variable: Any) -> int:
        return 1

    def delta(
        self, variable: Any, gradient: tf.Tensor, moments: Moments, step: ScheduledStep
    ) -> tuple[tf.Tensor, Moments]:
        move = step.rate * gradient
        velocity = self.momentum * moments[0] - move
        return self.momentum * velocity - move, (velocity,)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"momentum": self.momentum}


@keras.saving.register_keras_serializable(package="l2l_tf")
class AdamW(ScheduledRule):
    """Adam with decoupled weight decay, as `keras.optimizers.AdamW`.

    Args:
        learning_rate: as in `ScheduledRule`.
        weight_decay: as in `ScheduledRule`.
        beta_1: the decay of the mean.
        beta_2: the decay of the mean square.
        epsilon: added to the square root; "epsilon hat" in the paper.
        schedule: as in `ScheduledRule`.
    """

    def __init__(
        self,
        learning_rate: LearningRate,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        schedule: Schedule | None = None,
    ):
        super().__init__(learning_rate, weight_decay, schedule)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon

    def num_moments(self, variable: Any) -> int:
        return 2

    def delta(
        self, variable: Any, gradient: tf.Tensor, moments: Moments, step: ScheduledStep
    ) -> tuple[tf.Tensor, Moments]:
        mean, mean_square = self._next_moments(gradient, moments)
        correction = tf.sqrt(1 - self.beta_2**step.number) / (1 - self.beta_1**step.number)
        delta = -step.rate * correction * mean / (tf.sqrt(mean_square) + self.epsilon)
        return delta, (mean, mean_square)

    def _next_moments(self, gradient: tf.Tensor, moments: Moments) -> Moments:
        mean, mean_square = moments
        mean += (1 - self.beta_1) * (gradient - mean)
        mean_square += (1 - self.beta_2) * (tf.square(gradient) - mean_square)
        return mean, mean_square

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
        }


@keras.saving.register_keras_serializable(package="l2l_tf")
class NAdam(AdamW):
    """Adam with Nesterov momentum, as `keras.optimizers.Nadam` (Dozat 2015).

    Args:
        learning_rate: as in `ScheduledRule`.
        weight_decay: as in `ScheduledRule`.
        beta_1: the decay of the mean.
        beta_2: the decay of the mean square.
        epsilon: added to the square root.
        schedule: as in `ScheduledRule`.
    """

    def __init__(
        self,
        learning_rate: LearningRate,
        weight_decay: float = 0.0,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        schedule: Schedule | None = None,
    ):
        super().__init__(learning_rate, weight_decay, beta_1, beta_2, epsilon, schedule)

    def initial_shared(self, batch_shape: Sequence[int]) -> tf.Tensor:
        """Returns the product of the momenta so far, `[...]`."""
        return tf.ones(batch_shape)

    def next_shared(self, shared: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        return shared * self._momentum(number)

    def delta(
        self, variable: Any, gradient: tf.Tensor, moments: Moments, step: ScheduledStep
    ) -> tuple[tf.Tensor, Moments]:
        mean, mean_square = self._next_moments(gradient, moments)
        now, later = self._momentum(step.number), self._momentum(step.number + 1)
        ahead = later * mean / (1 - step.shared * later) + (1 - now) * gradient / (1 - step.shared)
        size = tf.sqrt(mean_square / (1 - self.beta_2**step.number)) + self.epsilon
        return -step.rate * ahead / size, (mean, mean_square)

    def _momentum(self, number: tf.Tensor) -> tf.Tensor:
        return self.beta_1 * (1 - 0.5 * 0.96**number)


@keras.saving.register_keras_serializable(package="l2l_tf")
class Muon(AdamW):
    """Orthogonalised momentum for matrices and AdamW for the rest, as `keras.optimizers.Muon`.

    Every tensor with two axes is updated as a matrix, embeddings and the output layer included.
    Where these should go to AdamW, as in Keras and in the original, send them there by a route:
    `LearnedOptimizer(Muon(rate), [Route(AdamW(rate), name="embedding|output")])`. The delta of a
    matrix has a root mean square of about .2 times the rate, as that of AdamW (Liu et al. 2025,
    arXiv 2502.16982).
    Source: K. Jordan 2024, https://kellerjordan.github.io/posts/muon.

    Args:
        learning_rate: as in `ScheduledRule`.
        weight_decay: as in `ScheduledRule`, for all tensors.
        momentum: the share of the last momentum that is kept.
        beta_1: as in `AdamW`.
        beta_2: as in `AdamW`.
        epsilon: as in `AdamW`.
        schedule: as in `ScheduledRule`.
    """

    def __init__(
        self,
        learning_rate: LearningRate,
        weight_decay: float = 0.004,
        momentum: float = 0.95,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        schedule: Schedule | None = None,
    ):
        super().__init__(learning_rate, weight_decay, beta_1, beta_2, epsilon, schedule)
        self.momentum = momentum

    def num_moments(self, variable: Any) -> int:
        return 1 if len(variable.shape) == 2 else 2

    def delta(
        self, variable: Any, gradient: tf.Tensor, moments: Moments, step: ScheduledStep
    ) -> tuple[tf.Tensor, Moments]:
        if len(variable.shape) != 2:
            return super().delta(variable, gradient, moments, step)
        momentum = self.momentum * moments[0] + gradient
        direction = orthogonalized(gradient + self.momentum * momentum)
        size = _RMS * math.sqrt(max(variable.shape))
        return -step.rate * size * direction, (momentum,)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"momentum": self.momentum}
