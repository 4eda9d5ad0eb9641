"""Reading and writing chunks of a state."""

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.delivery.chunk_rows import RowsInArrays, RowsInPlace, rows_of

START = np.arange(6.0, dtype=np.float32).reshape(3, 2)


def _double_each_row(rows, is_finite):
    """Doubles all rows one after the other, then keeps or reverts that."""

    def double(index, carried):
        values, carried = rows.read(index, carried)
        return index + 1, rows.write(index, carried, [2 * value for value in values])

    _, carried = tf.while_loop(
        lambda index, _: index < 3,
        double,
        (tf.constant(0), rows.begin()),
        maximum_iterations=3,
        parallel_iterations=1,
    )
    tf.cond(is_finite, lambda: rows.commit(carried), lambda: rows.revert(carried))


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("kind", [RowsInPlace, RowsInArrays])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("is_finite", "wanted"), [(True, 2 * START), (False, START)])
def test_rows_are_replaced_or_left_as_they_were(kind, jit_compile, dtype, is_finite, wanted):
    variable = tf.Variable(START, dtype=dtype)
    step = tf.function(
        lambda is_finite: _double_each_row(kind([variable]), is_finite),
        autograph=False,
        jit_compile=jit_compile,
    )
    step(tf.constant(is_finite))
    np.testing.assert_array_equal(variable.numpy(), wanted)


@pytest.mark.parametrize(
    ("outer", "inner", "wanted"),
    [
        (None, None, RowsInPlace),
        (False, None, RowsInPlace),
        (True, None, RowsInArrays),
        # As in `fit`, where a compiled step lies in a function that is not compiled.
        (False, True, RowsInArrays),
        (True, False, RowsInArrays),
    ],
)
def test_rows_are_in_arrays_under_xla_alone(outer, inner, wanted):
    found = []

    def look() -> tf.Tensor:
        found.append(type(rows_of([])))
        return tf.constant(0)

    function = look
    for jit_compile in (inner, outer):
        if jit_compile is not None:
            function = tf.function(function, autograph=False, jit_compile=jit_compile)
    function()
    assert found == [wanted]
