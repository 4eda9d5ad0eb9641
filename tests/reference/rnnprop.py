"""RNNprop in NumPy float64, from the formulas of Lv, Jiang and Li 2017 (arXiv 1703.03633)."""

import numpy as np

from tests.reference import lstm


def relative_gradients(
    gradients: np.ndarray, beta_1: float, beta_2: float, epsilon: float
) -> np.ndarray:
    """Returns g / (sqrt(v) + epsilon) and m / (sqrt(v) + epsilon), `[T, N, 2]`.

    The means m and v of step t are sums over all gradients so far, each with the weight
    beta^(t - s), divided by the sum of the weights: no recursion, and no bias to correct.
    """
    gradients = gradients.astype(np.float64)
    result = np.zeros([*gradients.shape, 2])
    for step in range(len(gradients)):
        ages = np.arange(step, -1, -1)
        past = gradients[: step + 1]
        mean = np.average(past, axis=0, weights=beta_1**ages)
        mean_square = np.average(past**2, axis=0, weights=beta_2**ages)
        result[step, :, 0] = gradients[step] / (np.sqrt(mean_square) + epsilon)
        result[step, :, 1] = mean / (np.sqrt(mean_square) + epsilon)
    return result


def deltas(layer, gradients: np.ndarray) -> np.ndarray:
    """Returns the deltas `[T, N]` of a Keras layer for gradients `[T, N]`."""
    arrays = {weight.name: weight.numpy().astype(np.float64) for weight in layer.weights}
    relative = relative_gradients(gradients, layer.beta_1, layer.beta_2, layer.epsilon)
    dense = relative @ arrays["input_kernel"] + arrays["input_bias"]
    inputs = np.where(dense > 0, dense, np.expm1(np.minimum(dense, 0)))
    return layer.output_scale * np.tanh(lstm.outputs(lstm.Weights.of(layer), inputs))
