"""The base of rules with LSTM layers: the cell, the weights and the argument checks."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from l2l_tf.checks import check_at_least, check_finite, check_non_negative, check_positive
from l2l_tf.rules.coordinatewise import CoordinatewiseRule

# The hidden values and the cells of all coordinates, for each LSTM layer.
LSTMState = tuple[tuple[tf.Tensor, tf.Tensor], ...]


def lstm_step(
    inputs: tf.Tensor,
    hidden: tf.Tensor,
    cell: tf.Tensor,
    kernel: tf.Tensor,
    recurrent_kernel: tf.Tensor,
    bias: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the next hidden values and cells, float `[N, H]` each, of one LSTM layer.

    The formula and the gate order (input, forget, cell, output) are those of
    `keras.layers.LSTMCell`.

    Args:
        inputs: float `[N, I]`.
        hidden: float `[N, H]`.
        cell: float `[N, H]`.
        kernel: float `[I, 4H]`.
        recurrent_kernel: float `[H, 4H]`.
        bias: float `[4H]`.
    """
    # One product of [inputs, hidden] with the stacked kernels is faster than two.
    kernels = tf.concat([kernel, recurrent_kernel], axis=0)
    gates = tf.matmul(tf.concat([inputs, hidden], axis=1), kernels) + bias
    input_gate, forget_gate, candidate, output_gate = tf.split(gates, 4, axis=1)
    cell = tf.sigmoid(forget_gate) * cell + tf.sigmoid(input_gate) * tf.tanh(candidate)
    return tf.sigmoid(output_gate) * tf.tanh(cell), cell


class LSTMLayers(keras.layers.Layer):
    """A learned rule made of LSTM layers and linear outputs for each coordinate.

    All coordinates share the weights. Each coordinate has its own hidden values and cells.
    Coordinates form the batch axis: one call updates N of them. Layer l has the weights `kernel_l`
    `[inputs, 4H]`, `recurrent_kernel_l` `[H, 4H]` and `bias_l` `[4H]`. The outputs have
    `output_kernel` `[H, O]` and `output_bias` `[O]`. Subclasses define the first layer's inputs and
    how the outputs become a delta.

    Args:
        num_inputs: the number of inputs of the first layer for each coordinate.
        num_outputs: O, the number of outputs for each coordinate.
        units: H of each LSTM layer.
        output_scale: the factor from the output to the delta.
        output_stddev: standard deviation of the initial output weights.
        seed: an integer seed for the initial weights. None uses Keras's global seed.
        dtype: dtype of weights, states and deltas, independent of the global dtype policy. float64
            is for derivative tests.
        name: the layer's name.
        trainable: whether the weights are trainable, as in any Keras layer.

    Raises:
        ValueError: `units` is empty or holds a number below 1, or seed, dtype, `output_scale` or
            `output_stddev` is out of range.
        TypeError: `units` is not a sequence of integers.
    """

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        units: Sequence[int],
        output_scale: float,
        output_stddev: float,
        seed: int | None,
        dtype: str,
        name: str | None,
        trainable: bool,
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
        if seed is not None:
            check_at_least("seed", seed, 0, "Give, say, 0.")
        check_finite("output_scale", output_scale, "The papers scale outputs by 0.1.")
        advice = "Give the standard deviation of the output layer's initial weights."
        check_non_negative("output_stddev", output_stddev, advice)
        if dtype not in ("float32", "float64"):
            raise ValueError(
                "dtype must be 'float32' or 'float64': a rule computes in full precision whatever "
                f"the model does. Received: dtype={dtype!r}. Leave it out for float32."
            )
        # Without autocast, a gradient of another dtype is rejected (`_check_gradient`), not cast.
        super().__init__(dtype=dtype, name=name, trainable=trainable, autocast=False)
        self.units = tuple(units)
        self.output_scale = output_scale
        self.output_stddev = output_stddev
        self.seed = seed
        self._add_lstm_weights(num_inputs, num_outputs)
        self.built = True

    def _add_lstm_weights(self, num_inputs: int, num_outputs: int) -> None:
        # One independent seed for each matrix: kernel and recurrent kernel of every layer, output.
        seeds = self._matrix_seeds(2 * len(self.units) + 1)
        self._kernels, self._recurrent_kernels, self._biases = [], [], []
        for layer, num_units in enumerate(self.units):
            self._kernels.append(
                self._add_named_weight(
                    f"kernel_{layer}",
                    (num_inputs, 4 * num_units),
                    keras.initializers.GlorotUniform(seeds[2 * layer]),
                )
            )
            self._recurrent_kernels.append(
                self._add_named_weight(
                    f"recurrent_kernel_{layer}",
                    (num_units, 4 * num_units),
                    keras.initializers.Orthogonal(seed=seeds[2 * layer + 1]),
                )
            )
            self._biases.append(
                self._add_named_weight(f"bias_{layer}", (4 * num_units,), _forget_gates_open)
            )
            num_inputs = num_units
        self._add_named_weight(
            "output_kernel",
            (num_inputs, num_outputs),
            keras.initializers.RandomNormal(stddev=self.output_stddev, seed=seeds[-1]),
        )
        self._add_named_weight("output_bias", (num_outputs,), "zeros")

    def _add_named_weight(self, name: str, shape: tuple[int, ...], initializer: Any) -> Any:
        """Adds a weight, stores it as the attribute `_<name>` too, and returns it."""
        weight = self.add_weight(name=name, shape=shape, initializer=initializer)
        # tf.train.Checkpoint finds weights that are attributes, but not those in lists.
        setattr(self, f"_{name}", weight)
        return weight

    def _matrix_seeds(self, count: int) -> list[int | None]:
        """Returns independent seeds for initial weights; longer lists extend shorter ones."""
        if self.seed is None:
            return [None] * count
        return [int(word) for word in np.random.SeedSequence(self.seed).generate_state(count)]

    def _initial_lstm_state(self, num_coordinates: int | tf.Tensor) -> LSTMState:
        """Returns zero hidden values and cells for N coordinates."""
        return tuple(
            (
                tf.zeros([num_coordinates, num_units], self.compute_dtype),
                tf.zeros([num_coordinates, num_units], self.compute_dtype),
            )
            for num_units in self.units
        )

    def _run_layers(
        self,
        inputs: tf.Tensor,
        state: LSTMState,
        share: Callable[[tf.Tensor], tf.Tensor] | None = None,
    ) -> tuple[tf.Tensor, LSTMState]:
        """Returns the outputs, float `[N, O]`, and the next state.

        Args:
            inputs: float `[N, I]`.
            state: the state before.
            share: returns what goes out of a layer, `[N, H]`, of its hidden values. None changes
                nothing.
        """
        next_state = []
        for (hidden, cell), *weights in zip(
            state, self._kernels, self._recurrent_kernels, self._biases, strict=True
        ):
            inputs, cell = lstm_step(inputs, hidden, cell, *weights)
            inputs = inputs if share is None else share(inputs)
            next_state.append((inputs, cell))
        return tf.matmul(inputs, self._output_kernel) + self._output_bias, tuple(next_state)

    def rescaled(self, factor: float) -> "LSTMLayers":
        """Returns a copy whose deltas are `factor` times those of this rule.

        Args:
            factor: a positive, finite number.

        Raises:
            ValueError: the factor is not positive and finite.
        """
        check_positive("factor", factor, "Give, say, 2 for steps twice as large.")
        config = self.get_config() | {"dtype": self.compute_dtype}
        # Rounded to six digits, so that 3 times 0.1 is 0.3, as a user would write it.
        config["output_scale"] = float(f"{factor * self.output_scale:.6g}")
        copy = type(self)(**config)
        copy.set_weights(self.get_weights())
        return copy

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "units": list(self.units),
            "output_scale": self.output_scale,
            "output_stddev": self.output_stddev,
            "seed": self.seed,
        }


class LSTMRule(CoordinatewiseRule, LSTMLayers):
    """A coordinatewise learned rule made of LSTM layers and one linear output.

    Args:
        num_inputs: as in `LSTMLayers`, as are all others.
        units: H of each LSTM layer.
        output_scale: the factor from the output to the delta.
        output_stddev: standard deviation of the initial output weights.
        seed: an integer seed for the initial weights.
        dtype: dtype of weights, states and deltas.
        name: the layer's name.
        trainable: whether the weights are trainable.

    Raises:
        ValueError: as in `LSTMLayers`.
        TypeError: as in `LSTMLayers`.
    """

    def __init__(
        self,
        num_inputs: int,
        units: Sequence[int],
        output_scale: float,
        output_stddev: float,
        seed: int | None,
        dtype: str,
        name: str | None,
        trainable: bool,
    ):
        super().__init__(
            num_inputs, 1, units, output_scale, output_stddev, seed, dtype, name, trainable
        )

    def _run_lstm(self, inputs: tf.Tensor, state: LSTMState) -> tuple[tf.Tensor, LSTMState]:
        """Returns the output, float `[N]`, before scaling, and the next state."""
        outputs, state = self._run_layers(inputs, state)
        return tf.squeeze(outputs, axis=1), state

    def _check_gradient(self, gradient: tf.Tensor) -> None:
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


def _forget_gates_open(shape: tuple[int], dtype: str | None = None) -> tf.Tensor:
    """Returns biases of zero, except one for the forget gates, so that a new cell remembers."""
    num_units = shape[0] // 4
    zeros = tf.zeros([num_units], dtype)
    return tf.concat([zeros, zeros + 1, zeros, zeros], axis=0)
