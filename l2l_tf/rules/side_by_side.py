"""A rule applied to parts of its coordinates at the same time, one processor core for each part."""

import math
from typing import Any

import keras
import tensorflow as tf

from l2l_tf.rules.chunks import CHUNK_SIZE, InChunks
from l2l_tf.rules.routed import OnVariables
from l2l_tf.rules.rule import Rule

# Large enough that an operation takes much longer than its start, small enough that a chunk
# (`CHUNK_SIZE`) keeps four cores busy.
PART_SIZE = 4096
# Each part has tensors of its own in a graph: where there would be more parts, they are larger, up
# to half a chunk.
MAX_PARTS = 512


class SideBySide:
    """A coordinatewise rule that updates parts of its coordinates side by side.

    Deltas are those of the rule itself. What changes is how the processor's cores are kept busy. A
    rule's operations are many and short: shared out among cores one by one, they spend much of
    their time waiting for each other. Parts have nothing to wait for: where TensorFlow runs each
    operation on one thread (`tf.config.threading.set_intra_op_parallelism_threads(1)`), it runs
    those of different parts at the same time. The state is a tuple of the states of the parts.

    Args:
        rule: a coordinatewise rule without settings of its own for each coordinate.
        part_size: the largest number of coordinates in a part.

    Raises:
        ValueError: the rule is not coordinatewise, or `part_size` is below 1.
    """

    is_coordinatewise = True

    def __init__(self, rule: Any, part_size: int = PART_SIZE):
        if not rule.is_coordinatewise:
            raise ValueError(
                "rule must be coordinatewise to be applied side by side. "
                f"Received: rule={rule!r}. Apply it to all coordinates at once."
            )
        if part_size < 1:
            raise ValueError(
                "part_size must be at least 1. "
                f"Received: part_size={part_size}. Give a number of coordinates."
            )
        self.rule = rule
        self.part_size = part_size

    @property
    def trainable_variables(self) -> list[Any]:
        """The weights of a learned rule."""
        return self.rule.trainable_variables

    def partition(self, num_coordinates: int) -> list[int]:
        """Returns the sizes of the parts: as few and as even as can be."""
        num_parts = max(1, -(-num_coordinates // self.part_size))
        size, num_larger = divmod(num_coordinates, num_parts)
        return [size + (index < num_larger) for index in range(num_parts)]

    def initial_state(self, num_coordinates: int) -> tuple[Any, ...]:
        return tuple(self.rule.initial_state(size) for size in self.partition(num_coordinates))

    def __call__(
        self, gradient: tf.Tensor, state: tuple[Any, ...]
    ) -> tuple[tf.Tensor, tuple[Any, ...]]:
        parts = tf.split(gradient, self.partition(gradient.shape[0]))
        updates = [self.rule(*part) for part in zip(parts, state, strict=True)]
        deltas, states = zip(*updates, strict=True)
        return tf.concat(deltas, axis=0), states


def side_by_side_if_faster(rule: Rule, num_coordinates: int, chunk_size: int = 0) -> Rule:
    """Returns a coordinatewise rule side by side where that keeps a processor's cores busy.

    That is so where operations run on one thread each, on no GPU, and there is more than one part.

    Args:
        rule: the rule.
        num_coordinates: N.
        chunk_size: coordinates of a chunk, if the rule will be applied in chunks; else 0.
    """
    is_one_thread = tf.config.threading.get_intra_op_parallelism_threads() == 1
    side_by_side = min(num_coordinates, chunk_size or num_coordinates)
    # At least two parts of a chunk, or all but one core would be idle.
    part_size = min(math.ceil(num_coordinates / MAX_PARTS), math.ceil(side_by_side / 2))
    part_size = max(PART_SIZE, part_size)
    if (
        rule.is_coordinatewise
        and side_by_side > part_size
        and is_one_thread
        and not tf.config.list_physical_devices("GPU")
    ):
        return SideBySide(rule, part_size)
    return rule


def arrange(rule: Rule, num_coordinates: int) -> Rule:
    """Returns a rule as its steps alone, without a meta-gradient, run fastest and in least memory.

    A learned coordinatewise rule with many coordinates is applied in chunks, and side by side
    within them. Others are returned as they are: the state of hand-designed rules is small, and
    their learning rate may be one for each coordinate. Of a rule with parts, each is arranged.
    """
    if isinstance(rule, OnVariables):
        return rule.with_parts(arrange)
    if not isinstance(rule, keras.layers.Layer) or not rule.is_coordinatewise:
        return rule
    arranged = side_by_side_if_faster(rule, num_coordinates, CHUNK_SIZE)
    return InChunks(arranged) if num_coordinates > CHUNK_SIZE else arranged
