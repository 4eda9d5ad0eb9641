"""The workloads: sizes and NumPy data, the same for every contender."""

import dataclasses
import functools

import numpy as np

from benchmarks.networks import MLP, ConvNet, Network, scaled_normal

# The rule of every workload is the paper's (Andrychowicz et al. 2016, appendix A and section 3.2,
# arXiv 1606.04474): a 2 x 20 LSTM that sees logarithms and signs.
UNITS = (20, 20)
P = 10.0
OUTPUT_SCALE = 0.1
META_LEARNING_RATE = 1e-3

_SEED = 0


@dataclasses.dataclass(frozen=True)
class MetaStep:
    """One update of the rule's weights from one unroll of T steps on a network.

    An unroll begins with the parameters of step 0 and their gradient, which is computed beforehand:
    in a trajectory, it is left by the previous unroll. Each of T steps turns a gradient into a
    delta, adds it, and computes loss and gradient at the new iterate. The meta-loss is the sum of
    the T losses. Its gradient, in which the optimizee's gradients are constants, goes through Adam.

    Attributes:
        network: the optimizee.
        batch_size: B.
        num_steps: T.
        num_tasks: the number of tasks in a meta-step.
    """

    network: Network
    batch_size: int = 128
    num_steps: int = 20
    num_tasks: int = 1

    @property
    def num_coordinates(self) -> int:
        """N, the scalar parameters of the network."""
        return sum(parameter.size for parameter in self.parameters)

    @functools.cached_property
    def parameters(self) -> list[np.ndarray]:
        """The parameters at step 0, float32."""
        return self.network.initial_parameters(np.random.default_rng([_SEED, 0]))

    @functools.cached_property
    def inputs(self) -> np.ndarray:
        """The images of the batches of steps 0 to T, float32 `[T + 1, B, ...]`."""
        random = np.random.default_rng([_SEED, 1])
        shape = (self.num_steps + 1, self.batch_size, *self.network.input_shape)
        return random.standard_normal(shape, np.float32)

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """The classes of the batches of steps 0 to T, int32 `[T + 1, B]`."""
        random = np.random.default_rng([_SEED, 2])
        shape = (self.num_steps + 1, self.batch_size)
        return random.integers(self.network.num_classes, size=shape, dtype=np.int32)

    def load(self) -> None:
        """Makes the data, so that their cost is not counted as a contender's."""
        _ = self.parameters, self.inputs, self.labels


@dataclasses.dataclass(frozen=True)
class InnerStep:
    """One step of the rule alone: (gradient, state) to (delta, state) of N coordinates."""

    num_coordinates: int

    @functools.cached_property
    def gradient(self) -> np.ndarray:
        """The gradient, float32 `[N]`."""
        random = np.random.default_rng([_SEED, 3])
        return random.standard_normal(self.num_coordinates, np.float32)

    def load(self) -> None:
        """Makes the data, so that their cost is not counted as a contender's."""
        _ = self.gradient


Workload = MetaStep | InnerStep

WORKLOADS: dict[str, Workload] = {
    "mnist": MetaStep(MLP((784, 20, 10))),
    "cifar": MetaStep(ConvNet()),
    "mlp_1m": MetaStep(MLP((784, 1000, 200, 10))),
    "mlp_10m": MetaStep(MLP((784, 5000, 1200, 10))),
    "mnist_two_tasks": MetaStep(MLP((784, 20, 10)), num_tasks=2),
    "inner_1e4": InnerStep(10**4),
    "inner_1e5": InnerStep(10**5),
    "inner_1e6": InnerStep(10**6),
    "inner_1e7": InnerStep(10**7),
}


def rule_weights() -> dict[str, np.ndarray]:
    """Returns the rule's weights, float32, by name and with gates in the order of Keras.

    The output kernel is small but not zero, so that the rule moves.
    """
    random = np.random.default_rng([_SEED, 4])
    weights = {}
    num_inputs = 2  # logarithm and sign
    for layer, units in enumerate(UNITS):
        weights[f"kernel_{layer}"] = scaled_normal(random, (num_inputs, 4 * units))
        weights[f"recurrent_kernel_{layer}"] = scaled_normal(random, (units, 4 * units))
        input_gate, forget_gate, cell, output_gate = np.zeros([4, units], np.float32)
        bias = np.concatenate([input_gate, forget_gate + 1, cell, output_gate])
        weights[f"bias_{layer}"] = bias
        num_inputs = units
    weights["output_kernel"] = 0.1 * scaled_normal(random, (num_inputs, 1))
    weights["output_bias"] = np.zeros(1, np.float32)
    return weights
