import numpy as np
import pytest

from l2l_tf.analysis import attribution, effective_rate
from l2l_tf.analysis.linear_fits import running_mean
from l2l_tf.rules import SGD, Adam
from tests.analysis.made_up import made_record


def test_the_effective_rate_of_sgd_is_its_rate_in_each_window_and_tensor():
    found = effective_rate(made_record(SGD(0.05)), num_windows=4)
    assert found.tensors == ("hidden/kernel", "hidden/bias")
    assert list(found.starts) == [0, 10, 20, 30]
    np.testing.assert_allclose(found.of_gradient, np.full((4, 2), 0.05), rtol=1e-6)
    np.testing.assert_allclose(found.explained_by_gradient, 1)
    assert (found.explained_by_momentum < 0.9).all()


def test_that_of_momentum_is_found_against_momentum():
    found = effective_rate(made_record(SGD(0.05, momentum=0.9)), num_windows=4)
    np.testing.assert_allclose(found.of_momentum, np.full((4, 2), 0.05), rtol=1e-5)
    np.testing.assert_allclose(found.explained_by_momentum, 1)


def test_a_tensor_without_gradients_has_no_rate():
    record = made_record(SGD(0.05))
    record.gradients[:, 4:] = 0
    record.deltas[:, 4:] = 0
    assert np.isnan(effective_rate(record, 1).of_gradient[0, 1])


def test_deltas_are_attributed_to_what_they_are_made_of():
    found = attribution(made_record(SGD(0.05, momentum=0.9)), num_windows=4)
    column = found.features.index("momentum")
    np.testing.assert_allclose(found.explained, 1)
    np.testing.assert_allclose(found.alone[:, column], 1)
    np.testing.assert_allclose(found.weights[:, column], -1, rtol=1e-6)
    assert (found.lost[:, column] > 0.01).all()
    assert (np.delete(found.lost, column, axis=1) < 1e-6).all()
    assert (np.delete(found.alone, column, axis=1) < 0.99).all()


def test_adam_is_a_relative_mean_and_shares_of_two_features_are_found():
    record = made_record(Adam(0.01), num_steps=200)
    found = attribution(record, num_windows=1)
    assert found.features[found.alone[0].argmax()] == "relative mean"
    draw = np.random.default_rng(1)
    one, two = draw.standard_normal((2, 200, 6))
    record.deltas[:] = 3 * one - 4 * two
    found = attribution(record, {"one": one, "two": two}, num_windows=1)
    np.testing.assert_allclose(found.alone[0], [0.36, 0.64], atol=0.03)
    np.testing.assert_allclose(found.weights[0], [0.6, -0.8], atol=0.03)


def test_running_means_are_those_of_adam():
    np.testing.assert_allclose(running_mean(np.array([[2.0], [2.0], [2.0]]), 0.9), 2.0)


def test_features_of_another_shape_are_refused():
    record = made_record(SGD(0.05))
    with pytest.raises(ValueError) as raised:
        attribution(record, {"one": np.zeros(3)})
    assert str(raised.value) == (
        "features must be arrays of the record's shape (40, 6), one or more. Received: "
        "{'one': (3,)}. Compute them from record.gradients."
    )
    with pytest.raises(ValueError, match="momentum must be at least 0 and below 1"):
        effective_rate(record, momentum=1.0)
