"""Parallel execution of a rule, with one processor core for each part of its coordinates."""

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from l2l_tf.checks import check_at_least
from l2l_tf.rules.rule import NO_INFO, BoundRule, FlatLayout, StepInfo

# An operation of this size takes much longer than its start, and a chunk (`CHUNK_SIZE`) still keeps
# four cores busy.
PART_SIZE = 4096
# Each part adds its own tensors to the graph. To stay within this number, parts are made larger, up
# to half a chunk.
MAX_PARTS = 512


class SideBySide(BoundRule):
    """A coordinatewise rule that updates parts of its coordinates in parallel.

    Deltas equal those of the rule itself. Only the use of processor cores differs. A rule has many
    short operations. If each one is shared among cores, the cores spend much time waiting for each
    other. Parts don't wait. If TensorFlow runs each operation on one thread
    (`tf.config.threading.set_intra_op_parallelism_threads(1)`), it runs the operations of different
    parts at the same time. The state is a tuple with the state of each part.

    Args:
        bind: returns the rule for a number of coordinates.
        layout: the positions of the tensors among the coordinates.
        part_size: the largest number of coordinates in a part.

    Attributes:
        parts: the rule for the coordinates of each part. Parts are as few and as equal as possible.
        part_size: as given.

    Raises:
        ValueError: `part_size` is below 1.
    """

    def __init__(
        self, bind: Callable[[int], BoundRule], layout: FlatLayout, part_size: int = PART_SIZE
    ):
        check_at_least("part_size", part_size, 1, "Give a number of coordinates.")
        self.layout = layout
        self.part_size = part_size
        num_parts = max(1, -(-layout.num_coordinates // part_size))
        size, num_larger = divmod(layout.num_coordinates, num_parts)
        self._sizes = [size + (index < num_larger) for index in range(num_parts)]
        self.parts = [bind(size) for size in self._sizes]

    @property
    def trainable_variables(self) -> list[Any]:
        return self.parts[0].trainable_variables

    def initial_state(self) -> tuple[Any, ...]:
        return tuple(part.initial_state() for part in self.parts)

    def __call__(
        self, gradient: tf.Tensor, state: tuple[Any, ...], info: StepInfo = NO_INFO
    ) -> tuple[tf.Tensor, tuple[Any, ...]]:
        gradients = tf.split(gradient, self._sizes)
        updates = [part(*one) for part, *one in zip(self.parts, gradients, state, strict=True)]
        deltas, states = zip(*updates, strict=True)
        return tf.concat(deltas, axis=0), states

    def whole_state(self, state: tuple[Any, ...]) -> Any:
        whole = [part.whole_state(one) for part, one in zip(self.parts, state, strict=True)]
        # Scalars, such as counts of steps, are the same for all parts.
        return tf.nest.map_structure(
            lambda *leaves: tf.concat(leaves, axis=0) if leaves[0].shape.rank else leaves[0], *whole
        )

    def cut_state(self, state: Any) -> tuple[Any, ...]:
        leaves = [
            tf.split(leaf, self._sizes) if leaf.shape.rank else [leaf] * len(self.parts)
            for leaf in tf.nest.flatten(state)
        ]
        return tuple(
            part.cut_state(tf.nest.pack_sequence_as(state, [pieces[index] for pieces in leaves]))
            for index, part in enumerate(self.parts)
        )


def part_size_if_faster(num_coordinates: int, chunk_size: int = 0) -> int | None:
    """Returns the size of parallel parts if they are faster, else None.

    They are faster if operations run on one thread each, there is no GPU, and there is more than
    one part.

    Args:
        num_coordinates: N.
        chunk_size: the number of coordinates in a chunk, or 0 if the rule won't run in chunks.
    """
    is_one_thread = tf.config.threading.get_intra_op_parallelism_threads() == 1
    side_by_side = min(num_coordinates, chunk_size or num_coordinates)
    # A chunk has at least two parts, or all but one core would be idle.
    part_size = min(math.ceil(num_coordinates / MAX_PARTS), math.ceil(side_by_side / 2))
    part_size = max(PART_SIZE, part_size)
    is_faster = (
        side_by_side > part_size and is_one_thread and not tf.config.list_physical_devices("GPU")
    )
    return part_size if is_faster else None
