"""The meta-step and the inner step of one rule, in several equivalent implementations.

A contender is a module with one or both of two functions:

    meta_step(workload: MetaStep) -> Callable[[], MetaStepResult]
    inner_step(workload: InnerStep) -> Callable[[], np.ndarray]

Each prepares whatever can be prepared, and returns a function that does one step, waits for its end
and returns its results. Steps continue from the weights or the state of the step before.
"""

import dataclasses
import importlib.util
from typing import NamedTuple

import numpy as np


class MetaStepResult(NamedTuple):
    """The result of one meta-step.

    Attributes:
        losses: float32 `[T]`, the losses at the iterates after each step.
        meta_gradient: the gradient of their sum, by name of the rule's weights, in Keras's shapes.
    """

    losses: np.ndarray
    meta_gradient: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Contender:
    """The module of a contender and its properties.

    Attributes:
        module: the module with its two functions.
        framework: the package that it needs.
        is_bounded: whether its memory stays within bounds that it chooses itself, so that no
            workload needs to be tried on fewer steps first.
        threads_per_operation: the number of threads that TensorFlow may give to one operation; 0:
            let TensorFlow decide.
    """

    module: str
    framework: str
    is_bounded: bool = False
    threads_per_operation: int = 0

    @property
    def is_installed(self) -> bool:
        """Whether the package that it needs is installed."""
        return importlib.util.find_spec(self.framework) is not None


def _ours(module: str) -> Contender:
    # One thread for each operation, as in the experiments.
    return Contender(f"benchmarks.contenders.{module}", "tensorflow", True, 1)


CONTENDERS = {
    "ours": _ours("ours"),
    "plain_tensorflow": Contender("benchmarks.contenders.plain_tensorflow", "tensorflow"),
    # The effect of that setting alone on the other implementation.
    "plain_one_thread": Contender(
        "benchmarks.contenders.plain_tensorflow", "tensorflow", threads_per_operation=1
    ),
    "jax_scan": Contender("benchmarks.contenders.jax_scan", "jax"),
    "pytorch": Contender("benchmarks.contenders.pytorch", "torch"),
    "pytorch_compiled": Contender("benchmarks.contenders.pytorch_compiled", "torch"),
    "one_device": _ours("one_device"),
    "two_devices": _ours("two_devices"),
}
