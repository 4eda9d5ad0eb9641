"""Where a joint update reads and writes the state of one chunk after the other."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from l2l_tf.keras_internals import is_compiled_by_xla


class RowsInPlace:
    """Rows of variables `[K, R]`, each replaced in the variable itself; old ones are kept aside.

    Args:
        variables: on the device of this update.
    """

    def __init__(self, variables: Sequence[Any]):
        self._variables = variables

    def begin(self) -> list[tf.TensorArray]:
        """Returns what a loop over rows is to carry."""
        return [
            tf.TensorArray(variable.dtype, variable.shape[0], element_shape=variable.shape[1:])
            for variable in self._variables
        ]

    def read(
        self, index: tf.Tensor, carried: list[tf.TensorArray]
    ) -> tuple[list[tf.Tensor], list[tf.TensorArray]]:
        """Returns the rows `[R]` at an index, and what the loop is to carry on."""
        rows = [variable.sparse_read([index])[0] for variable in self._variables]
        return rows, [old.write(index, row) for old, row in zip(carried, rows, strict=True)]

    def write(
        self, index: tf.Tensor, carried: list[tf.TensorArray], rows: Sequence[tf.Tensor]
    ) -> list[tf.TensorArray]:
        """Replaces the rows at an index; returns what the loop is to carry on."""
        self._replace(index, rows)
        return carried

    def commit(self, carried: list[tf.TensorArray]) -> None:
        """Makes the new rows those of the variables, after the loop, in a branch of a `tf.cond`."""

    def revert(self, carried: list[tf.TensorArray]) -> None:
        """Makes the variables what they were, in the other branch."""
        num_rows = self._variables[0].shape[0]

        def revert_row(index: tf.Tensor) -> tuple[tf.Tensor]:
            self._replace(index, [old.read(index) for old in carried])
            return (index + 1,)

        tf.while_loop(
            lambda index: index < num_rows,
            revert_row,
            (tf.constant(0),),
            maximum_iterations=num_rows,
            parallel_iterations=1,
        )

    def _replace(self, index: tf.Tensor, rows: Sequence[tf.Tensor]) -> None:
        for variable, row in zip(self._variables, rows, strict=True):
            variable.scatter_update(tf.IndexedSlices(row[tf.newaxis], tf.reshape(index, [1])))


class RowsInArrays:
    """Rows of variables `[K, R]`, replaced in arrays that become the variables at the end.

    As `RowsInPlace`, for XLA: it copies a whole variable for each row that is replaced in it, but
    replaces those of an array where they are. Not so those of a bfloat16 array, which on the CPU it
    makes a float32 one for each row: such rows are kept as bits.
    """

    def __init__(self, variables: Sequence[Any]):
        self._variables = variables

    def begin(self) -> list[tf.TensorArray]:
        return [
            tf.TensorArray(
                _kept_as(variable.dtype),
                variable.shape[0],
                clear_after_read=False,
                element_shape=variable.shape[1:],
            ).unstack(tf.bitcast(variable.read_value(), _kept_as(variable.dtype)))
            for variable in self._variables
        ]

    def read(
        self, index: tf.Tensor, carried: list[tf.TensorArray]
    ) -> tuple[list[tf.Tensor], list[tf.TensorArray]]:
        rows = zip(carried, self._variables, strict=True)
        return [tf.bitcast(array.read(index), variable.dtype) for array, variable in rows], carried

    def write(
        self, index: tf.Tensor, carried: list[tf.TensorArray], rows: Sequence[tf.Tensor]
    ) -> list[tf.TensorArray]:
        return [
            array.write(index, tf.bitcast(row, array.dtype))
            for array, row in zip(carried, rows, strict=True)
        ]

    def commit(self, carried: list[tf.TensorArray]) -> None:
        for variable, array in zip(self._variables, carried, strict=True):
            variable.assign(tf.bitcast(array.stack(), variable.dtype))

    def revert(self, carried: list[tf.TensorArray]) -> None:
        """Does nothing: the variables are what they were."""


def _kept_as(dtype: tf.DType) -> tf.DType:
    return tf.uint16 if dtype == tf.bfloat16 else dtype


def rows_of(variables: Sequence[Any]) -> RowsInPlace | RowsInArrays:
    """Returns the rows of variables, in the way that is fast where it is called."""
    if is_compiled_by_xla():
        return RowsInArrays(variables)
    return RowsInPlace(variables)
