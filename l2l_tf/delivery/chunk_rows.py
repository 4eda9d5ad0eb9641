"""Reading and writing the state of one chunk after another in a joint update."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from l2l_tf.keras_internals import is_compiled_by_xla


class RowsInPlace:
    """Rows of variables `[K, R]`, replaced in the variables. Old rows are kept to be restored.

    Args:
        variables: variables on the device of this update.
    """

    def __init__(self, variables: Sequence[Any]):
        self._variables = variables

    def begin(self) -> list[tf.TensorArray]:
        """Returns the initial loop variables for a loop over rows."""
        return [
            tf.TensorArray(variable.dtype, variable.shape[0], element_shape=variable.shape[1:])
            for variable in self._variables
        ]

    def read(
        self, index: tf.Tensor, carried: list[tf.TensorArray]
    ) -> tuple[list[tf.Tensor], list[tf.TensorArray]]:
        """Returns the rows `[R]` at an index, and the next loop variables."""
        rows = [variable.sparse_read([index])[0] for variable in self._variables]
        return rows, [old.write(index, row) for old, row in zip(carried, rows, strict=True)]

    def write(
        self, index: tf.Tensor, carried: list[tf.TensorArray], rows: Sequence[tf.Tensor]
    ) -> list[tf.TensorArray]:
        """Replaces the rows at an index, and returns the next loop variables."""
        self._replace(index, rows)
        return carried

    def commit(self, carried: list[tf.TensorArray]) -> None:
        """Keeps the new rows; called after the loop, in a branch of a `tf.cond`."""

    def revert(self, carried: list[tf.TensorArray]) -> None:
        """Restores the old rows; called in the other branch."""
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
    """Rows of variables `[K, R]`, replaced in arrays that are written to the variables at the end.

    This is `RowsInPlace` for XLA. XLA copies a whole variable for each row replaced in it, but
    replaces rows of an array in place. On the CPU, however, it converts a bfloat16 array to float32
    for each row, so such rows are kept as bits.
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
        """Does nothing, since the variables have not changed."""


def _kept_as(dtype: tf.DType) -> tf.DType:
    return tf.uint16 if dtype == tf.bfloat16 else dtype


def rows_of(variables: Sequence[Any]) -> RowsInPlace | RowsInArrays:
    """Returns the rows of variables, in the form that is fastest in the current context."""
    if is_compiled_by_xla():
        return RowsInArrays(variables)
    return RowsInPlace(variables)
