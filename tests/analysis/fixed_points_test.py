import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.analysis import FixedPoint, curvatures_of, fixed_points, optimal_heavy_ball
from l2l_tf.rules import (
    SGD,
    Adam,
    CoordinatewiseRule,
    DistilledRule,
    RMSprop,
)
from tests.analysis.made_up import made_record


class Cubic(CoordinatewiseRule):
    """A state with stable fixed points at -1 and 1, and an unstable one at 0 between them."""

    def initial_state(self, num_coordinates):
        return tf.zeros([num_coordinates])

    def __call__(self, gradient, state):
        state = state + 0.2 * (state - state**3) - 0.3 * gradient
        return 0.5 * state, state


class RelativeMomentum(CoordinatewiseRule):
    """Momentum of 0.9 and a rate of 0.05, relative to the largest gradient so far."""

    def initial_state(self, num_coordinates):
        return tf.zeros([num_coordinates]), tf.zeros([num_coordinates])

    def __call__(self, gradient, state):
        velocity, largest = state
        velocity = 0.9 * velocity + gradient
        largest = tf.maximum(largest, tf.abs(gradient))
        return -0.05 * tf.math.divide_no_nan(velocity, largest), (velocity, largest)


def test_momentum_is_one_mode_of_its_rate_and_momentum():
    rule = SGD(0.05, momentum=0.9)
    found = fixed_points(rule, made_record(rule))
    (point,) = found.points
    np.testing.assert_allclose(point.rates, [0.05], atol=1e-4)
    np.testing.assert_allclose(point.momenta, [0.9], atol=1e-4)
    assert point.direct_rate == pytest.approx(0, abs=1e-6)
    assert (point.num_starts, found.num_lost, found.held) == (6, 0, ())
    np.testing.assert_allclose(point.time_constants, -1 / np.log(0.9), rtol=1e-4)
    np.testing.assert_allclose(point.state, 0, atol=1e-6)


def test_nesterov_moves_by_its_rate_at_once_besides():
    rule = SGD(0.05, momentum=0.9, nesterov=True)
    (point,) = fixed_points(rule, made_record(rule)).points
    np.testing.assert_allclose(point.rates, [0.9 * 0.05], atol=1e-4)
    np.testing.assert_allclose(point.momenta, [0.9], atol=1e-4)
    assert point.direct_rate == pytest.approx(0.05, abs=1e-4)


def test_the_scale_and_the_count_of_adam_are_held():
    rule = Adam(0.01)
    record = made_record(rule)
    found = fixed_points(rule, record)
    # The count of steps and the mean square.
    assert found.held == (0, 2)
    (point,) = found.points
    np.testing.assert_allclose(point.momenta, [0.9], atol=1e-4)
    # A mean holds a tenth of a gradient. The root mean square gradient is about the root of the
    # corrected mean square; the mean is corrected too.
    correction = 1 / (1 - 0.9**40)
    assert point.rates[0].real * point.unit == pytest.approx(0.001 * correction, rel=0.2)


def test_both_stable_points_are_found_from_where_states_have_been():
    rule = Cubic()
    found = fixed_points(rule, made_record(rule, scale=0.5))
    states = sorted(float(point.state[0]) for point in found.points)
    np.testing.assert_allclose(states, [-1, 1], atol=1e-4)
    for point in found.points:
        # The derivative of s + 0.2 (s - s^3) at 1 or -1 is 0.6.
        np.testing.assert_allclose(point.momenta, [0.6], atol=1e-4)
        np.testing.assert_allclose(point.rates, [0.15], atol=1e-4)
        assert point.delta == pytest.approx(0.5 * point.state[0], abs=1e-4)
    assert sum(point.num_starts for point in found.points) == 6


def test_a_scale_that_never_falls_is_held_too():
    rule = RelativeMomentum()
    record = made_record(rule)
    found = fixed_points(rule, record)
    # The largest gradient.
    assert found.held == (1,)
    (point,) = found.points
    np.testing.assert_allclose(point.momenta, [0.9], atol=1e-4)
    # Held at one of the largest gradients so far of a coordinate.
    largest = np.maximum.accumulate(np.abs(record.gradients))
    assert np.isclose(point.rates[0].real, 0.05 / largest, rtol=1e-3).any()


def test_a_confidence_is_no_scale_and_settles():
    rule = DistilledRule()
    found = fixed_points(rule, made_record(rule))
    # The count of steps and the mean square.
    assert found.held == (0, 1)
    (point,) = found.points
    # The untrained rule's momentum, its memory, and its gate where the confidence is 1.
    np.testing.assert_allclose(point.state, [0, 1], atol=1e-3)
    np.testing.assert_allclose(np.linalg.eigvals(point.jacobian), [0.7, 0.95], atol=1e-4)
    np.testing.assert_allclose(point.momenta, [0.7], atol=1e-4)
    # A gradient of the usual size moves u by the gain of 3 of it, and p by 0.3 of u.
    gate = 0.01 + 2.0 * 0.5**2
    assert point.rates[0].real * point.unit == pytest.approx(0.1 * gate * 0.3 * 3, rel=0.5)


def test_slow_states_are_iterated_until_they_settle():
    rule = SGD(0.05, momentum=0.99)
    found = fixed_points(rule, made_record(rule))
    assert (len(found.points), found.num_lost) == (1, 0)


def test_what_does_not_fall_has_an_infinite_time_constant():
    momenta = np.array([1.0, 1.2, 0.9, 0.0, 1j], complex)
    one = np.ones(5, complex)
    point = FixedPoint(np.zeros(1), 0.0, np.eye(1), one, momenta, 0.0, 1.2, 1.0, 1)
    expected = [np.inf, np.inf, -1 / np.log(0.9), 0, np.inf]
    np.testing.assert_allclose(point.time_constants, expected, atol=2e-3)


def test_a_rule_without_a_moving_state_is_refused():
    rule = RMSprop(0.05)
    with pytest.raises(ValueError, match="needs a rule with a state that gradients move"):
        fixed_points(rule, made_record(rule))


def test_the_optimal_heavy_ball_is_polyaks_and_is_inverted():
    rate, momentum = optimal_heavy_ball(1.0, 100.0)
    assert (rate, momentum) == pytest.approx((4 / 121, (9 / 11) ** 2))
    assert curvatures_of(rate, momentum) == pytest.approx((1, 100))
    # Every mode shrinks by the root of the momentum.
    for curvature in (1.0, 30.0, 100.0):
        matrix = np.array([[1 + momentum - rate * curvature, -momentum], [1, 0]])
        assert np.abs(np.linalg.eigvals(matrix)).max() == pytest.approx(9 / 11, abs=1e-6)
    with pytest.raises(ValueError, match="smallest and largest must be positive curvatures"):
        optimal_heavy_ball(2, 1)
    with pytest.raises(ValueError, match="rate must be positive, and momentum"):
        curvatures_of(0.1, 1.0)
