"""The base of rules whose LSTMs, one for each coordinate, share averages over all coordinates."""

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from l2l_tf.checks import check_count, check_one_of
from l2l_tf.rules.lstm import LSTMLayers, LSTMState
from l2l_tf.rules.preprocess import PREPROCESSORS, check_p
from l2l_tf.rules.tensors import BoundToTensors


class AveragingLSTM(LSTMLayers):
    """LSTM layers with global averaging cells.

    What goes out of the last units of each layer, to the next layer and to the next step, is
    averaged over all coordinates of all tensors at every step. Their cells, like those of all
    others, stay with their coordinate.
    Source: Andrychowicz et al. 2016, appendix D (arXiv 1606.04474).

    Args:
        num_features: the number of vectors that the LSTM reads.
        num_outputs: O, the number of outputs for each coordinate.
        units: H of each LSTM layer.
        num_averaged: the number of averaging units of each layer, its last ones.
        preprocessing: a key of `PREPROCESSORS`, the preprocessing of what the first layer reads.
        p: the constant of log-and-sign preprocessing.
        output_scale: the factor from the output to the delta.
        output_stddev: standard deviation of the initial output weights.
        seed: an integer seed for the initial weights. None uses Keras's global seed.
        dtype: dtype of weights, states and deltas.
        name: the layer's name.
        trainable: whether the weights are trainable.

    Raises:
        ValueError: a layer has fewer units than are averaged, the preprocessing is unknown, or
            another argument is out of range.
        TypeError: `units` is not a sequence of integers.
    """

    is_coordinatewise = False

    def __init__(
        self,
        num_features: int,
        num_outputs: int,
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
        check_one_of("preprocessing", preprocessing, PREPROCESSORS)
        check_p(p)
        check_count("num_averaged", num_averaged, "Give, say, 5, or 0 for none.", 0)
        _, num_inputs = PREPROCESSORS[preprocessing]
        super().__init__(
            num_features * num_inputs,
            num_outputs,
            units,
            output_scale,
            output_stddev,
            seed,
            dtype,
            name,
            trainable,
        )
        if num_averaged > min(self.units):
            raise ValueError(
                "num_averaged must be at most the number of units of each layer. "
                f"Received: num_averaged={num_averaged} with units={self.units}. Lower it, or "
                "give more units."
            )
        self.num_averaged = num_averaged
        self.preprocessing = preprocessing
        self.p = p

    def run(self, features: tf.Tensor, state: LSTMState) -> tuple[tf.Tensor, LSTMState]:
        """Returns the outputs, float `[R, N, O]`, and the next state, `[R, N, H]` each.

        Args:
            features: what the LSTM reads, float `[R, N, F]`, for R batch entries. Averages are
                over each entry's own N coordinates.
            state: the state before.
        """
        num_entries, num_coordinates, _ = features.shape
        preprocess, _ = PREPROCESSORS[self.preprocessing]
        rows = num_entries * num_coordinates
        inputs = tf.reshape(preprocess(features, self.p), [rows, self._kernels[0].shape[0]])

        def share(hidden: tf.Tensor) -> tf.Tensor:
            own, averaged = tf.split(hidden, [-1, self.num_averaged], axis=1)
            of_entries = tf.reshape(averaged, [num_entries, num_coordinates, self.num_averaged])
            means = tf.reduce_mean(of_entries, axis=1, keepdims=True)
            means = tf.reshape(tf.broadcast_to(means, of_entries.shape), averaged.shape)
            return tf.concat([own, means], axis=1)

        flat = tf.nest.map_structure(lambda leaf: tf.reshape(leaf, [rows, leaf.shape[-1]]), state)
        outputs, flat = self._run_layers(inputs, flat, share if self.num_averaged else None)
        outputs, state = tf.nest.map_structure(
            lambda leaf: tf.reshape(leaf, [num_entries, num_coordinates, leaf.shape[-1]]),
            (outputs, flat),
        )
        return outputs, state

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "num_averaged": self.num_averaged,
            "preprocessing": self.preprocessing,
            "p": self.p,
        }


class BoundJointly(BoundToTensors):
    """Base class for rules that see the coordinates of all tensors as one axis.

    Args:
        rule: the rule to bind.
        variables: descriptions of the tensors.
        batch_shape: leading axes that are not part of each tensor's own shape.

    Attributes:
        num_entries: R, the number of batch entries.
        num_own: the number of coordinates of one entry.
    """

    def __init__(self, rule: Any, variables: Sequence[Any], batch_shape: Sequence[int] = ()):
        super().__init__(rule, variables, batch_shape)
        self.num_entries = math.prod(self.batch_shape)
        self._sizes = [math.prod(shape) for shape in self.shapes]
        self.num_own = sum(self._sizes)

    def joined(self, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns tensors, each `[*batch, *shape, ...]`, as one `[R, N, ...]`."""
        leading = len(self.batch_shape)
        parts = []
        for tensor, shape, size in zip(tensors, self.shapes, self._sizes, strict=True):
            others = tensor.shape[leading + len(shape) :]
            parts.append(tf.reshape(tensor, [self.num_entries, size, *others]))
        return parts[0] if len(parts) == 1 else tf.concat(parts, axis=1)

    def apart(self, values: tf.Tensor) -> list[tf.Tensor]:
        """Inverts `joined`."""
        parts = tf.split(values, self._sizes, axis=1) if len(self._sizes) > 1 else [values]
        others = values.shape[2:]
        return [
            tf.reshape(part, [*self.batch_shape, *shape, *others])
            for part, shape in zip(parts, self.shapes, strict=True)
        ]

    def zeros_for_each(self, *sizes: int) -> list[tf.Tensor]:
        """Returns zeros `[*batch, *shape, *sizes]` for each tensor."""
        dtype = self.rule.compute_dtype
        return [tf.zeros([*self.batch_shape, *shape, *sizes], dtype) for shape in self.shapes]

    def joined_states(self, states: Sequence[Any]) -> Any:
        """Returns the nests of tensors of each tensor as one nest of joined ones."""
        return tf.nest.map_structure(lambda *leaves: self.joined(leaves), *states)

    def states_apart(self, state: Any) -> list[Any]:
        """Inverts `joined_states`."""
        leaves = [self.apart(leaf) for leaf in tf.nest.flatten(state)]
        return [tf.nest.pack_sequence_as(state, list(own)) for own in zip(*leaves, strict=True)]

    def initial_lstm_states(self) -> list[LSTMState]:
        """Returns zero hidden values and cells for each tensor."""
        layers = [
            [(zeros, zeros) for zeros in self.zeros_for_each(num_units)]
            for num_units in self.rule.units
        ]
        return [tuple(own) for own in zip(*layers, strict=True)]
