"""The paper's rule: one small LSTM, shared by all coordinates."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from l2l_tf.rules.preprocess import MAX_P, PREPROCESSORS

# For each LSTM layer, the hidden values and the cells of all coordinates.
LSTMState = tuple[tuple[tf.Tensor, tf.Tensor], ...]


@keras.saving.register_keras_serializable(package="l2l_tf")
class CoordinatewiseLSTM(keras.layers.Layer):
    """An LSTM that reads each coordinate's gradient and proposes its delta.

    The weights are shared by all coordinates; each coordinate has its own hidden values and cells.
    Coordinates are the batch axis: one call updates N of them. The formula and the order of gates
    (input, forget, cell, output) are those of `keras.layers.LSTMCell`, and the weights of layer l
    are `kernel_l` `[inputs, 4H]`, `recurrent_kernel_l` `[H, 4H]` and `bias_l` `[4H]`.
    Source: Andrychowicz et al. 2016, section 2.1 (arXiv 1606.04474).

    Two things depart from the paper's code: the output weights start at `output_stddev`, by default
    zero, so that an untrained rule stands still instead of walking off; and gates are in Keras's
    order.

    Args:
        units: H of each LSTM layer.
        preprocessing: a key of `PREPROCESSORS`: what the first layer sees of a gradient.
        p: the constant of log-and-sign preprocessing.
        output_scale: what the last layer's output is multiplied by to give the delta.
        output_stddev: standard deviation of the initial output weights.
        seed: an integer seeds the initial weights; None draws them from Keras's global seed.
        dtype: dtype of weights, states and deltas. float32 whatever the global dtype policy is;
            float64 serves derivative tests.
        name: the layer's name.
        trainable: whether the weights count as trainable, as in any Keras layer.

    Call arguments:
        gradient: float `[N]`.
        state: what `initial_state` or the previous call returned: a pair (hidden, cell), each
            `[N, H]`, for each LSTM layer.

    Returns:
        The delta, float `[N]`, and the next state.

    Raises:
        ValueError: no units or a count below 1, unknown preprocessing, a `p`, seed, dtype or output
            scale out of range, or, at a call, a gradient that is no vector or a state of another
            number of coordinates or layers.
        TypeError: units that are no sequence of integers or, at a call, a gradient of another
            dtype.
    """

    is_coordinatewise = True

    def __init__(
        self,
        units: Sequence[int] = (20, 20),
        preprocessing: str = "none",
        p: float = 10.0,
        output_scale: float = 1.0,
        output_stddev: float = 0.0,
        seed: int | None = None,
        dtype: str = "float32",
        name: str | None = None,
        trainable: bool = True,
    ):
        if not isinstance(units, Sequence) or not all(isinstance(one, int) for one in units):
            raise TypeError(
                "units must be a sequence of integers, one for each LSTM layer. "
                f"Received: units={units!r}. Give, say, (20, 20)."
            )
        if not units or min(units) < 1:
            raise ValueError(
                "units must hold a positive number of units for each LSTM layer. "
                f"Received: units={tuple(units)}. Give, say, (20, 20)."
            )
        if preprocessing not in PREPROCESSORS:
            raise ValueError(
                f"preprocessing must be one of {sorted(PREPROCESSORS)}. "
                f"Received: preprocessing={preprocessing!r}. Choose one of them."
            )
        if seed is not None and seed < 0:
            raise ValueError(
                f"seed must be None or an integer from 0 on. Received: seed={seed}. Give, say, 0."
            )
        if not (math.isfinite(output_scale) and 0 <= output_stddev < math.inf):
            raise ValueError(
                "output_scale and output_stddev must be finite, the latter not negative. Received: "
                f"output_scale={output_scale}, output_stddev={output_stddev}. The paper scales "
                "outputs by 0.1."
            )
        if not 0 < p <= MAX_P:
            raise ValueError(
                f"p must be positive and at most {MAX_P:g}, or e^p overflows float32. "
                f"Received: p={p}. The paper uses 10."
            )
        if dtype not in ("float32", "float64"):
            raise ValueError(
                "dtype must be 'float32' or 'float64': a rule computes in full precision whatever "
                f"the model does. Received: dtype={dtype!r}. Leave it out for float32."
            )
        # Without autocast, a gradient of another dtype is refused (`_check_call`), not cast.
        super().__init__(dtype=dtype, name=name, trainable=trainable, autocast=False)
        self.units = tuple(units)
        self.preprocessing = preprocessing
        self.p = p
        self.output_scale = output_scale
        self.output_stddev = output_stddev
        self.seed = seed
        self._add_weights()
        self.built = True

    def _add_weights(self) -> None:
        # One independent seed for each matrix: kernel and recurrent kernel of every layer, output.
        seeds = _matrix_seeds(self.seed, 2 * len(self.units) + 1)
        _, num_inputs = PREPROCESSORS[self.preprocessing]
        self._kernels, self._recurrent_kernels, self._biases = [], [], []
        for layer, num_units in enumerate(self.units):
            self._kernels.append(
                self.add_weight(
                    name=f"kernel_{layer}",
                    shape=(num_inputs, 4 * num_units),
                    initializer=keras.initializers.GlorotUniform(seeds[2 * layer]),
                )
            )
            self._recurrent_kernels.append(
                self.add_weight(
                    name=f"recurrent_kernel_{layer}",
                    shape=(num_units, 4 * num_units),
                    initializer=keras.initializers.Orthogonal(seed=seeds[2 * layer + 1]),
                )
            )
            self._biases.append(
                self.add_weight(
                    name=f"bias_{layer}",
                    shape=(4 * num_units,),
                    initializer=_forget_gates_open,
                )
            )
            num_inputs = num_units
        self._output_kernel = self.add_weight(
            name="output_kernel",
            shape=(num_inputs, 1),
            initializer=keras.initializers.RandomNormal(stddev=self.output_stddev, seed=seeds[-1]),
        )
        self._output_bias = self.add_weight(name="output_bias", shape=(1,), initializer="zeros")
        # tf.train.Checkpoint sees weights that are attributes themselves, not those held in lists.
        for weight in self.weights:
            setattr(self, f"_{weight.name}", weight)

    def initial_state(self, num_coordinates: int | tf.Tensor) -> LSTMState:
        """Returns zero hidden values and cells for N coordinates."""
        return tuple(
            (
                tf.zeros([num_coordinates, num_units], self.compute_dtype),
                tf.zeros([num_coordinates, num_units], self.compute_dtype),
            )
            for num_units in self.units
        )

    def call(self, gradient: tf.Tensor, state: LSTMState) -> tuple[tf.Tensor, LSTMState]:
        self._check_call(gradient, state)
        preprocess, _ = PREPROCESSORS[self.preprocessing]
        inputs = preprocess(gradient, self.p)
        next_state = []
        for layer, (hidden, cell) in enumerate(state):
            # One product of [inputs, hidden] with the stacked kernels is faster than two.
            kernels = tf.concat([self._kernels[layer], self._recurrent_kernels[layer]], axis=0)
            gates = tf.matmul(tf.concat([inputs, hidden], axis=1), kernels) + self._biases[layer]
            input_gate, forget_gate, candidate, output_gate = tf.split(gates, 4, axis=1)
            cell = tf.sigmoid(forget_gate) * cell + tf.sigmoid(input_gate) * tf.tanh(candidate)
            inputs = tf.sigmoid(output_gate) * tf.tanh(cell)
            next_state.append((inputs, cell))
        output = tf.matmul(inputs, self._output_kernel) + self._output_bias
        return self.output_scale * tf.squeeze(output, axis=1), tuple(next_state)

    def _check_call(self, gradient: tf.Tensor, state: LSTMState) -> None:
        if gradient.dtype != self.compute_dtype:
            raise TypeError(
                f"gradient must be of dtype {self.compute_dtype}. "
                f"Received: gradient.dtype={gradient.dtype.name}. Cast it, or build the rule with "
                "that dtype."
            )
        if gradient.shape.rank != 1:
            raise ValueError(
                "gradient must be a vector over the coordinates. "
                f"Received: gradient.shape={gradient.shape}. Flatten the variables "
                "(l2l_tf.rules.FlatLayout)."
            )
        shapes = [[part.shape for part in layer] for layer in state]
        expected = [(gradient.shape[0], num_units) for num_units in self.units]
        if len(shapes) != len(expected) or not all(
            len(pair) == 2 and all(part.is_compatible_with(want) for part in pair)
            for pair, want in zip(shapes, expected, strict=True)
        ):
            raise ValueError(
                f"state must hold a pair of each of the shapes {expected}. "
                f"Received: state with shapes {shapes}. Begin with rule.initial_state(N) for a "
                "gradient of N coordinates."
            )

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "units": list(self.units),
            "preprocessing": self.preprocessing,
            "p": self.p,
            "output_scale": self.output_scale,
            "output_stddev": self.output_stddev,
            "seed": self.seed,
        }


def _matrix_seeds(seed: int | None, count: int) -> list[int | None]:
    if seed is None:
        return [None] * count
    return [int(word) for word in np.random.SeedSequence(seed).generate_state(count)]


def _forget_gates_open(shape: tuple[int], dtype: str | None = None) -> tf.Tensor:
    """Returns biases of zero, and one for the forget gates, so that a new cell remembers."""
    num_units = shape[0] // 4
    zeros = tf.zeros([num_units], dtype)
    return tf.concat([zeros, zeros + 1, zeros, zeros], axis=0)
