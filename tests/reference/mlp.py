"""A multilayer perceptron's loss and gradients in NumPy float64, one example at a time."""

import numpy as np

ACTIVATIONS = {
    # Each with its derivative, as a function of the activation.
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), lambda a: a * (1 - a)),
    "tanh": (np.tanh, lambda a: 1 - a**2),
    "relu": (lambda x: np.maximum(x, 0), lambda a: (a > 0) * 1.0),
    "elu": (lambda x: np.where(x > 0, x, np.expm1(x)), lambda a: np.where(a > 0, 1, a + 1)),
}


def loss_and_gradients(
    parameters: list[np.ndarray], inputs: np.ndarray, labels: np.ndarray, activation: str
) -> tuple[float, list[np.ndarray]]:
    """Returns the mean cross entropy, and its gradients.

    Args:
        parameters: kernel `[I, O]` and bias `[O]` of each layer, from inputs to logits.
        inputs: `[B, I]`.
        labels: integers `[B]`.
        activation: of all layers but the last.
    """
    function, derivative = ACTIVATIONS[activation]
    parameters = [array.astype(np.float64) for array in parameters]
    kernels, biases = parameters[::2], parameters[1::2]
    total, gradients = 0.0, [np.zeros_like(array) for array in parameters]
    for example, label in zip(inputs.astype(np.float64), labels, strict=True):
        activations = [example]
        for kernel, bias in zip(kernels[:-1], biases[:-1], strict=True):
            activations.append(function(activations[-1] @ kernel + bias))
        logits = activations[-1] @ kernels[-1] + biases[-1]
        probabilities = np.exp(logits) / np.exp(logits).sum()
        total -= np.log(probabilities[label])
        error = probabilities - np.eye(len(logits))[label]
        for layer in reversed(range(len(kernels))):
            gradients[2 * layer] += np.outer(activations[layer], error)
            gradients[2 * layer + 1] += error
            if layer:
                error = (kernels[layer] @ error) * derivative(activations[layer])
    return total / len(labels), [gradient / len(labels) for gradient in gradients]
