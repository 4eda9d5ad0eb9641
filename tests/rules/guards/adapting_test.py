import math

import numpy as np
import tensorflow as tf

from l2l_tf.rules import SGD, CoordinatewiseLSTM, Guarded
from l2l_tf.rules.guards.adapting import adapted, first_thetas
from tests.rules.guards.toys import Times, gradients, norm, run


def _adapted(thetas, slopes, theta=2.0):
    """Returns the next thetas, where g is one and v is the slope, for one number in each tensor."""
    ones = [tf.ones([1]) for _ in slopes]
    return adapted(tf.constant(thetas), ones, [tf.constant([one]) for one in slopes], theta, 0)


def test_theta_shrinks_where_the_loss_rises_along_the_difference_and_grows_where_it_falls():
    after = _adapted([2.0, 2.0, 2.0], [1e-9, -1e9, 0.0])
    np.testing.assert_allclose(after, [2 * math.exp(-0.2), 2 * math.exp(0.1), 2], rtol=1e-6)


def test_one_theta_of_all_tensors_follows_the_sum():
    np.testing.assert_allclose(_adapted([2.0], [3.0, -4.0]), [2 * math.exp(0.1)], rtol=1e-6)


def test_it_stays_within_its_range_and_what_is_not_finite_does_not_move_it():
    np.testing.assert_allclose(
        _adapted([20 / 3, 0.02, 2.0], [-1.0, 1.0, math.nan]), [20 / 3, 0.02, 2], 1e-6
    )


def test_a_very_large_theta_does_not_overflow():
    thetas = first_thetas(1e39, [2], 1, "float32")
    after = adapted(thetas, [tf.ones([2, 1])], [-tf.ones([2, 1])], 1e39, 1)
    assert np.isfinite(after).all()


def test_a_rule_that_helps_gets_room_and_one_that_does_not_loses_it():
    # Along a gradient that is always the same, downhill helps.
    same = [gradients(1)[0]] * 30
    for factor, edge in ((-100.0, 20 / 3), (100.0, 0.02)):
        deltas, state = run(Guarded(Times(factor), SGD(0.1), theta=2.0), same)
        np.testing.assert_allclose(state.radius.thetas, [edge], rtol=1e-5)
        difference = [one + 0.1 * own for one, own in zip(deltas[-1], same[0], strict=True)]
        assert abs(norm(difference) / (0.1 * norm(same[0])) - edge) < 1e-3


def test_each_step_stays_within_the_radius_of_its_state():
    rule = Guarded(CoordinatewiseLSTM((4,), output_stddev=0.3, seed=0), SGD(0.01), theta=1.0)
    state = None
    for of_step in gradients(8):
        (delta,), state = run(rule, [of_step], state=state)
        difference = [one + 0.01 * own for one, own in zip(delta, of_step, strict=True)]
        radius = float(state.radius.thetas[0]) * 0.01 * norm(of_step)
        assert norm(difference) <= radius * (1 + 1e-4)
    assert float(state.radius.thetas[0]) != 1


def test_batch_entries_have_radii_of_their_own():
    (kernel, bias) = gradients(1)[0]
    first = [tf.stack([kernel, kernel]), tf.stack([bias, bias])]
    # The second gradient of the second entry is reversed: its step went too far.
    second = [tf.stack([kernel, -kernel]), tf.stack([bias, -bias])]
    steps = [first, second]
    _, state = run(Guarded(Times(-9.0), SGD(0.1), theta=1.0), steps, (2,))
    expected = np.exp([[0.1], [-0.2]])
    np.testing.assert_allclose(state.radius.thetas, expected, rtol=1e-5)
