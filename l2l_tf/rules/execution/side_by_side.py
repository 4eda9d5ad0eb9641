"""A rule applied to parts of its coordinates at the same time, one processor core for each part."""

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from l2l_tf.checks import check_at_least
from l2l_tf.rules.rule import NO_INFO, BoundRule, FlatLayout, StepInfo

# Large enough that an operation takes much longer than its start, small enough that a chunk
# (`CHUNK_SIZE`) keeps four cores busy.
PART_SIZE = 4096
# Each part has tensors of its own in a graph: where there would be more parts, they are larger, up
# to half a chunk.
MAX_PARTS = 512


class SideBySide(BoundRule):
    """A coordinatewise rule that updates parts of its coordinates side by side.

    Deltas are those of the rule itself. What changes is how the processor's cores are kept busy. A
    rule's operations are many and short: shared out among cores one by one, they spend much of
    their time waiting for each other. Parts have nothing to wait for: where TensorFlow runs each
    operation on one thread (`tf.config.threading.set_intra_op_parallelism_threads(1)`), it runs
    those of different parts at the same time. The state is a tuple of the states of the parts.

    Args:
        bind: returns the rule for a number of coordinates.
        layout: where the tensors lie among the coordinates.
        part_size: the largest number of coordinates in a part.

    Attributes:
        parts: the rule for the coordinates of each part: as few and as even as can be.
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
    """Returns the size of parts side by side where they keep a processor's cores busy; else None.

    That is so where operations run on one thread each, on no GPU, and there is more than one part.

    Args:
        num_coordinates: N.
        chunk_size: coordinates of a chunk, if the rule will be applied in chunks; else 0.
    """
    is_one_thread = tf.config.threading.get_intra_op_parallelism_threads() == 1
    side_by_side = min(num_coordinates, chunk_size or num_coordinates)
    # At least two parts of a chunk, or all but one core would be idle.
    part_size = min(math.ceil(num_coordinates / MAX_PARTS), math.ceil(side_by_side / 2))
    part_size = max(PART_SIZE, part_size)
    is_faster = (
        side_by_side > part_size and is_one_thread and not tf.config.list_physical_devices("GPU")
    )
    return part_size if is_faster else None
