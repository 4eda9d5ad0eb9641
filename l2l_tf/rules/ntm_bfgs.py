"""NTM-BFGS and NTM-L-BFGS: LSTMs with a memory that can hold an inverse Hessian."""

import functools
from collections.abc import Sequence
from typing import Any

import keras

from l2l_tf.checks import check_count
from l2l_tf.rules.memories import HistoryMemory, MatrixMemory
from l2l_tf.rules.memory_rule import (
    DELTA,
    DIFFERENCE,
    READ,
    BoundToMemory,
    Heads,
    MemoryRule,
)
from l2l_tf.rules.rule import batched_layout

# The largest number of entries of the matrices of all tasks, 256 MiB in float32.
MAX_MATRIX_ENTRIES = 2**26

# With H read for y: H + ((s'y + y'Hy) s s' / s'y - Hy s' - s (Hy)') / s'y.
_BFGS = Heads(
    left=[DELTA, READ, DELTA],
    right=[DELTA, [0, 0, -1, 0], [0, 0, 0, -1]],
    first=[DIFFERENCE, DIFFERENCE],
    second=[DELTA, [0, 0, 1, 1]],
    exponents=[[-2, -1, -1], [1, 0, 0]],
)
# The strength is made of the vectors that are written. So the inverse Hessian that is read stays
# positive, whatever the heads learn.
_L_BFGS = Heads(left=[DELTA], right=[DIFFERENCE], first=[], second=[], exponents=[[-1]])


@keras.saving.register_keras_serializable(package="l2l_tf")
class NTMBFGS(MemoryRule):
    """An LSTM with a matrix as memory, which can hold the inverse Hessian of BFGS.

    It has one read head, three write heads and two averaging cells for their strengths, as the
    paper says that BFGS takes. `MemoryRule` says what a step does, and what of it is the paper's.
    Untrained, it is BFGS without a line search: with steps of `output_scale` times the inverse
    Hessian's, which starts as `initial_scale` times the identity and is scaled once, at the first
    pair of vectors (Nocedal and Wright 2006, equations 6.17 and 6.20).

    The memory has N^2 entries for a task of N coordinates.

    Args:
        heads: how heads begin: "hand_set", or "random", of standard deviation 0.1.
        initial_scale: the multiple of the identity that is the memory before the first step.
        units: H of each LSTM layer of the controller.
        num_averaged: the number of averaging units of each layer, its last ones.
        preprocessing: a key of `PREPROCESSORS`, the preprocessing of what the controller reads.
        p: the constant of log-and-sign preprocessing.
        output_scale: the factor from what is read to the delta.
        output_stddev: standard deviation of the initial output weights of the controller.
        seed: an integer seed for the initial weights. None uses Keras's global seed.
        dtype: dtype of weights, states and deltas, independent of the global dtype policy. float64
            is for derivative tests.
        name: the layer's name.
        trainable: whether the weights are trainable, as in any Keras layer.

    Raises:
        ValueError: an argument is out of range.
        TypeError: `units` is not a sequence of integers.
    """

    def __init__(
        self,
        heads: str = "hand_set",
        initial_scale: float = 0.01,
        units: Sequence[int] = (20,),
        num_averaged: int = 5,
        preprocessing: str = "none",
        p: float = 10.0,
        output_scale: float = 1.0,
        output_stddev: float = 0.0,
        seed: int | None = None,
        dtype: str = "float32",
        name: str | None = None,
        trainable: bool = True,
    ):
        super().__init__(
            _BFGS,
            heads,
            initial_scale,
            units,
            num_averaged,
            preprocessing,
            p,
            output_scale,
            output_stddev,
            seed,
            dtype,
            name,
            trainable,
        )

    def bind(self, variables: Sequence[Any], batch_shape: Sequence[int] = ()) -> BoundToMemory:
        """Returns the rule for given tensors, whose coordinates share the memory.

        Raises:
            ValueError: the matrices of all tasks would have too many entries.
        """
        one = batched_layout(variables).num_coordinates
        together = batched_layout(variables, batch_shape).num_coordinates
        if one * together > MAX_MATRIX_ENTRIES:
            raise ValueError(
                "variables of an NTMBFGS must be few, since its memory is the square of their "
                f"number, at most {MAX_MATRIX_ENTRIES:,} in all tasks. Received: {one:,} "
                f"coordinates in each of {together // one} tasks. Use NTMLBFGS, whose memory is "
                "linear, or a coordinatewise rule."
            )
        return BoundToMemory(self, variables, batch_shape, MatrixMemory.empty)


@keras.saving.register_keras_serializable(package="l2l_tf")
class NTMLBFGS(MemoryRule):
    """An LSTM whose memory is the history of what it wrote, as that of L-BFGS is.

    It has one read head and one write head, whose strength is the inverse mean product of what it
    writes. `MemoryRule` says what a step does, and what of it is the paper's. In the paper, what is
    read is the sum of the outer products in the history. It is then no longer an inverse Hessian
    that agrees with the vectors kept once one is dropped; so here it is what the two-loop recursion
    makes of them (`HistoryMemory`).

    Untrained, it is L-BFGS without a line search: with steps of `output_scale` times the inverse
    Hessian's, whose scale is that of the last pair of vectors (Nocedal and Wright 2006, algorithm
    7.4 and equation 7.20), and `initial_scale` before the first.

    Args:
        history_size: m, the number of writes that are kept.
        heads: how heads begin: "hand_set", or "random", of standard deviation 0.1.
        initial_scale: the multiple of the identity that is the memory before the first step.
        units: H of each LSTM layer of the controller.
        num_averaged: the number of averaging units of each layer, its last ones.
        preprocessing: a key of `PREPROCESSORS`, the preprocessing of what the controller reads.
        p: the constant of log-and-sign preprocessing.
        output_scale: the factor from what is read to the delta.
        output_stddev: standard deviation of the initial output weights of the controller.
        seed: an integer seed for the initial weights. None uses Keras's global seed.
        dtype: dtype of weights, states and deltas, independent of the global dtype policy. float64
            is for derivative tests.
        name: the layer's name.
        trainable: whether the weights are trainable, as in any Keras layer.

    Raises:
        ValueError: an argument is out of range.
        TypeError: `units` is not a sequence of integers.
    """

    def __init__(
        self,
        history_size: int = 10,
        heads: str = "hand_set",
        initial_scale: float = 0.01,
        units: Sequence[int] = (20,),
        num_averaged: int = 5,
        preprocessing: str = "none",
        p: float = 10.0,
        output_scale: float = 1.0,
        output_stddev: float = 0.0,
        seed: int | None = None,
        dtype: str = "float32",
        name: str | None = None,
        trainable: bool = True,
    ):
        check_count("history_size", history_size, "L-BFGS has between 3 and 20.")
        super().__init__(
            _L_BFGS,
            heads,
            initial_scale,
            units,
            num_averaged,
            preprocessing,
            p,
            output_scale,
            output_stddev,
            seed,
            dtype,
            name,
            trainable,
        )
        self.history_size = history_size

    def bind(self, variables: Sequence[Any], batch_shape: Sequence[int] = ()) -> BoundToMemory:
        """Returns the rule for given tensors, whose coordinates share the memory."""
        empty = functools.partial(HistoryMemory.empty, history_size=self.history_size)
        return BoundToMemory(self, variables, batch_shape, empty)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"history_size": self.history_size}
