"""A slow NumPy twin of the general rule, written from its description, for one task."""

import numpy as np

from l2l_tf.rules.general import DIRECTIONS, INPUTS, ORTHOGONALIZED, OUTPUTS


def _mean_square(values: np.ndarray) -> float:
    return float(np.mean(np.square(values)))


def _orthogonalized(values: np.ndarray) -> np.ndarray:
    matrix = values.reshape(-1, values.shape[-1])
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    x = x / (np.linalg.norm(x) + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.T if is_tall else x).reshape(values.shape)


class General:
    """The rule for given tensors.

    Args:
        weights: the controller's hidden kernel, and kernels and biases of mixtures and rates.
        shapes: the shapes of the tensors.
        num_steps: the number of steps of the whole training.
    """

    def __init__(self, weights, shapes, num_steps):
        self.weights = [np.asarray(one, np.float64) for one in weights]
        self.num_steps = num_steps
        self.averages = [[np.zeros(shape) for _ in range(3)] for shape in shapes]
        self.agreement = [0.0] * len(shapes)
        self.persistence = [0.0] * len(shapes)
        self.num_taken = 0

    def step(self, parameters, gradients):
        """Returns the deltas of the tensors."""
        self.num_taken += 1
        seen = [
            self._seen(index, parameter, gradient)
            for index, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True))
        ]
        mean_of_all = np.mean([numbers["log_mean"] for numbers, _ in seen])
        passed = (self.num_taken - 1) / self.num_steps
        schedule = min(1, self.num_taken / (0.05 * self.num_steps + 1))
        schedule *= (1 + np.cos(np.pi * passed)) / 2
        deltas = []
        for row, ((numbers, known), parameter) in enumerate(zip(seen, parameters, strict=True)):
            numbers |= {
                "time": 2 * passed - 1,
                "cosine_of_time": np.cos(2 * np.pi * passed),
                "start": np.exp(-10 * passed),
                "first_steps": np.exp(-self.num_taken / 8),
                "end": np.exp(-10 * (1 - passed)),
                "log_num_steps": (np.log(self.num_steps) - 5) / 2,
                "position": 2 * row / max(1, len(seen) - 1) - 1,
                "log_num_tensors": np.log(len(seen)) / 2 - 1,
                "log_mean_of_all": mean_of_all,
            }
            outputs = self._outputs(np.array([numbers[name] for name in INPUTS]))
            rate = 3e-3 * (self.num_steps / 1000) ** -0.5
            rate *= np.exp(np.clip(3 * outputs["log_rate"], -5, 5))
            rate *= np.clip(np.exp(4 * (self.persistence[row] - 0.1)), 0.8, 5)
            decay = 3e-3 * np.log1p(np.exp(3 * outputs["decay"] - 5))
            direction = self._direction(known, outputs)
            deltas.append(-schedule * (rate * direction + decay * parameter))
        return deltas

    def _outputs(self, inputs):
        hidden_kernel, *rest = self.weights
        kernel, bias = np.concatenate(rest[:3], axis=1), np.concatenate(rest[3:])
        seen = np.concatenate([inputs, np.tanh(inputs @ hidden_kernel)])
        values = seen @ kernel + bias
        return dict(zip(OUTPUTS, values, strict=True))

    def _seen(self, index, parameter, gradient):
        """Returns what the controller sees of a tensor, and what directions are made from."""
        mean, slow_mean, square = self.averages[index]
        size = np.sqrt(_mean_square(gradient) * _mean_square(mean))
        cosine = np.mean(gradient * mean) / size if size else 0.0
        self.agreement[index] = 0.95 * self.agreement[index] + 0.05 * cosine
        decays = (0.9, 0.98, 0.999)
        values = (gradient, gradient, gradient**2)
        self.averages[index] = [
            decay * old + (1 - decay) * new
            for decay, old, new in zip(decays, (mean, slow_mean, square), values, strict=True)
        ]
        if 10 * (self.num_taken - 1) <= self.num_steps:
            self.persistence[index] += 2 / self.num_taken * (cosine - self.persistence[index])
        mean, slow_mean, square = (
            one / (1 - decay**self.num_taken)
            for one, decay in zip(self.averages[index], decays, strict=True)
        )
        unit = np.sqrt(np.mean(square))
        gradient, mean, slow_mean, square = (
            gradient / unit,
            mean / unit,
            slow_mean / unit,
            square / unit**2,
        )
        values = (gradient, mean, slow_mean, parameter)
        sizes = [np.sqrt(_mean_square(one) + 1e-12) for one in values]
        is_vector = parameter.ndim < 2
        fan_in = np.e**3 if is_vector else parameter.size / parameter.shape[-1]
        fan_out = parameter.size if is_vector else parameter.shape[-1]
        numbers = {
            "is_vector": float(is_vector),
            "log_fan_in": (np.log(fan_in) - 3) / 2,
            "log_fan_out": (np.log(fan_out) - 3) / 2,
            "log_parameters": np.log(sizes[3] + 3e-3) / 2 + 1,
            "log_mean": np.log(sizes[1] + 1e-4) / 2 + 0.5,
            "log_slow_mean": np.log(sizes[2] + 1e-4) / 2 + 0.5,
            "log_gradient": np.log(sizes[0] + 1e-4) / 2,
            "log_spread": np.log(np.mean(np.sqrt(square + 1e-12)) + 1e-4) + 0.5,
            "cosine_of_mean": np.mean(gradient * mean) / (sizes[0] * sizes[1]),
            "cosine_of_means": np.mean(mean * slow_mean) / (sizes[1] * sizes[2]),
            "agreement": self.agreement[index] / (1 - 0.95**self.num_taken),
        }
        return numbers, (gradient, mean, slow_mean, square)

    def _direction(self, known, outputs):
        gradient, mean, slow_mean, square = known
        root = np.sqrt(square + 1e-4)
        terms = dict(zip(ORTHOGONALIZED, (gradient, mean, slow_mean, mean / root), strict=True))
        directions = {
            "gradient": gradient / root,
            "adam": mean / root,
            "slow_adam": slow_mean / root,
        }
        if gradient.ndim < 2:
            directions["orthogonal"] = (0.1 * gradient + 0.9 * mean) / root
        else:
            nominal = dict(zip(ORTHOGONALIZED, (0.1, 0.45, 0.45, 0), strict=True))
            directions["orthogonal"] = _orthogonalized(
                sum(
                    (nominal[name] + outputs[f"orthogonalized_{name}"]) * term
                    for name, term in terms.items()
                )
            )
        mixed = sum(
            ((name == "orthogonal") + outputs[f"mix_{name}"])
            * directions[name]
            / np.sqrt(_mean_square(directions[name]) + 1e-8)
            for name in DIRECTIONS
        )
        return mixed / np.sqrt(_mean_square(mixed) + 1e-8)
