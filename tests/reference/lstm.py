"""The coordinatewise LSTM in NumPy float64, one coordinate and one step at a time."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass
class Weights:
    """The weights of a rule: lists over its LSTM layers, then the linear output."""

    kernels: list[np.ndarray]
    recurrent_kernels: list[np.ndarray]
    biases: list[np.ndarray]
    output_kernel: np.ndarray
    output_bias: np.ndarray

    @classmethod
    def of(cls, layer) -> "Weights":
        """Returns a Keras layer's weights, found by their names."""
        arrays = {weight.name: weight.numpy().astype(np.float64) for weight in layer.weights}

        def by_layer(name: str) -> list[np.ndarray]:
            return [arrays[f"{name}_{index}"] for index in range(len(layer.units))]

        return cls(
            kernels=by_layer("kernel"),
            recurrent_kernels=by_layer("recurrent_kernel"),
            biases=by_layer("bias"),
            output_kernel=arrays["output_kernel"],
            output_bias=arrays["output_bias"],
        )


def log_and_sign(gradient: float, p: float) -> tuple[float, float]:
    """Returns the two inputs of Andrychowicz et al. 2016, appendix A."""
    if abs(gradient) >= math.exp(-p):
        return math.log(abs(gradient)) / p, math.copysign(1.0, gradient)
    return -1.0, math.exp(p) * gradient


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _cell(inputs, hidden, cell, kernel, recurrent_kernel, bias):
    """One step of an LSTM (Hochreiter and Schmidhuber 1997, with the forget gate of Gers 2000)."""
    size = len(hidden)
    total = inputs @ kernel + hidden @ recurrent_kernel + bias
    input_gate = _sigmoid(total[:size])
    forget_gate = _sigmoid(total[size : 2 * size])
    candidate = np.tanh(total[2 * size : 3 * size])
    output_gate = _sigmoid(total[3 * size :])
    cell = forget_gate * cell + input_gate * candidate
    return output_gate * np.tanh(cell), cell


def outputs(weights: Weights, inputs: np.ndarray) -> np.ndarray:
    """Returns the outputs `[T, N]` for inputs `[T, N, I]`, from a state of zeros."""
    num_steps, num_coordinates, _ = inputs.shape
    result = np.zeros([num_steps, num_coordinates])
    for coordinate in range(num_coordinates):
        state = [
            (np.zeros(len(kernel)), np.zeros(len(kernel))) for kernel in weights.recurrent_kernels
        ]
        for step in range(num_steps):
            values = inputs[step, coordinate]
            for layer, (hidden, cell) in enumerate(state):
                values, cell = _cell(
                    values,
                    hidden,
                    cell,
                    weights.kernels[layer],
                    weights.recurrent_kernels[layer],
                    weights.biases[layer],
                )
                state[layer] = values, cell
            result[step, coordinate] = values @ weights.output_kernel[:, 0] + weights.output_bias[0]
    return result


def deltas(
    weights: Weights, gradients: np.ndarray, p: float | None, output_scale: float = 1.0
) -> np.ndarray:
    """Returns the deltas `[T, N]` for gradients `[T, N]`, from a state of zeros.

    With `p` None the LSTM sees the gradients as they are, else their logarithms and signs.
    """
    inputs = [
        [[float(g)] if p is None else log_and_sign(float(g), p) for g in row] for row in gradients
    ]
    return output_scale * outputs(weights, np.array(inputs))
