"""The cell that rules share; tests of its subclasses cover the checks and draws of `LSTMRule`."""

import keras
import numpy as np
import tensorflow as tf

from l2l_tf.rules.lstm import lstm_step


def test_a_step_is_that_of_keras_cell():
    draw = np.random.default_rng(0)
    num_coordinates, num_inputs, units = 5, 3, 4
    inputs, hidden, cell = (
        draw.normal(size=[num_coordinates, size]) for size in (num_inputs, units, units)
    )
    shapes = [(num_inputs, 4 * units), (units, 4 * units), (4 * units,)]
    weights = [draw.normal(size=shape) for shape in shapes]
    reference = keras.layers.LSTMCell(units, dtype="float64")
    reference.build((num_coordinates, num_inputs))
    reference.set_weights(weights)
    wanted, (_, wanted_cell) = reference(inputs, [hidden, cell])
    next_hidden, next_cell = lstm_step(*map(tf.constant, (inputs, hidden, cell, *weights)))
    np.testing.assert_allclose(next_hidden, wanted, atol=1e-14)
    np.testing.assert_allclose(next_cell, wanted_cell, atol=1e-14)
