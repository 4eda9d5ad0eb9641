"""Meta-step and inner step of one rule, written in several ways that compute the same numbers.

A contender is a module with one or both of two functions:

    meta_step(workload: MetaStep) -> Callable[[], MetaStepResult]
    inner_step(workload: InnerStep) -> Callable[[], np.ndarray]

Each makes what can be made beforehand and returns a function that does one step, waits for its end
and returns its results; steps go on from the weights or the state that the step before has left.
"""

import dataclasses
import importlib.util
from typing import NamedTuple

import numpy as np


class MetaStepResult(NamedTuple):
    """What one meta-step gives.

    Attributes:
        losses: float32 `[T]`, at the iterates after each step.
        meta_gradient: of their sum, by name of the rule's weights, in the shapes of Keras.
    """

    losses: np.ndarray
    meta_gradient: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Contender:
    """Where a contender is found.

    Attributes:
        module: what has its two functions.
        framework: the package that it needs.
        is_bounded: whether its memory stays within bounds that it chooses itself, so that no
            workload needs to be tried on fewer steps first.
        threads_per_operation: how many threads TensorFlow may give to one operation; 0: as many as
            it likes.
    """

    module: str
    framework: str
    is_bounded: bool = False
    threads_per_operation: int = 0

    @property
    def is_installed(self) -> bool:
        """Whether the package that it needs is there."""
        return importlib.util.find_spec(self.framework) is not None


def _ours(module: str) -> Contender:
    # One thread for each operation, as the experiments have it.
    return Contender(f"benchmarks.contenders.{module}", "tensorflow", True, 1)


CONTENDERS = {
    "ours": _ours("ours"),
    "plain_tensorflow": Contender("benchmarks.contenders.plain_tensorflow", "tensorflow"),
    # What that setting alone does for the other one.
    "plain_one_thread": Contender(
        "benchmarks.contenders.plain_tensorflow", "tensorflow", threads_per_operation=1
    ),
    "jax_scan": Contender("benchmarks.contenders.jax_scan", "jax"),
    "pytorch": Contender("benchmarks.contenders.pytorch", "torch"),
    "pytorch_compiled": Contender("benchmarks.contenders.pytorch_compiled", "torch"),
    "one_device": _ours("one_device"),
    "two_devices": _ours("two_devices"),
}
