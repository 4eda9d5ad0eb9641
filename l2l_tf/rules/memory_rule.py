"""The base of LSTMs with a memory that coordinates share, which heads read and write."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from l2l_tf.checks import check_one_of, check_positive
from l2l_tf.rules.joint import AveragingLSTM, BoundJointly
from l2l_tf.rules.lstm import LSTMState
from l2l_tf.rules.memories import HistoryMemory, MatrixMemory, Write, power_law
from l2l_tf.rules.rule import NO_INFO, StepInfo
from l2l_tf.rules.tensors import TensorState

# What heads combine: those before reading have the first three.
FEATURES = ("gradient", "difference", "delta", "read")
_NUM_SEEN = 3
# The vectors that are made before reading: the one that is read for, and two pairs for the scale.
_NUM_EARLY = 5
# How heads begin.
HEADS = ("hand_set", "random")
_RANDOM_STDDEV = 0.1
# Differences of gradients that are smaller than this share of the largest gradient so far are
# rounding in float32. They are not written.
RESOLUTION = 1e-5

Memory = MatrixMemory | HistoryMemory


class Heads(NamedTuple):
    """The heads of a kind of rule, as they are set by hand.

    Attributes:
        left: of each write head, the combination of `FEATURES` that it writes.
        right: the other vector of each outer product, likewise.
        first: of each averaging cell, the first factor of its product. Without any, those are the
            products of the two vectors of each write head.
        second: the second.
        exponents: for each averaging cell, its exponent in the strength of each write head.
    """

    left: list[list[float]]
    right: list[list[float]]
    first: list[list[float]]
    second: list[list[float]]
    exponents: list[list[float]]


# Combinations of one feature each.
GRADIENT, DIFFERENCE, DELTA, READ = np.eye(len(FEATURES)).tolist()
# Read for the difference; the scale is mean(y s) over mean(y y).
_EARLY = [DIFFERENCE, DIFFERENCE, DELTA, DIFFERENCE, DIFFERENCE]
_SCALE_EXPONENTS = [[1], [-1]]
# The delta is what is read for the negative gradient, with nothing added.
_QUERY, _ADDED = [-1, 0, 0, 0], [0, 0, 0, 0]


class MemoryRule(AveragingLSTM):
    """The base of LSTMs with a memory, and heads that read it and write to it.

    Let g be the gradient, y its difference from the one before and s the delta before. A step does
    the following.

    1. A read head makes a vector of g, y and s. Its product with the memory is what is read, r.
    2. The controller, an LSTM with global averaging cells, reads g, y, s and r of its coordinate.
    3. Each write head makes two vectors a and b and writes them, with a strength, to the memory.
    4. The delta is the product of the new memory with one more vector, plus another one, times
       `output_scale`.

    Each vector is a combination of g, y, s and r. Its coefficients are weights of the rule plus
    outputs of the controller, for each coordinate. The vectors of the first point take the outputs
    of the step before. Controller and heads see g, y and s relative to their root mean squares, and
    r relative to that of s. So after the first step nothing depends on the scale of the loss.

    The strength of a write is a product of powers of inner products. Each of these is the mean over
    coordinates of the product of two such vectors, in an averaging cell: of a and b themselves, or
    of others. The exponents are weights. Where a mean is not positive, nothing is written; nor
    where y is as small as the rounding of gradients in float32 (`RESOLUTION`). The multiple of the
    identity that the memory starts from is such a product of powers too, once there is a y.

    Source: Andrychowicz et al. 2016, appendix D (arXiv 1606.04474). From the paper are the LSTM
    with averaging cells as controller, the memory, and heads that read products and write pairs of
    vectors. The rest is ours, in five points. What is read is known in the same step, where the
    paper feeds it to the controller in the next one; so a step of BFGS takes one gradient, not two.
    The delta is what is read after the write, as in the paper's sketch of BFGS. Heads combine
    vectors with coefficients, relative to their sizes, and are given y and s, which the paper's
    controller must keep itself. Powers of mean products, which an LSTM can only approximate, are
    computed. And with `heads="hand_set"`, an untrained rule is the method that it is named after,
    of step size `output_scale`, and training begins there.

    Args:
        set_by_hand: the heads as they are set by hand.
        heads: one of `HEADS`: whether they begin so, or at random.
        initial_scale: the multiple of the identity that is the memory before there is a y.
        units: H of each LSTM layer.
        num_averaged: the number of averaging units of each layer, its last ones.
        preprocessing: a key of `PREPROCESSORS`, the preprocessing of what the controller reads.
        p: the constant of log-and-sign preprocessing.
        output_scale: the factor from what is read to the delta.
        output_stddev: standard deviation of the initial output weights of the controller.
        seed: an integer seed for the initial weights. None uses Keras's global seed.
        dtype: dtype of weights, states and deltas.
        name: the layer's name.
        trainable: whether the weights are trainable.

    Raises:
        ValueError: `heads` is unknown, `initial_scale` is not positive and finite, or as in
            `AveragingLSTM`.
        TypeError: `units` is not a sequence of integers.
    """

    def __init__(
        self,
        set_by_hand: Heads,
        heads: str,
        initial_scale: float,
        units: Sequence[int],
        num_averaged: int,
        preprocessing: str,
        p: float,
        output_scale: float,
        output_stddev: float,
        seed: int | None,
        dtype: str,
        name: str | None,
        trainable: bool,
    ):
        check_one_of("heads", heads, HEADS)
        check_positive("initial_scale", initial_scale, "Give the size of a safe first step.")
        combined = set_by_hand[:4]
        self._counts = [len(one) for one in combined]
        vectors = [*(row for rows in combined for row in rows), _QUERY, _ADDED]
        self._num_early_outputs = _NUM_EARLY * _NUM_SEEN
        super().__init__(
            len(FEATURES),
            self._num_early_outputs + len(vectors) * len(FEATURES),
            units,
            num_averaged,
            preprocessing,
            p,
            output_scale,
            output_stddev,
            seed,
            dtype,
            name,
            trainable,
        )
        self.heads = heads
        self.initial_scale = initial_scale
        early = np.array(_EARLY)[:, :_NUM_SEEN]
        seeds = self._matrix_seeds(2 * len(units) + 3)[-2:]
        for weight, values, own_seed in zip(
            ("early_heads", "late_heads"), (early, np.array(vectors)), seeds, strict=True
        ):
            self._add_named_weight(weight, values.shape, self._start(values, own_seed))
        self._add_constants("exponents", set_by_hand.exponents)
        self._add_constants("scale_exponents", _SCALE_EXPONENTS)
        self._add_constants("log_initial_scale", np.log(initial_scale))

    def _start(self, values: np.ndarray, seed: int | None) -> Any:
        if self.heads == "random":
            return keras.initializers.RandomNormal(stddev=_RANDOM_STDDEV, seed=seed)
        return _constants(values)

    def _add_constants(self, name: str, values: Any) -> None:
        values = np.array(values)
        self._add_named_weight(name, values.shape, _constants(values))

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "heads": self.heads,
            "initial_scale": self.initial_scale,
        }

    # Of a step

    def early_vectors(self, seen: tf.Tensor, state: LSTMState) -> list[tf.Tensor]:
        """Returns the vectors that are made before reading, float `[R, N]` each.

        Args:
            seen: the gradient, the difference and the delta, float `[R, N, 3]`.
            state: that of the controller before this step.
        """
        hidden, _ = state[-1]
        count = self._num_early_outputs
        outputs = tf.tensordot(hidden, self._output_kernel[:, :count], 1)
        return self._combined(self._early_heads, outputs + self._output_bias[:count], seen)

    def late_vectors(self, features: tf.Tensor, outputs: tf.Tensor) -> "_Vectors":
        """Returns the vectors that are made after reading, from the controller's outputs.

        Args:
            features: `FEATURES`, float `[R, N, 4]`.
            outputs: the controller's, float `[R, N, O]`.
        """
        late = outputs[..., self._num_early_outputs :]
        *vectors, query, added = self._combined(self._late_heads, late, features)
        ends = np.cumsum(self._counts)
        left, right, *factors = (
            tf.stack(vectors[end - count : end], axis=1)
            for count, end in zip(self._counts, ends, strict=True)
            if count
        )
        first, second = factors or (left, right)
        return _Vectors(left, right, first, second, query, added)

    def _combined(
        self, heads: tf.Tensor, outputs: tf.Tensor, features: tf.Tensor
    ) -> list[tf.Tensor]:
        num_vectors, num_features = heads.shape
        shape = [*outputs.shape[:2], num_vectors, num_features]
        coefficients = heads + tf.reshape(outputs, shape)
        vectors = tf.reduce_sum(coefficients * features[:, :, tf.newaxis], axis=-1)
        return tf.unstack(vectors, axis=-1)

    def scale(self, averages: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the memory's scale, `[R]`, for averages `[R, 2]`, and where it is known."""
        scale, is_known = power_law(averages, self._scale_exponents)
        return tf.squeeze(scale, axis=-1), is_known

    def strengths(self, averages: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the strength of each write head, `[R, J]`, and where something is written."""
        return power_law(averages, self._exponents)

    def scale_before(self) -> tf.Tensor:
        """Returns the memory's scale before there is a difference, `[]`."""
        return tf.exp(self._log_initial_scale)


class _Vectors(NamedTuple):
    """The vectors that are made after reading.

    Attributes:
        left: those that write heads write, float `[R, J, N]`.
        right: their others, likewise.
        first: the first factors of averaging cells, float `[R, K, N]`.
        second: the second ones, likewise.
        query: what the delta is read for, float `[R, N]`.
        added: what is added to it, float `[R, N]`.
    """

    left: tf.Tensor
    right: tf.Tensor
    first: tf.Tensor
    second: tf.Tensor
    query: tf.Tensor
    added: tf.Tensor


class _Own(NamedTuple):
    """The state of one tensor.

    Attributes:
        gradient: that of the step before.
        delta: that of the step before.
        lstm: the controller's.
    """

    gradient: tf.Tensor
    delta: tf.Tensor
    lstm: LSTMState


class _Shared(NamedTuple):
    """The state of all tensors together.

    Attributes:
        memory: the memory, a `Memory`.
        largest: the largest mean square of gradients so far, float `[R]`.
    """

    memory: Any
    largest: tf.Tensor


class BoundToMemory(BoundJointly):
    """A `MemoryRule` bound to given tensors.

    Args:
        rule: the rule.
        variables: descriptions of the tensors.
        batch_shape: the batch axes.
        empty_memory: returns a memory to which nothing has been written, given the numbers of batch
            entries and coordinates and a dtype.
    """

    def __init__(
        self,
        rule: MemoryRule,
        variables: Sequence[Any],
        batch_shape: Sequence[int],
        empty_memory: Callable[[int, int, str], Memory],
    ):
        super().__init__(rule, variables, batch_shape)
        self._empty_memory = empty_memory

    def initial_state(self) -> TensorState:
        dtype = self.rule.compute_dtype
        memory = self._empty_memory(self.num_entries, self.num_own, dtype)
        zeros = self.zeros_for_each()
        owned = zip(zeros, zeros, self.initial_lstm_states(), strict=True)
        largest = tf.zeros([self.num_entries], dtype)
        return TensorState(_Shared(memory, largest), [_Own(*one) for one in owned])

    def update(
        self, gradients: Sequence[tf.Tensor], state: TensorState, info: StepInfo = NO_INFO
    ) -> tuple[list[tf.Tensor], TensorState]:
        if not self.num_own:
            return list(gradients), state
        rule, memory, largest = self.rule, state.shared.memory, state.shared.largest
        own = self.joined_states(state.tensors)
        gradient = self.joined(gradients)
        # There is no difference before the first gradient.
        difference = gradient - own.gradient
        difference = tf.where(largest[:, tf.newaxis] > 0, difference, tf.zeros_like(difference))
        mean_square = _mean(tf.square(gradient))
        is_resolved = _mean(tf.square(difference)) > RESOLUTION**2 * largest
        of_gradient = _size(gradient, tf.ones_like(largest))
        of_difference = _size(difference, of_gradient)
        of_delta = _size(own.delta, of_gradient * rule.scale_before())
        unit = of_delta / of_difference
        sizes = tf.stack([of_gradient, of_difference, of_delta], axis=-1)[:, tf.newaxis]
        seen = tf.stack([gradient, difference, own.delta], axis=-1) / sizes
        of_gradient, of_difference, of_delta = tf.unstack(sizes, axis=-1)
        asked, *scaling = rule.early_vectors(seen, own.lstm)
        averages = tf.stack([_mean(scaling[0] * scaling[1]), _mean(scaling[2] * scaling[3])], -1)
        scale, is_known = rule.scale(averages)
        memory = memory.scaled(unit * scale, is_known & is_resolved)
        read = memory.read(of_difference * asked, rule.scale_before()) / of_delta
        features = tf.concat([seen, read[..., tf.newaxis]], axis=-1)
        outputs, lstm = rule.run(features, own.lstm)
        vectors = rule.late_vectors(features, outputs)
        strengths, is_written = rule.strengths(_mean(vectors.first * vectors.second))
        memory = memory.written(
            Write(vectors.left, vectors.right, strengths, unit, is_written & is_resolved)
        )
        answer = memory.read(of_gradient * vectors.query, rule.scale_before())
        delta = rule.output_scale * (answer + of_delta * vectors.added)
        largest = tf.maximum(largest, mean_square)
        after = self.states_apart(_Own(gradient, delta, lstm))
        return self.apart(delta), TensorState(_Shared(memory, largest), after)


def _mean(values: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(values, axis=-1)


def _size(values: tf.Tensor, otherwise: tf.Tensor) -> tf.Tensor:
    """Returns the root mean square of vectors, `[R]`, or another number for those that are zero."""
    mean_square = _mean(tf.square(values))
    is_zero = tf.equal(mean_square, 0)
    # Zeros are kept out of the root, whose derivative would be NaN.
    root = tf.sqrt(tf.where(is_zero, tf.ones_like(mean_square), mean_square))
    return tf.where(is_zero, otherwise, root)


def _constants(values: np.ndarray) -> Callable[..., tf.Tensor]:
    """Returns an initializer with given values."""

    def initial_value(shape: Sequence[int], dtype: Any = None) -> tf.Tensor:
        return tf.constant(values, dtype, shape)

    return initial_value
