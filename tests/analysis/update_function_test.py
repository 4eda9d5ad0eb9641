import numpy as np
import pytest

from l2l_tf.analysis import likeness, saturation, update_function
from l2l_tf.rules import SGD, Adam
from tests.analysis.made_up import ClippedSGD, made_record


def test_the_slope_of_sgd_is_its_rate_everywhere():
    rule = SGD(0.05)
    function = update_function(rule, made_record(rule))
    assert function.deltas.shape == (4, 82, 6)
    np.testing.assert_allclose(function.slopes, -0.05, rtol=1e-6)
    np.testing.assert_allclose(
        function.deltas, np.broadcast_to(-0.05 * function.gradients, (4, 82, 6)), rtol=1e-6
    )


def test_the_history_of_momentum_is_held():
    rule = SGD(0.05, momentum=0.9)
    record = made_record(rule)
    function = update_function(rule, record, steps=[7])
    velocity = record.deltas[6]
    expected = 0.9 * velocity - 0.05 * function.gradients
    np.testing.assert_allclose(function.deltas[0], expected, rtol=1e-5, atol=1e-6)
    # The rule itself is one of those beside it.
    np.testing.assert_allclose(function.others["momentum"], function.deltas, rtol=1e-4, atol=1e-5)


def test_a_grid_may_be_in_units_of_the_loss():
    rule = SGD(0.05)
    function = update_function(rule, made_record(rule), [0], np.array([1.0, 2.0]), False)
    np.testing.assert_allclose(function.gradients, [[1.0] * 6, [2.0] * 6])


@pytest.mark.parametrize(
    ("name", "rule"),
    [("sgd", SGD(0.03)), ("momentum", SGD(0.03, momentum=0.9)), ("adam", Adam(0.03))],
)
def test_a_rule_is_most_like_itself(name, rule):
    record = made_record(rule)
    itself = likeness(record, name)
    assert itself.rate == pytest.approx(0.03, rel=1e-5)
    assert itself.explained == pytest.approx(1, abs=1e-9)
    others = {"sgd", "momentum", "adam"} - {name}
    assert all(likeness(record, other).explained < 0.95 for other in others)


def test_a_clipped_rule_bends_at_its_clip():
    rule = ClippedSGD(0.1, limit=0.5)
    record = made_record(rule)
    found = saturation(update_function(rule, record), record)
    # The next size on the grid, whose sizes differ by a factor of 1.33.
    ratio = (1e2 / 1e-3) ** (1 / 40)
    assert (found.bends >= 0.5).all()
    assert (found.bends <= 0.5 * ratio * 1.01).all()
    beyond = (np.abs(record.gradients) > found.bends[0]).mean()
    np.testing.assert_allclose(found.beyond, beyond)
    assert found.density.sum() == pytest.approx(1)
    # Most gradients of a normal distribution are of about its standard deviation.
    largest = found.density.argmax()
    assert found.sizes[largest] < 1.5 < 3 * found.sizes[largest + 1]


def test_what_does_not_bend_says_so():
    rule = SGD(0.1)
    record = made_record(rule)
    found = saturation(update_function(rule, record), record)
    assert np.isinf(found.bends).all()
    assert (found.beyond == 0).all()
