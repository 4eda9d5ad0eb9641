import keras
import numpy as np
import pytest

from l2l_tf.training.averages import averaged


def _weight_and_optimizer(**arguments):
    weight = keras.Variable(np.array([1.0, 2.0], np.float32))
    optimizer = keras.optimizers.SGD(1.0, **arguments)
    optimizer.build([weight])
    return weight, optimizer


def test_weights_are_their_averages_for_a_while():
    weight, optimizer = _weight_and_optimizer(use_ema=True, ema_momentum=0.75)
    for _ in range(3):
        optimizer.apply([np.array([1.0, 0.0], np.float32)], [weight])
    with averaged(optimizer, [weight]):
        # The first of the weights 0, -1, -2 begins the average.
        np.testing.assert_array_equal(weight, [0.25 * -2 + 0.75 * (0.25 * -1 + 0.75 * 0), 2])
    np.testing.assert_array_equal(weight, [-2, 2])
    optimizer.apply([np.array([1.0, 0.0], np.float32)], [weight])
    with averaged(optimizer, [weight]):
        np.testing.assert_array_equal(weight, [0.25 * -3 + 0.75 * -0.6875, 2])


def test_before_the_first_step_and_without_averages_weights_are_themselves():
    with_averages = _weight_and_optimizer(use_ema=True)
    without = _weight_and_optimizer()
    without[1].apply([np.zeros(2, np.float32)], [without[0]])
    for weight, optimizer in (with_averages, without):
        with averaged(optimizer, [weight]):
            np.testing.assert_array_equal(weight, [1, 2])


def test_weights_come_back_after_an_error():
    weight, optimizer = _weight_and_optimizer(use_ema=True, ema_momentum=0.5)
    for _ in range(2):
        optimizer.apply([np.ones(2, np.float32)], [weight])

    def interrupted():
        with averaged(optimizer, [weight]):
            np.testing.assert_array_equal(weight, [-0.5, 0.5])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    np.testing.assert_array_equal(weight, [-1, 0])
