"""The distilled rule in NumPy, coordinate by coordinate and step by step."""

import math

import numpy as np


def distilled_deltas(
    gradients, input_gain, *, decay=0.95, output_scale=0.1, taps=None, **recursive
):
    """Returns deltas `[T, N]` for gradients `[T, N]`.

    Args:
        gradients: float `[T, N]`.
        input_gain: the gain before saturation.
        decay: the decay of the mean square.
        output_scale: the factor of deltas.
        taps: the taps of that form. None for the recursive form.
        **recursive: `reference_gain`, `momentum`, `memory`, `direction`, `floor`, `slope` and
            `threshold` of that form.
    """
    deltas = np.zeros_like(gradients)
    for column in range(gradients.shape[1]):
        saturated, momentum, confidence = [], 0.0, 1.0
        for step, gradient in enumerate(gradients[:, column]):
            seen = gradients[: step + 1, column]
            weights = decay ** np.arange(step, -1, -1.0)
            root = math.sqrt((weights * seen**2).sum() / weights.sum())
            u = math.tanh(input_gain * gradient / root)
            saturated.append(u)
            if taps is not None:
                recent = saturated[::-1][: len(taps)]
                delta = sum(tap * one for tap, one in zip(taps, recent, strict=False))
            else:
                agreement = u * math.tanh(recursive["reference_gain"] * momentum) + 1 - u**2
                momentum += (1 - recursive["momentum"]) * (u - momentum)
                confidence += (1 - recursive["memory"]) * (agreement - confidence)
                of_gradient, of_momentum = recursive["direction"]
                excess = max(confidence - recursive["threshold"], 0)
                gate = recursive["floor"] + recursive["slope"] * excess**2
                delta = (of_gradient * u + of_momentum * momentum) * gate
            deltas[step, column] = -output_scale * delta
    return deltas
