import numpy as np
import pytest

from l2l_tf.analysis import gradient_statistics
from l2l_tf.rules import SGD
from tests.analysis.made_up import made_record


def test_sizes_and_signs_of_known_gradients_are_found():
    record = made_record(SGD(0.1), num_steps=400)
    found = gradient_statistics(record)
    assert found.zeros == 0
    assert found.persistence == pytest.approx(0, abs=0.06)
    assert found.signal < 0.01
    # A third each of N(0, 1), N(0, 9) and N(0, 0.01): 0.49 is exceeded by half of them, by tables
    # of the normal distribution (0.624 + 0.870 + 0.000 of 3).
    assert found.sizes[2] == pytest.approx(0.49, rel=0.1)
    record.gradients[:] = [1, -2, 0, 0, 0, 0]
    found = gradient_statistics(record)
    assert found.zeros == pytest.approx(4 / 6)
    assert (found.persistence, found.signal) == pytest.approx((1, 1))
    np.testing.assert_allclose(found.sizes[[0, -1]], [1, 2])


def test_nothing_is_said_of_zeros():
    record = made_record(SGD(0.1))
    record.gradients[:] = 0
    found = gradient_statistics(record)
    assert found.zeros == 1
    assert np.isnan([*found.sizes, found.persistence, found.signal]).all()
