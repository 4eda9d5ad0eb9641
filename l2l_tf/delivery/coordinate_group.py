"""A coordinatewise rule's share of an optimizer's joint update."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from l2l_tf.delivery.chunk_rows import RowsInArrays, RowsInPlace, rows_of
from l2l_tf.delivery.group import Group, Request, Step, are_finite, size_of, times
from l2l_tf.delivery.random_rounding import noise_for, rounded_at_random
from l2l_tf.rules.rule import FlatLayout


class CoordinateGroup(Group):
    """Variables that one rule updates in one call, and the rule's state for their N coordinates.

    If a learned rule has many coordinates and a large state, its state is cut into K chunks of C
    coordinates, and a rest of fewer than 2C. A state tensor `[N, H]` is then stored in a variable
    `[K, C * H]`, which a step reads and writes row by row (`rows_of`), and a variable `[rest, H]`.
    Without chunks, it is one variable `[N, H]`. Scalars of the state are always one variable each.

    Args:
        rule: the coordinatewise rule that updates the variables.
        positions: the positions of the group's variables among those of the optimizer.
        shapes: their static shapes.
        chunk_size: C; 0 makes no chunks.
        state_dtype: dtype in which to store state tensors with more than one number per coordinate.
            The rule computes in its own dtype. Vectors `[N]` and scalars, such as running sums and
            counts, keep their dtype. Values stored in bfloat16 are rounded up or down at random, so
            that their mean is preserved. Rounding to nearest would lose small changes of an LSTM's
            cell at every step, since bfloat16 has only 8 bits.
    """

    def __init__(
        self,
        rule: Any,
        positions: Sequence[int],
        shapes: Sequence[Sequence[int]],
        chunk_size: int,
        state_dtype: str | None = None,
    ):
        self.rule = rule
        self.positions = list(positions)
        self.layout = FlatLayout(shapes)
        self.dtype = tf.as_dtype(getattr(rule, "compute_dtype", "float32"))
        num_coordinates = self.layout.num_coordinates
        # Only a learned rule has one.
        is_learned = hasattr(rule, "compute_dtype")
        can_be_cut = is_learned and not getattr(rule, "has_small_state", False)
        is_cut = can_be_cut and 0 < 2 * chunk_size <= num_coordinates
        self.num_chunks = num_coordinates // chunk_size - 1 if is_cut else 0
        self.chunk_size = chunk_size if is_cut else 0
        self.num_rest = num_coordinates - self.num_chunks * self.chunk_size
        self._structure = _state_spec(rule, self.num_rest)
        self._specs = tf.nest.flatten(self._structure)
        self._stored_dtypes = [
            tf.as_dtype(state_dtype)
            if state_dtype and spec.dtype.is_floating and spec.shape.rank >= 2
            else spec.dtype
            for spec in self._specs
        ]

    def add_state(self, add_variable: Callable[..., Any], name: str) -> None:
        made = [
            add_variable(
                shape=shape,
                initializer=self._initializer(index, num_coordinates),
                dtype=self._stored_dtypes[index].name,
                name=f"{name}_{suffix}",
            )
            for index, num_coordinates, suffix, shape in self._plan()
        ]
        self.rest_state, self.chunk_state = made[: len(self._specs)], made[len(self._specs) :]

    def state_shapes(self, name: str) -> list[tuple[str, tuple[int, ...]]]:
        return [(f"{name}_{suffix}", shape) for _, _, suffix, shape in self._plan()]

    def _plan(self) -> list[tuple[int, int, str, tuple[int, ...]]]:
        """Returns tensor index, number of coordinates, name suffix and shape of each variable."""
        rest = [
            (index, self.num_rest, str(index), tuple(spec.shape))
            for index, spec in enumerate(self._specs)
        ]
        chunks = []
        for index in self._cut_indices:
            row = self.chunk_size * math.prod(self._specs[index].shape[1:])
            chunks.append((index, self.chunk_size, f"{index}_chunks", (self.num_chunks, row)))
        return rest + chunks

    @property
    def _cut_indices(self) -> list[int]:
        """The indices of the state tensors that are cut into chunks."""
        if not self.num_chunks:
            return []
        return [index for index, spec in enumerate(self._specs) if spec.shape.rank]

    @property
    def state(self) -> tuple[list[Any], list[Any]]:
        """The state's TensorFlow variables: those of the rest, and those of the chunks."""
        return (
            [variable.value for variable in self.rest_state],
            [variable.value for variable in self.chunk_state],
        )

    def restart(self) -> None:
        variables = [*self.rest_state, *self.chunk_state]
        for variable, (index, count, _, shape) in zip(variables, self._plan(), strict=True):
            variable.assign(self._initializer(index, count)(shape, variable.dtype))

    def step(self, request: Request, state: tuple[list[Any], list[Any]]) -> Step:
        given = zip(request.gradients, self.layout.shapes, strict=True)
        gradient = self.layout.flatten(
            [
                tf.zeros(shape, self.dtype) if one is None else tf.cast(one, self.dtype)
                for one, shape in given
            ]
        )
        delta, is_finite, commit, revert = self._step(
            gradient, state, self._present(request.gradients), request.seed
        )
        delta = times(delta, request.learning_rate)
        deltas = zip(self.layout.unflatten(delta), request.gradients, strict=True)
        return Step(
            deltas=[None if one is None else own for own, one in deltas],
            size=size_of([gradient]),
            are_gradients_finite=are_finite([gradient]),
            is_finite=is_finite,
            commit=commit,
            revert=revert,
        )

    def _present(self, gradients: Sequence[tf.Tensor | None]) -> tf.Tensor | None:
        """Returns which coordinates have a gradient, bool `[N]`, or None if all do."""
        if all(one is not None for one in gradients):
            return None
        sizes = zip(gradients, self.layout.sizes, strict=True)
        return tf.concat([tf.fill([size], one is not None) for one, size in sizes], axis=0)

    def _step(
        self,
        gradient: tf.Tensor,
        state: tuple[list[Any], list[Any]],
        present: tf.Tensor | None,
        seed: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor, Callable[[], None], Callable[[], None]]:
        """Returns the delta, whether the next state is finite, and what commits or reverts it.

        Args:
            gradient: float `[N]`, in the rule's dtype.
            state: the value of `state`, on the device of this step.
            present: bool `[N]`, which coordinates have a gradient. The others have zero deltas, and
                their state does not change. None means all.
            seed: int32 `[2]`, the seed of this step and group for rounding the state.
        """
        rest_state, chunk_state = state
        num_in_chunks = self.num_chunks * self.chunk_size
        rest = self._answer(
            gradient[num_in_chunks:],
            [variable.read_value() for variable in rest_state],
            None if present is None else present[num_in_chunks:],
            self._noise(seed),
        )
        delta, next_rest, is_finite = rest

        def commit_rest() -> None:
            for variable, value in zip(rest_state, next_rest, strict=True):
                variable.assign(value)

        if not self.num_chunks:
            return delta, is_finite, commit_rest, lambda: None
        shared = [
            variable.read_value() if not spec.shape.rank else None
            for variable, spec in zip(rest_state, self._specs, strict=True)
        ]
        rows = rows_of(chunk_state)
        chunk_deltas, is_chunks_finite, carried = self._step_chunks(
            gradient[:num_in_chunks],
            shared,
            rows,
            None if present is None else present[:num_in_chunks],
            seed,
        )

        def commit() -> None:
            commit_rest()
            rows.commit(carried)

        delta = tf.concat([chunk_deltas, delta], axis=0)
        return delta, is_finite & is_chunks_finite, commit, lambda: rows.revert(carried)

    def _step_chunks(
        self,
        gradient: tf.Tensor,
        shared: list[tf.Tensor | None],
        state_rows: RowsInPlace | RowsInArrays,
        present: tf.Tensor | None,
        seed: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.TensorArray]]:
        """Runs a step chunk by chunk.

        Returns:
            Deltas `[K * C]`, whether the next state is finite, and the final loop variables of the
            rows.
        """
        shape = [self.num_chunks, self.chunk_size]
        gradients = tf.reshape(gradient, shape)
        masks = None if present is None else tf.reshape(present, shape)

        # Drawn once, outside the loop. Inside, it would keep XLA from vectorising the step.
        noise = self._noise(seed + tf.constant([0, len(self._specs)]), of_chunk=True)

        def step_chunk(index, deltas, is_finite, carried):
            rows, carried = state_rows.read(index, carried)
            leaves = list(shared)
            for cut, row in zip(self._cut_indices, rows, strict=True):
                leaves[cut] = tf.reshape(row, [self.chunk_size, *self._specs[cut].shape[1:]])
            delta, next_leaves, chunk_is_finite = self._answer(
                tf.ensure_shape(gradients[index], [self.chunk_size]),
                leaves,
                None if masks is None else tf.ensure_shape(masks[index], [self.chunk_size]),
                # Multiplied by an odd number, noise stays uniform. The numbers differ between
                # chunks.
                [
                    None if one is None else one * (2 * tf.cast(index, tf.uint32) + 1)
                    for one in noise
                ],
            )
            next_rows = [tf.reshape(next_leaves[cut], [-1]) for cut in self._cut_indices]
            carried = state_rows.write(index, carried, next_rows)
            return index + 1, deltas.write(index, delta), is_finite & chunk_is_finite, carried

        deltas = tf.TensorArray(self.dtype, self.num_chunks, element_shape=[self.chunk_size])
        _, deltas, is_finite, carried = tf.while_loop(
            lambda index, *_: index < self.num_chunks,
            step_chunk,
            (tf.constant(0), deltas, tf.constant(True), state_rows.begin()),
            maximum_iterations=self.num_chunks,
            # Replacement in place requires one chunk at a time.
            parallel_iterations=1,
        )
        return tf.reshape(deltas.stack(), [-1]), is_finite, carried

    def _answer(
        self,
        gradient: tf.Tensor,
        leaves: Sequence[Any],
        present: tf.Tensor | None,
        noise: Sequence[tf.Tensor | None],
    ) -> tuple[tf.Tensor, list[tf.Tensor], tf.Tensor]:
        """Returns deltas, the tensors of the next state as stored, and whether that is finite."""
        state = [tf.cast(leaf, spec.dtype) for leaf, spec in zip(leaves, self._specs, strict=True)]
        delta, next_state = self.rule(gradient, tf.nest.pack_sequence_as(self._structure, state))
        tf.nest.assert_same_structure(next_state, self._structure)
        next_leaves = tf.nest.flatten(next_state)
        is_finite = are_finite([leaf for leaf in next_leaves if leaf.dtype.is_floating])
        if present is not None:
            delta = tf.where(present, delta, tf.zeros_like(delta))
            next_leaves = [
                tf.where(_as_column(present, new), new, old) if new.shape.rank else new
                for new, old in zip(next_leaves, state, strict=True)
            ]
        kept = [
            leaf if random is None else rounded_at_random(leaf, random)
            for leaf, random in zip(next_leaves, noise, strict=True)
        ]
        return delta, kept, is_finite

    def _noise(self, seed: tf.Tensor, of_chunk: bool = False) -> list[tf.Tensor | None]:
        """Returns the rounding noise for each state tensor, or None if it is not rounded."""
        noise: list[tf.Tensor | None] = []
        for index, (spec, dtype) in enumerate(zip(self._specs, self._stored_dtypes, strict=True)):
            if dtype == spec.dtype:
                noise.append(None)
                continue
            shape = [self.chunk_size, *spec.shape[1:]] if of_chunk else list(spec.shape)
            noise.append(noise_for(shape, seed + tf.constant([0, index])))
        return noise

    def _initializer(self, index: int, num_coordinates: int) -> Callable[..., tf.Tensor]:
        def initial_value(shape: Sequence[int], dtype: Any = None) -> tf.Tensor:
            leaf = tf.nest.flatten(self.rule.initial_state(num_coordinates))[index]
            leaf = tf.cast(leaf, dtype)
            if tuple(leaf.shape) == tuple(shape):
                return leaf
            return tf.tile(tf.reshape(leaf, [1, shape[1]]), [shape[0], 1])

        return initial_value


def _state_spec(rule: Any, num_coordinates: int) -> Any:
    """Returns the specs of a rule's state, without creating it."""
    trace = tf.function(lambda: rule.initial_state(num_coordinates), autograph=False)
    return tf.nest.map_structure(
        lambda leaf: tf.TensorSpec(leaf.shape, leaf.dtype),
        trace.get_concrete_function().structured_outputs,
    )


def _as_column(vector: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Reshapes a vector `[N]` to `[N, 1, ...]`, with the rank of another tensor."""
    return tf.reshape(vector, [-1] + [1] * (like.shape.rank - 1))
