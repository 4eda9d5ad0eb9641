"""A learned rule that looks at whole tensors: a mixture of directions and a step size for each."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from l2l_tf.checks import check_count
from l2l_tf.rules.orthogonal import orthogonalized
from l2l_tf.rules.rule import NO_INFO, StepInfo
from l2l_tf.rules.tensors import BoundToTensors, TensorState

# The decays of the two means of gradients, of the mean of their squares, and of agreement.
_MEAN_DECAY, _SLOW_MEAN_DECAY, _SQUARE_DECAY, _AGREEMENT_DECAY = 0.9, 0.98, 0.999, 0.95
# Added to squares relative to their mean over the tensor, before the root.
_EPSILON = 1e-4
# Added to means over a tensor, so that a tensor without gradients stays where it is. The first is
# for means in the loss's own scale, the others are for relative ones: of what the controller sees,
# and of directions. They are large enough for derivatives at zero to be finite float32 numbers.
_TINY, _TINY_SHARE, _TINY_DIRECTION = 1e-24, 1e-12, 1e-8
# The directions that are mixed.
DIRECTIONS = ("gradient", "adam", "slow_adam", "orthogonal")
# What is orthogonalised: a mixture of these.
ORTHOGONALIZED = ("gradient", "mean", "slow_mean", "adam")
# The mixtures before anything is learned: Muon's direction alone.
_NOMINAL_MIX = (0.0, 0.0, 0.0, 1.0)
_NOMINAL_INPUTS = (0.1, 0.45, 0.45, 0.0)
# The share of the gradient's direction in what vectors have in place of an orthogonal one.
_GRADIENT_SHARE = 0.1
# The largest rate before anything is learned, for so many steps, and the share of steps in which it
# is reached. For other numbers of steps, it changes with the power.
_RATE, _RATE_STEPS, _RATE_POWER, _WARM_UP_SHARE = 3e-3, 1000, -0.5, 0.05
# The logarithm of the rate changes by the output times the first, at most by the second.
_RATE_SCALE, _MAX_LOG_RATE = 3.0, 5.0
# The weight decay is the first times softplus of the output, times the second, plus the third.
_DECAY, _DECAY_SCALE, _DECAY_START = 3e-3, 3.0, -5.0
# Tensors of one shape with at most so many coordinates are updated side by side. For larger ones,
# copies would take longer than the operations that they save.
_MAX_SIZE_BESIDE = 2**14
# What the controller sees of a tensor.
INPUTS = (
    *("time", "cosine_of_time", "start", "first_steps", "end", "log_num_steps"),
    *("is_vector", "log_fan_in", "log_fan_out", "position", "log_num_tensors"),
    *("log_parameters", "log_mean", "log_slow_mean", "log_gradient", "log_spread"),
    *("cosine_of_mean", "cosine_of_means", "agreement", "log_mean_of_all"),
)
# What it computes for a tensor.
MIXES = (
    *(f"mix_{one}" for one in DIRECTIONS),
    *(f"orthogonalized_{one}" for one in ORTHOGONALIZED),
)
RATES = ("log_rate", "decay")
OUTPUTS = (*MIXES, *RATES)


@keras.saving.register_keras_serializable(package="l2l_tf")
class GeneralRule(keras.layers.Layer):
    """A rule for any network: directions of known optimizers, mixed by a small learned controller.

    It keeps three numbers for each coordinate: two moving averages of the gradient, and one of its
    square. At each step, a controller sees twenty numbers for each tensor (`INPUTS`). They say how
    much of training has passed, which shape the tensor has, and how its gradients, their averages
    and its parameters compare in size and direction. From them it computes how to mix four
    directions (`DIRECTIONS`), how far to go, and how much to decay the parameters. Directions and
    mixture are divided by their root mean square over the tensor. So nothing depends on the scale
    of the loss.

    With its initial weights the controller changes nothing. The rule is then Muon's direction for
    all tensors with two axes or more, and nearly Adam's for the others, with a warm-up over 5 % of
    the steps, a cosine decay, and a rate that falls with the root of the number of steps. It also
    takes up to 2e-5 of each parameter away at a step, vectors and rows without gradients included.

    The rule must know how long training is (`StepInfo.num_steps`). After the last step it stands
    still.

    Source: our own. The directions are those of Adam (Kingma and Ba 2014, arXiv 1412.6980) and Muon
    (K. Jordan 2024, https://kellerjordan.github.io/posts/muon). Controllers for each tensor go back
    to Wichrowska et al. 2017 (arXiv 1703.04813).

    Args:
        num_hidden: the units of the controller's hidden layer.
        seed: an integer seed for the hidden layer's weights. None uses Keras's global seed.
        dtype: the dtype of weights, states and deltas, independent of the global dtype policy.
            float64 is for derivative tests.
        name: the layer's name.
        trainable: whether the weights are trainable, as in any Keras layer.

    Raises:
        ValueError: `num_hidden` is not a positive integer.
    """

    is_coordinatewise = False

    def __init__(
        self,
        num_hidden: int = 16,
        seed: int | None = None,
        dtype: str = "float32",
        name: str | None = None,
        trainable: bool = True,
    ):
        check_count("num_hidden", num_hidden, "Leave it out for 16.")
        super().__init__(dtype=dtype, name=name, trainable=trainable, autocast=False)
        self.num_hidden = num_hidden
        self.seed = seed
        scaled = keras.initializers.RandomNormal(stddev=len(INPUTS) ** -0.5, seed=seed)
        self.hidden_kernel = self._add("hidden_kernel", (len(INPUTS), num_hidden), scaled)
        num_seen = len(INPUTS) + num_hidden
        # Apart, so that an estimator of meta-gradients can be given the ones or the others.
        self.mix_kernel = self._add("mix_kernel", (num_seen, len(MIXES)))
        self.mix_bias = self._add("mix_bias", (len(MIXES),))
        self.rate_kernel = self._add("rate_kernel", (num_seen, len(RATES)))
        self.rate_bias = self._add("rate_bias", (len(RATES),))
        self.built = True

    def _add(self, name: str, shape: tuple[int, ...], initializer: Any = "zeros") -> Any:
        return self.add_weight(name=name, shape=shape, initializer=initializer)

    def bind(self, variables: Sequence[Any], batch_shape: Sequence[int] = ()) -> "BoundGeneral":
        """Returns the rule for given tensors."""
        return BoundGeneral(self, variables, batch_shape)

    def outputs(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the controller's `OUTPUTS`, float `[..., 10]`, for its `INPUTS` `[..., 20]`."""
        hidden = tf.tanh(tf.tensordot(inputs, self.hidden_kernel.value, 1))
        kernel = tf.concat([self.mix_kernel.value, self.rate_kernel.value], axis=1)
        bias = tf.concat([self.mix_bias.value, self.rate_bias.value], axis=0)
        return tf.tensordot(tf.concat([inputs, hidden], axis=-1), kernel, 1) + bias

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"num_hidden": self.num_hidden, "seed": self.seed}


class Averages(NamedTuple):
    """The state of one tensor.

    Attributes:
        mean: the moving average of gradients, in the tensor's shape with its batch axes, as the
            next two.
        slow_mean: a slower one.
        square: the moving average of the gradients' squares.
        agreement: the moving average of the cosine between a gradient and the mean before it, with
            the batch axes, and the tensor's own with length 1.
    """

    mean: tf.Tensor
    slow_mean: tf.Tensor
    square: tf.Tensor
    agreement: tf.Tensor


class Moments(NamedTuple):
    """What a step knows of some tensors of one shape. The scale of the gradients is taken out.

    Averages are corrected for their start at zero.

    Attributes:
        gradient: the gradients, `[..., n, *shape]` for n tensors.
        mean: the means of gradients, likewise.
        slow_mean: the slower ones, likewise.
        inverse_size: the inverse roots of the means of squares, likewise.
        statistics: eight numbers of each tensor that the controller sees, `[..., n, 8]`, in the
            order of `INPUTS`, before logarithms are taken.
    """

    gradient: tf.Tensor
    mean: tf.Tensor
    slow_mean: tf.Tensor
    inverse_size: tf.Tensor
    statistics: tf.Tensor


class BoundGeneral(BoundToTensors):
    """A `GeneralRule` bound to given tensors.

    Small tensors of one shape are updated side by side: a step of a network has far fewer
    operations then.
    """

    needs = frozenset({"step", "num_steps", "parameters"})

    def __init__(self, rule: GeneralRule, variables: Sequence[Any], batch_shape: Sequence[int]):
        super().__init__(rule, variables, batch_shape)
        by_shape: dict[Any, list[int]] = {}
        for index, shape in enumerate(self.shapes):
            size = math.prod(shape)
            # A tensor without coordinates has no statistics.
            if size:
                key = shape if size <= _MAX_SIZE_BESIDE else (shape, index)
                by_shape.setdefault(key, []).append(index)
        self._families = [
            _Family(self.batch_shape, self.shapes[own[0]], own) for own in by_shape.values()
        ]
        present = sorted(index for family in self._families for index in family.indices)
        # What the controller sees of shapes and positions, in the order of families.
        self._of_shapes = [
            [*_of_shape(family.shape), *_of_position(present.index(index), len(present))]
            for family in self._families
            for index in family.indices
        ]

    def initial_state(self) -> TensorState:
        dtype = self.rule.compute_dtype
        tensors = []
        for shape in self.shapes:
            zeros = tf.zeros([*self.batch_shape, *shape], dtype)
            agreement = tf.zeros([*self.batch_shape, *[1] * len(shape)], dtype)
            tensors.append(Averages(zeros, zeros, zeros, agreement))
        return TensorState((), tensors)

    def update(
        self, gradients: Sequence[tf.Tensor], state: TensorState, info: StepInfo = NO_INFO
    ) -> tuple[list[tf.Tensor], TensorState]:
        if info.num_steps is None:
            raise ValueError(
                "A GeneralRule must know the number of steps of the whole training. "
                "Received: num_steps=None. Give it in StepInfo, or to LearnedOptimizer."
            )
        dtype = self.rule.compute_dtype
        num_steps = tf.maximum(tf.cast(info.num_steps, dtype), 1)
        time = _Time(tf.cast(info.step, dtype), num_steps)
        deltas = [tf.zeros_like(one) for one in gradients]
        averages = list(state.tensors)
        if not self._families:
            return deltas, state
        parameters, moments = [], []
        for family in self._families:
            gradient = family.joined(gradients)
            parameters.append(family.joined(info.parameters))
            old = Averages._make(map(family.joined, zip(*averages, strict=True)))
            new = _next(family, gradient, old)
            moments.append(_moments(family, gradient, new, parameters[-1], time.step + 1))
            for index, *fields in zip(family.indices, *map(family.apart, new), strict=True):
                averages[index] = Averages._make(fields)
        statistics = tf.concat([one.statistics for one in moments], axis=-2)
        outputs = _shares_and_rates(self.rule.outputs(self._inputs(statistics, time)), time)
        counts = [len(family.indices) for family in self._families]
        shares = tf.split(outputs, counts, axis=-2)
        for family, own, known, values in zip(
            self._families, shares, moments, parameters, strict=True
        ):
            *mixes, rate, decay = family.of_statistics(own)
            delta = rate * _direction(family, known, mixes[:4], mixes[4:]) + decay * values
            for index, one in zip(family.indices, family.apart(delta), strict=True):
                deltas[index] = one
        return deltas, TensorState((), averages)

    def _inputs(self, statistics: tf.Tensor, time: "_Time") -> tf.Tensor:
        """Returns what the controller sees, `[..., tensors, 20]`, of statistics `[..., 8]`."""
        sizes = tf.sqrt(statistics[..., :4] + _TINY_SHARE)
        parameters, mean, slow_mean, gradient = tf.unstack(sizes, axis=-1)
        spread, of_gradient, of_means, agreement = tf.unstack(statistics[..., 4:], axis=-1)
        log_mean = tf.math.log(mean + 1e-4) / 2 + 0.5
        of_all = tf.reduce_mean(log_mean, axis=-1, keepdims=True)
        seen = [
            tf.math.log(parameters + 3e-3) / 2 + 1,
            log_mean,
            tf.math.log(slow_mean + 1e-4) / 2 + 0.5,
            tf.math.log(gradient + 1e-4) / 2,
            tf.math.log(spread + 1e-4) + 0.5,
            of_gradient / (gradient * mean),
            of_means / (mean * slow_mean),
            agreement,
            tf.broadcast_to(of_all, log_mean.shape),
        ]
        leading = log_mean.shape
        of_shapes = tf.constant(self._of_shapes, log_mean.dtype)
        return tf.concat(
            [
                tf.broadcast_to(time.inputs, [*leading, *time.inputs.shape]),
                tf.broadcast_to(of_shapes, [*leading, of_shapes.shape[-1]]),
                tf.stack(seen, axis=-1),
            ],
            axis=-1,
        )


class _Family:
    """Tensors of one shape, as one tensor with a further axis for them after the batch axes.

    Args:
        batch_shape: the batch axes.
        shape: the shape of each tensor.
        indices: their positions among all tensors.
    """

    def __init__(self, batch_shape: Sequence[int], shape: Sequence[int], indices: Sequence[int]):
        self.shape = tuple(shape)
        self.indices = list(indices)
        self._axis = len(batch_shape)
        self._leading = [*batch_shape, len(indices)]
        self._own_axes = list(range(-len(shape), 0))

    def joined(self, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns the tensors of the family, out of all, as one."""
        if len(self.indices) == 1:
            return tf.expand_dims(tensors[self.indices[0]], self._axis)
        return tf.stack([tensors[index] for index in self.indices], self._axis)

    def apart(self, values: tf.Tensor) -> list[tf.Tensor]:
        """Inverts `joined`."""
        if len(self.indices) == 1:
            return [tf.squeeze(values, self._axis)]
        return tf.unstack(values, axis=self._axis)

    def mean(self, values: tf.Tensor) -> tf.Tensor:
        """Returns the mean over each tensor, whose axes stay with length 1."""
        return tf.reduce_mean(values, self._own_axes, keepdims=True)

    def inverse_size(self, values: tf.Tensor) -> tf.Tensor:
        """Returns the inverse root mean square of each tensor, which is finite for zeros."""
        return tf.math.rsqrt(self.mean(tf.square(values)) + _TINY_DIRECTION)

    def as_statistics(self, values: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns numbers of each tensor as one tensor `[..., n, numbers]`."""
        stacked = tf.stack(values)
        last = tf.reshape(stacked, [len(values), *self._leading])
        return tf.transpose(last, [*range(1, last.shape.rank), 0])

    def of_statistics(self, values: tf.Tensor) -> list[tf.Tensor]:
        """Inverts `as_statistics`."""
        rank = values.shape.rank
        first = tf.transpose(values, [rank - 1, *range(rank - 1)])
        return tf.unstack(
            tf.reshape(first, [first.shape[0], *self._leading, *[1] * len(self.shape)])
        )

    def orthogonalized(self, values: tf.Tensor) -> tf.Tensor:
        """Orthogonalises matrices. A kernel counts as one of `[all other axes, last axis]`."""
        matrices = [*self._leading, math.prod(self.shape[:-1]), self.shape[-1]]
        return tf.reshape(orthogonalized(tf.reshape(values, matrices)), values.shape)


def _next(family: _Family, gradient: tf.Tensor, old: Averages) -> Averages:
    """Returns the averages after a gradient."""
    square = tf.square(gradient)
    # One after the other, since the product of the two roots may be too small a number.
    cosine = family.mean(gradient * old.mean)
    for squares in (square, tf.square(old.mean)):
        cosine *= tf.math.rsqrt(family.mean(squares) + _TINY)
    return Averages(
        _moved(old.mean, gradient, _MEAN_DECAY),
        _moved(old.slow_mean, gradient, _SLOW_MEAN_DECAY),
        _moved(old.square, square, _SQUARE_DECAY),
        _moved(old.agreement, cosine, _AGREEMENT_DECAY),
    )


def _moved(average: tf.Tensor, value: tf.Tensor, decay: float) -> tf.Tensor:
    return decay * average + (1 - decay) * value


def _moments(
    family: _Family,
    gradient: tf.Tensor,
    averages: Averages,
    parameter: tf.Tensor,
    number: tf.Tensor,
) -> Moments:
    """Returns what a step knows of some tensors, for the number of gradients so far."""
    square = averages.square * (1 / (1 - _SQUARE_DECAY**number))
    scale = tf.math.rsqrt(family.mean(square) + _TINY)
    relative = square * tf.square(scale)
    gradient *= scale
    mean = averages.mean * (scale / (1 - _MEAN_DECAY**number))
    slow_mean = averages.slow_mean * (scale / (1 - _SLOW_MEAN_DECAY**number))
    statistics = [
        family.mean(tf.square(parameter)),
        family.mean(tf.square(mean)),
        family.mean(tf.square(slow_mean)),
        family.mean(tf.square(gradient)),
        family.mean(tf.sqrt(relative + _TINY_SHARE)),
        family.mean(gradient * mean),
        family.mean(mean * slow_mean),
        averages.agreement / (1 - _AGREEMENT_DECAY**number),
    ]
    inverse_size = tf.math.rsqrt(relative + _EPSILON)
    return Moments(gradient, mean, slow_mean, inverse_size, family.as_statistics(statistics))


def _direction(
    family: _Family,
    moments: Moments,
    mix: Sequence[tf.Tensor],
    orthogonalized_mix: Sequence[tf.Tensor],
) -> tf.Tensor:
    """Returns a mixture of the directions, whose root mean square is 1 for each tensor."""
    gradient, adam, slow_adam = (
        one * moments.inverse_size for one in (moments.gradient, moments.mean, moments.slow_mean)
    )
    if len(family.shape) > 1:
        terms = (moments.gradient, moments.mean, moments.slow_mean, adam)
        orthogonal = family.orthogonalized(_sum(orthogonalized_mix, terms))
    else:
        orthogonal = _GRADIENT_SHARE * gradient + (1 - _GRADIENT_SHARE) * adam
    directions = (gradient, adam, slow_adam, orthogonal)
    shares = [share * family.inverse_size(one) for share, one in zip(mix, directions, strict=True)]
    mixed = _sum(shares, directions)
    return mixed * family.inverse_size(mixed)


class _Time:
    """What a step knows of time.

    Args:
        step: the number of steps before this one, float `[]`.
        num_steps: the number of steps of the whole training, float `[]`.

    Attributes:
        step: as given.
        num_steps: as given.
        schedule: the share of the largest rate, `[]`: a linear warm-up and a cosine decay to zero.
        inputs: what the controller sees, `[6]`.
    """

    def __init__(self, step: tf.Tensor, num_steps: tf.Tensor):
        self.step = step
        self.num_steps = num_steps
        passed = tf.minimum(step / num_steps, 1)
        warm_up = tf.minimum((step + 1) / (_WARM_UP_SHARE * num_steps + 1), 1)
        self.schedule = warm_up * (1 + tf.cos(math.pi * passed)) / 2
        self.inputs = tf.stack(
            [
                2 * passed - 1,
                tf.cos(2 * math.pi * passed),
                tf.exp(-10 * passed),
                tf.exp(-(step + 1) / 8),
                tf.exp(-10 * (1 - passed)),
                (tf.math.log(num_steps) - 5) / 2,
            ]
        )


def _shares_and_rates(outputs: tf.Tensor, time: _Time) -> tf.Tensor:
    """Returns mixtures and the factors of direction and parameters in a delta, `[..., 10]`."""
    mixes = outputs[..., :-2] + tf.constant([*_NOMINAL_MIX, *_NOMINAL_INPUTS], outputs.dtype)
    log_rate, decay = outputs[..., -2:-1], outputs[..., -1:]
    log_rate = tf.clip_by_value(_RATE_SCALE * log_rate, -_MAX_LOG_RATE, _MAX_LOG_RATE)
    largest = _RATE * (time.num_steps / _RATE_STEPS) ** _RATE_POWER
    rate = largest * tf.exp(log_rate)
    decay = _DECAY * tf.nn.softplus(_DECAY_SCALE * decay + _DECAY_START)
    return tf.concat([mixes, -time.schedule * rate, -time.schedule * decay], axis=-1)


def _sum(shares: Sequence[tf.Tensor], values: Sequence[tf.Tensor]) -> Any:
    return sum(share * value for share, value in zip(shares, values, strict=True))


def _of_shape(shape: Sequence[int]) -> list[float]:
    """Returns what the controller sees of a tensor's shape."""
    if len(shape) > 1:
        log_fan_in, log_fan_out = math.log(math.prod(shape[:-1])), math.log(shape[-1])
    else:
        log_fan_in, log_fan_out = 3.0, math.log(math.prod(shape))
    return [float(len(shape) <= 1), (log_fan_in - 3) / 2, (log_fan_out - 3) / 2]


def _of_position(row: int, num_tensors: int) -> list[float]:
    """Returns what the controller sees of a tensor's position among all."""
    return [2 * row / max(1, num_tensors - 1) - 1, math.log(num_tensors) / 2 - 1]
