"""A learned rule that looks at whole tensors: a mixture of directions and a step size for each."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from l2l_tf.checks import check_count
from l2l_tf.keras_internals import is_compiled_by_xla
from l2l_tf.rules.orthogonal import orthogonalized
from l2l_tf.rules.rule import NO_INFO, StepInfo
from l2l_tf.rules.sums import sum_of_all
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
# A tensor's rate is multiplied by exp of the first times its persistence less the second, within
# bounds. Persistence is measured over the first of so many equal parts of training.
_PACE_SCALE, _USUAL_PERSISTENCE = 4.0, 0.1
_MIN_PACE, _MAX_PACE = 0.8, 5.0
_NUM_PARTS = 10
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

    A tensor's rate also depends on its persistence: the cosine between a gradient and the average
    of those before, on average over the first tenth of training. Where gradients go on pointing the
    same way, steps are too small. So the rate is multiplied by exp(4 (persistence - .1)), but by .8
    at least and by 5 at most. After the first tenth, this factor stays as it is.

    With its initial weights the controller changes nothing. The rule is then Muon's direction for
    all tensors with two axes or more, and nearly Adam's for the others, with a warm-up over 5 % of
    the steps, a cosine decay, and a rate that falls with the root of the number of steps. It also
    takes up to 2e-5 of each parameter away at a step, vectors and rows without gradients included.

    The rule must know how long training is (`StepInfo.num_steps`). After the last step it stands
    still.

    Source: our own. The directions are those of Adam (Kingma and Ba 2014, arXiv 1412.6980) and Muon
    (K. Jordan 2024, https://kellerjordan.github.io/posts/muon). Controllers for each tensor go back
    to Wichrowska et al. 2017 (arXiv 1703.04813). That successive gradients tell whether steps are
    too small is the idea of delta-bar-delta (Jacobs 1988) and of hypergradient descent (Baydin et
    al. 2018, arXiv 1703.04782); here they decide once, early.

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
        # Apart, so that an estimator of meta-gradients can be given some of them.
        parts = {"mix": DIRECTIONS, "orthogonalized": ORTHOGONALIZED, "rate": RATES}
        self._kernels = [
            self._add(f"{name}_kernel", (num_seen, len(outputs))) for name, outputs in parts.items()
        ]
        self._biases = [
            self._add(f"{name}_bias", (len(outputs),)) for name, outputs in parts.items()
        ]
        self.built = True

    def _add(self, name: str, shape: tuple[int, ...], initializer: Any = "zeros") -> Any:
        return self.add_weight(name=name, shape=shape, initializer=initializer)

    def bind(self, variables: Sequence[Any], batch_shape: Sequence[int] = ()) -> "BoundGeneral":
        """Returns the rule for given tensors."""
        return BoundGeneral(self, variables, batch_shape)

    def outputs(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the controller's `OUTPUTS`, float `[..., 10]`, for its `INPUTS` `[..., 20]`."""
        hidden = tf.tanh(tf.tensordot(inputs, self.hidden_kernel.value, 1))
        kernel = tf.concat([kernel.value for kernel in self._kernels], axis=1)
        bias = tf.concat([bias.value for bias in self._biases], axis=0)
        return tf.tensordot(tf.concat([inputs, hidden], axis=-1), kernel, 1) + bias

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"num_hidden": self.num_hidden, "seed": self.seed}


class Averages(NamedTuple):
    """The state of one tensor.

    The last two have the batch axes, and the tensor's own with length 1.

    Attributes:
        mean: the moving average of gradients, in the tensor's shape with its batch axes, as the
            next two.
        slow_mean: a slower one.
        square: the moving average of the gradients' squares.
        agreement: the moving average of the cosine between a gradient and the mean before it.
        persistence: the average of that cosine over the first tenth of training. Each counts in
            proportion to the number of gradients before it.
    """

    mean: tf.Tensor
    slow_mean: tf.Tensor
    square: tf.Tensor
    agreement: tf.Tensor
    persistence: tf.Tensor


class _Moments(NamedTuple):
    """What a step knows of the tensors of a family before their scale is known.

    Attributes:
        gradient: the gradients, `[..., n, *shape]` for n tensors.
        mean: the averages of gradients after this one, likewise.
        slow_mean: the slower ones, likewise.
        square: the averages of squares, likewise.
        parameter: the parameters, likewise.
        numbers: means over each tensor, `[8, ..., n]`, which `_Scales` takes.
    """

    gradient: tf.Tensor
    mean: tf.Tensor
    slow_mean: tf.Tensor
    square: tf.Tensor
    parameter: tf.Tensor
    numbers: tf.Tensor


class _Steps(NamedTuple):
    """Three of the directions, of the tensors of a family.

    Averages begin at zero, and are not corrected for it here.

    Attributes:
        directions: "gradient", "adam" and "slow_adam", `[..., n, *shape]` each.
        numbers: means over each tensor, `[4, ..., n]`: the root of the mean of squares, and the
            squares of the directions.
    """

    directions: list[tf.Tensor]
    numbers: tf.Tensor


class Decisions(NamedTuple):
    """What is decided on some tensors, by the controller and by how gradients persist.

    Attributes:
        mix: the shares of the `DIRECTIONS` in the mixture, each relative to its size, `[...]` each.
        orthogonalized: those of the terms `ORTHOGONALIZED`, which vectors do not use.
        log_rate: the logarithm of the rate over the one before anything is learned, `[...]`.
        decay: the share of the parameters that a step takes away where the schedule is largest.
        pace: the factor of the rate that persistence gives, `[...]`.
    """

    mix: list[tf.Tensor]
    orthogonalized: list[tf.Tensor]
    log_rate: tf.Tensor
    decay: tf.Tensor
    pace: tf.Tensor


class _Known(NamedTuple):
    """What a step knows when the controller has decided.

    Attributes:
        moments: the moments of each family.
        scales: the scales of all tensors.
        steps: three directions of each family.
        sizes: the mean squares of these directions, `[..., tensors]` each.
        outputs: the controller's outputs, `[..., tensors, 10]`.
        time: the time.
    """

    moments: list[_Moments]
    scales: "_Scales"
    steps: list[_Steps]
    sizes: list[tf.Tensor]
    outputs: tf.Tensor
    time: "_Time"


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
            number = tf.zeros([*self.batch_shape, *[1] * len(shape)], dtype)
            tensors.append(Averages(zeros, zeros, zeros, number, number))
        return TensorState((), tensors)

    def restarted_state(self, state: TensorState) -> TensorState:
        """Returns the initial state, but for persistence, which is only measured early."""
        first = self.initial_state()
        tensors = []
        for new, old in zip(first.tensors, state.tensors, strict=True):
            is_known = tf.math.is_finite(old.persistence)
            kept = tf.where(is_known, old.persistence, new.persistence)
            tensors.append(new._replace(persistence=kept))
        return first._replace(tensors=tensors)

    def update(
        self, gradients: Sequence[tf.Tensor], state: TensorState, info: StepInfo = NO_INFO
    ) -> tuple[list[tf.Tensor], TensorState]:
        deltas, averages = [tf.zeros_like(one) for one in gradients], list(state.tensors)
        if not self._families:
            return deltas, state
        known = self._known(gradients, state, info)
        scales, time = known.scales, known.time
        factors = scales.factors(known.sizes, _shares_and_rates(known.outputs, scales.pace, time))
        for family, own, step, of_family, cosines in zip(
            self._families,
            known.moments,
            known.steps,
            self._of_families(factors),
            self._of_families([scales.agreement, scales.persistence]),
            strict=True,
        ):
            delta = _delta(family, own, step, of_family, family.as_factor(scales.of_mean))
            new = Averages(own.mean, own.slow_mean, own.square, *cosines)
            for index, one, *fields in zip(
                family.indices, family.apart(delta), *map(family.apart, new), strict=True
            ):
                deltas[index] = one
                averages[index] = Averages._make(fields)
        return deltas, TensorState((), averages)

    def decisions(
        self, gradients: Sequence[tf.Tensor], state: TensorState, info: StepInfo = NO_INFO
    ) -> list[Decisions | None]:
        """Returns what is decided in the step that `update` takes with these arguments.

        Returns:
            Decisions on each tensor. None for one without coordinates.
        """
        found: list[Decisions | None] = [None] * len(self.shapes)
        if not self._families:
            return found
        known = self._known(gradients, state, info)
        decided = _decisions(known.outputs, known.scales.pace)
        indices = [index for family in self._families for index in family.indices]
        for row, index in enumerate(indices):
            found[index] = Decisions._make(
                [one[..., row] for one in part] if isinstance(part, list) else part[..., row]
                for part in decided
            )
        return found

    def _known(
        self, gradients: Sequence[tf.Tensor], state: TensorState, info: StepInfo
    ) -> "_Known":
        """Returns what a step knows when the controller has decided."""
        if info.num_steps is None:
            raise ValueError(
                "A GeneralRule must know the number of steps of the whole training. "
                "Received: num_steps=None. Give it in StepInfo, or to LearnedOptimizer."
            )
        dtype = self.rule.compute_dtype
        num_steps = tf.maximum(tf.cast(info.num_steps, dtype), 1)
        time = _Time(tf.cast(info.step, dtype), num_steps)
        # The averages may be younger than the training.
        number = time.step + 1 if info.age is None else _as_row(tf.cast(info.age, dtype) + 1)
        families = self._families
        old = [
            Averages._make(map(family.joined, zip(*state.tensors, strict=True)))
            for family in families
        ]
        moments = [
            _moments(family, family.joined(gradients), one, family.joined(info.parameters))
            for family, one in zip(families, old, strict=True)
        ]
        cosines = [
            tf.stack([family.as_numbers(one.agreement), family.as_numbers(one.persistence)])
            for family, one in zip(families, old, strict=True)
        ]
        scales = _Scales(
            tf.concat([one.numbers for one in moments], -1), tf.concat(cosines, -1), time, number
        )
        steps = [
            _steps(family, own, *factors)
            for family, own, factors in zip(
                families, moments, self._of_families(scales.of_squares), strict=True
            )
        ]
        spread, *sizes = tf.unstack(tf.concat([one.numbers for one in steps], -1))
        outputs = self.rule.outputs(self._inputs(scales.statistics(spread), time))
        return _Known(moments, scales, steps, sizes, outputs, time)

    def _of_families(self, numbers: Sequence[tf.Tensor]) -> list[list[tf.Tensor]]:
        """Returns numbers of all tensors, `[..., tensors]` each, as factors for each family."""
        counts = [len(family.indices) for family in self._families]
        parts = tf.split(tf.stack(numbers), counts, axis=-1)
        return [family.as_factors(part) for family, part in zip(self._families, parts, strict=True)]

    def _inputs(self, statistics: "_Statistics", time: "_Time") -> tf.Tensor:
        """Returns what the controller sees, `[..., tensors, 20]`."""
        parameter, mean, slow_mean, gradient = (
            tf.sqrt(one + _TINY_SHARE) for one in statistics[:4]
        )
        log_mean = tf.math.log(mean + 1e-4) / 2 + 0.5
        of_all = tf.reduce_mean(log_mean, axis=-1, keepdims=True)
        seen = [
            tf.math.log(parameter + 3e-3) / 2 + 1,
            log_mean,
            tf.math.log(slow_mean + 1e-4) / 2 + 0.5,
            tf.math.log(gradient + 1e-4) / 2,
            tf.math.log(statistics.spread + 1e-4) + 0.5,
            statistics.of_mean / (gradient * mean),
            statistics.of_means / (mean * slow_mean),
            statistics.agreement,
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
        self._factors = [*self._leading, *[1] * len(shape)]
        self._matrices = [*self._leading, math.prod(shape[:-1]), shape[-1]] if shape else []
        self._is_large = len(shape) > 1 and math.prod(shape) > _MAX_SIZE_BESIDE

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

    def means(self, products: Sequence[tuple[tf.Tensor, ...]]) -> tf.Tensor:
        """Returns the means of products over each tensor, `[products, ..., n]`.

        Args:
            products: one or two factors each.
        """
        if self._is_large:
            return tf.stack([self.as_numbers(self._mean(*factors)) for factors in products])
        return tf.reduce_mean(tf.stack([_product(*one) for one in products]), self._own_axes)

    def inverse_size(self, values: tf.Tensor) -> tf.Tensor:
        """Returns the inverse root mean square of each tensor, which is finite for zeros."""
        return tf.math.rsqrt(self._mean(values, values) + _TINY_DIRECTION)

    def _mean(self, *factors: tf.Tensor) -> tf.Tensor:
        """Returns the mean of a product over each tensor, whose axes stay with length 1."""
        size = math.prod(self.shape)
        if self._is_large:
            is_square = len(factors) == 2 and factors[0] is factors[1]
            if is_square and not self._axis and not is_compiled_by_xla():
                # Without a copy for the squares.
                total = 2 * tf.nn.l2_loss(factors[0])
            else:
                total = sum_of_all(_product(*factors), len(self._leading))
            return tf.reshape(total / size, self._factors)
        return tf.reduce_mean(_product(*factors), self._own_axes, keepdims=True)

    def as_factor(self, number: tf.Tensor) -> tf.Tensor:
        """Returns a number of all tensors, `[]` or `[..., 1]`, as a factor of the family's."""
        if not number.shape.rank:
            return number
        return tf.reshape(number, [*number.shape, *[1] * len(self.shape)])

    def as_numbers(self, factors: tf.Tensor) -> tf.Tensor:
        """Returns a number of each tensor, `[..., n]`, whose axes have length 1."""
        return tf.reshape(factors, self._leading)

    def as_factors(self, numbers: tf.Tensor) -> list[tf.Tensor]:
        """Inverts `as_numbers` for several numbers, `[numbers, ..., n]`."""
        return tf.unstack(tf.reshape(numbers, [numbers.shape[0], *self._factors]))

    def orthogonalized(self, values: tf.Tensor) -> tf.Tensor:
        """Orthogonalises matrices. A kernel counts as one of `[all other axes, last axis]`."""
        return tf.reshape(orthogonalized(tf.reshape(values, self._matrices)), values.shape)


def _product(*factors: tf.Tensor) -> tf.Tensor:
    first, *others = factors
    if not others:
        return first
    return tf.square(first) if others[0] is first else first * others[0]


def _moments(family: _Family, gradient: tf.Tensor, old: Averages, parameter: tf.Tensor) -> _Moments:
    """Returns what a step knows of some tensors before their scale is known."""
    squares = tf.square(gradient)
    mean = _moved(old.mean, gradient, _MEAN_DECAY)
    slow_mean = _moved(old.slow_mean, gradient, _SLOW_MEAN_DECAY)
    square = _moved(old.square, squares, _SQUARE_DECAY)
    numbers = family.means(
        [
            (squares,),
            (gradient, old.mean),
            (old.mean, old.mean),
            (square,),
            (parameter, parameter),
            (mean, mean),
            (slow_mean, slow_mean),
            (mean, slow_mean),
        ]
    )
    return _Moments(gradient, mean, slow_mean, square, parameter, numbers)


def _as_row(numbers: tf.Tensor) -> tf.Tensor:
    """Returns numbers of batch entries with an axis for all tensors; a scalar as it is."""
    return numbers[..., tf.newaxis] if numbers.shape.rank else numbers


def _moved(average: tf.Tensor, value: tf.Tensor, decay: float) -> tf.Tensor:
    return decay * average + (1 - decay) * value


class _Statistics(NamedTuple):
    """What the controller sees of gradients and parameters, `[..., tensors]`, before logarithms.

    Attributes:
        parameter: the mean square of parameters.
        mean: that of the means of gradients, here and below relative to the gradients' scale.
        slow_mean: that of the slower ones.
        gradient: that of the gradients.
        spread: the mean of the roots of the means of squares.
        of_mean: the mean product of gradients and their means.
        of_means: that of the two means of gradients.
        agreement: the average of cosines.
    """

    parameter: tf.Tensor
    mean: tf.Tensor
    slow_mean: tf.Tensor
    gradient: tf.Tensor
    spread: tf.Tensor
    of_mean: tf.Tensor
    of_means: tf.Tensor
    agreement: tf.Tensor


class _Scales:
    """The scale of each tensor's gradients, and what corrects averages for their start at zero.

    Tensors are never divided by their scale: it goes into their factors, which are numbers.

    Args:
        numbers: those of `_Moments`, `[8, ..., tensors]`.
        cosines: the average agreement and the persistence before this step, `[2, ..., tensors]`.
        time: the time.
        number: the number of gradients in the averages, float `[]`, or `[..., 1]` if batch entries
            differ.

    Attributes:
        agreement: the average agreement after this step, not corrected.
        persistence: the persistence after this step.
        pace: the factor of the rate that it gives, `[..., tensors]`.
        of_mean: the correction of means of gradients, in the shape of `number`.
        of_squares: two factors that `_steps` takes, `[..., tensors]` each.
    """

    def __init__(self, numbers: tf.Tensor, cosines: tf.Tensor, time: "_Time", number: tf.Tensor):
        self._numbers = tf.unstack(numbers)
        gradient, of_old_mean, old_mean, square, *_ = self._numbers
        agreement, persistence = tf.unstack(cosines)
        # One after the other, since the product of the two roots may be too small a number.
        cosine = of_old_mean * tf.math.rsqrt(gradient + _TINY) * tf.math.rsqrt(old_mean + _TINY)
        self.agreement = _moved(agreement, cosine, _AGREEMENT_DECAY)
        is_early = _NUM_PARTS * time.step <= time.num_steps
        weight = tf.where(is_early, 2 / (time.step + 1), 0)
        self.persistence = persistence + weight * (cosine - persistence)
        # Its derivative by way of cosines would be as chaotic as training is.
        excess = tf.stop_gradient(self.persistence) - _USUAL_PERSISTENCE
        self.pace = tf.clip_by_value(tf.exp(_PACE_SCALE * excess), _MIN_PACE, _MAX_PACE)
        self.of_mean = 1 / (1 - _MEAN_DECAY**number)
        self._of_slow_mean = 1 / (1 - _SLOW_MEAN_DECAY**number)
        self._of_agreement = 1 / (1 - _AGREEMENT_DECAY**number)
        of_square = 1 / (1 - _SQUARE_DECAY**number)
        self._gradient = tf.math.rsqrt(square * of_square + _TINY)
        self._mean = self._gradient * self.of_mean
        self._slow_mean = self._gradient * self._of_slow_mean
        self.of_squares = [of_square * tf.square(self._gradient), self._gradient]

    def statistics(self, spread: tf.Tensor) -> _Statistics:
        """Returns what the controller sees, given the spread `[..., tensors]`."""
        gradient, of_old_mean, _, _, parameter, mean, slow_mean, of_means = self._numbers
        return _Statistics(
            parameter,
            mean * self._mean * self._mean,
            slow_mean * self._slow_mean * self._slow_mean,
            gradient * self._gradient * self._gradient,
            spread,
            _moved(of_old_mean, gradient, _MEAN_DECAY) * self._gradient * self._mean,
            of_means * self._mean * self._slow_mean,
            self.agreement * self._of_agreement,
        )

    def factors(self, sizes: Sequence[tf.Tensor], outputs: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns the factors that `_delta` takes, `[..., tensors]` each.

        Args:
            sizes: the mean squares of the directions of `_Steps`, `[..., tensors]` each.
            outputs: what `_shares_and_rates` returns.
        """
        corrections = (1.0, self.of_mean, self._of_slow_mean)
        of_directions = [
            share * one * tf.math.rsqrt(size * one * one + _TINY_DIRECTION)
            for share, size, one in zip(outputs[:3], sizes, corrections, strict=True)
        ]
        scales = (self._gradient, self._mean, self._slow_mean, self.of_mean)
        of_orthogonalized = [
            share * scale for share, scale in zip(outputs[4:8], scales, strict=True)
        ]
        return [*of_directions, outputs[3], *of_orthogonalized, *outputs[8:]]


def _steps(family: _Family, own: _Moments, of_square: tf.Tensor, scale: tf.Tensor) -> _Steps:
    """Returns three of the directions, given the factors that take the scale out."""
    relative = own.square * of_square
    inverse_size = tf.math.rsqrt(relative + _EPSILON) * scale
    directions = [one * inverse_size for one in (own.gradient, own.mean, own.slow_mean)]
    spread = tf.sqrt(relative + _TINY_SHARE)
    numbers = family.means([(spread,), *((one, one) for one in directions)])
    return _Steps(directions, numbers)


def _delta(
    family: _Family,
    own: _Moments,
    steps: _Steps,
    factors: Sequence[tf.Tensor],
    of_mean: tf.Tensor,
) -> tf.Tensor:
    """Returns the deltas of some tensors.

    Args:
        family: the tensors.
        own: their moments.
        steps: three of their directions.
        factors: of the four directions, of the four terms of what is orthogonalised, of the
            direction in the delta, and of the parameters in it.
        of_mean: the correction of means of gradients, `[]`, or with the rank of the tensors.
    """
    gradient, adam, _ = steps.directions
    *of_directions, of_orthogonal = factors[:4]
    *_, rate, decay = factors
    if len(family.shape) > 1:
        terms = (own.gradient, own.mean, own.slow_mean, adam)
        orthogonal = family.orthogonalized(_sum(factors[4:8], terms))
    else:
        orthogonal = _GRADIENT_SHARE * gradient + (1 - _GRADIENT_SHARE) * of_mean * adam
    of_orthogonal *= family.inverse_size(orthogonal)
    mixed = _sum([*of_directions, of_orthogonal], [*steps.directions, orthogonal])
    # The root mean square of the mixture becomes 1.
    return rate * family.inverse_size(mixed) * mixed + decay * own.parameter


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


def _decisions(outputs: tf.Tensor, pace: tf.Tensor) -> Decisions:
    """Returns what outputs of the controller, `[..., tensors, 10]`, and paces decide."""
    nominal = tf.constant([*_NOMINAL_MIX, *_NOMINAL_INPUTS, 0, 0], outputs.dtype)
    *mixes, log_rate, decay = tf.unstack(outputs + nominal, axis=-1)
    return Decisions(
        mixes[:4],
        mixes[4:],
        tf.clip_by_value(_RATE_SCALE * log_rate, -_MAX_LOG_RATE, _MAX_LOG_RATE),
        _DECAY * tf.nn.softplus(_DECAY_SCALE * decay + _DECAY_START),
        pace,
    )


def _shares_and_rates(outputs: tf.Tensor, pace: tf.Tensor, time: _Time) -> list[tf.Tensor]:
    """Returns mixtures and the factors of direction and parameters in a delta.

    Args:
        outputs: the controller's outputs, `[..., tensors, 10]`.
        pace: a factor of the rate, `[..., tensors]`.
        time: the time.

    Returns:
        Ten tensors `[..., tensors]`.
    """
    decided = _decisions(outputs, pace)
    largest = _RATE * (time.num_steps / _RATE_STEPS) ** _RATE_POWER
    rate = largest * decided.pace * tf.exp(decided.log_rate)
    factors = (-time.schedule * rate, -time.schedule * decided.decay)
    return [*decided.mix, *decided.orthogonalized, *factors]


def _sum(shares: Sequence[tf.Tensor], values: Sequence[tf.Tensor]) -> tf.Tensor:
    return tf.add_n([share * value for share, value in zip(shares, values, strict=True)])


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
