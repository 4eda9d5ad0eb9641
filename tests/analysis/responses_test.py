import numpy as np
import pytest

from l2l_tf.analysis import adaptation, autonomous_response, impulse_response, noise_response
from l2l_tf.rules import SGD, Adam, RNNprop, Route, RoutedRule
from tests.analysis.made_up import ClippedSGD, made_record

MOMENTUM = SGD(0.05, momentum=0.9)
STEPS = np.arange(50)


@pytest.mark.parametrize("background", ["zeros", "recorded"])
def test_the_impulse_response_of_momentum_is_geometric(background):
    record = made_record(MOMENTUM, num_steps=80)
    response = impulse_response(MOMENTUM, record, [0, 20], background=background)
    expected = -0.05 * 0.9**STEPS
    for column in range(6):
        for row in range(2):
            np.testing.assert_allclose(response.deltas[row, :, column], expected, atol=2e-6)
    np.testing.assert_allclose(response.sums, -0.5 * (1 - 0.9**50), rtol=1e-4)
    # Half of 1 - 0.9^50 is passed by 1 - 0.9^7.
    assert (response.half_times == 7).all()
    # 9 without the end of the response, which is cut off.
    delays = (0.9**STEPS * STEPS).sum() / (0.9**STEPS).sum()
    np.testing.assert_allclose(response.time_constants, delays, rtol=1e-3)
    np.testing.assert_allclose(response.momenta, 0.9, rtol=1e-3)
    np.testing.assert_allclose(response.oscillations, 0, atol=1e-4)


def test_nesterov_has_a_first_tap_of_its_own():
    rule = SGD(0.05, momentum=0.9, nesterov=True)
    response = impulse_response(rule, made_record(rule), num_steps=5)
    taps = -0.05 * np.array([1.9, 0.81, 0.729, 0.6561, 0.59049])
    np.testing.assert_allclose(response.deltas[0, :, 0], taps, rtol=1e-4)


def test_sgd_has_no_memory():
    rule = SGD(0.05)
    response = impulse_response(rule, made_record(rule), num_steps=5, size=3)
    np.testing.assert_allclose(response.deltas[0, :, 0], [-0.05, 0, 0, 0, 0], rtol=1e-5)
    assert (response.half_times == 1).all()
    assert (response.time_constants == 0).all()
    np.testing.assert_allclose(response.momenta, 0, atol=1e-9)
    np.testing.assert_allclose(response.units, 3 * made_record(rule).units)


def test_negative_momentum_oscillates():
    rule = SGD(0.05, momentum=-0.5)
    response = impulse_response(rule, made_record(rule))
    # Movements of 1, 1/2, 1/4, ... in turns: 2 in all, of which 2/3 are left.
    np.testing.assert_allclose(response.oscillations, 1 - (2 / 3) / 2, rtol=1e-4)


def test_without_gradients_momentum_fades_and_sgd_stands_still():
    record = made_record(MOMENTUM)
    response = autonomous_response(MOMENTUM, record, [0, 10], num_steps=30)
    assert (response.deltas[0] == 0).all()
    velocity = record.deltas[9]
    expected = velocity * 0.9 ** np.arange(1, 31)[:, np.newaxis]
    np.testing.assert_allclose(response.deltas[1], expected, rtol=1e-4)
    np.testing.assert_allclose(response.drift[1], 9 * velocity * (1 - 0.9**30), rtol=1e-4)
    rule = SGD(0.05)
    assert (autonomous_response(rule, made_record(rule)).deltas == 0).all()


def test_the_adaptation_curve_of_adam_is_flat():
    found = adaptation(Adam(0.01), np.geomspace(1e-3, 1e7, 21))
    np.testing.assert_allclose(found.settled, -0.01, rtol=1e-3)
    np.testing.assert_allclose(found.exponents, 0, atol=1e-3)
    np.testing.assert_allclose(found.deltas_of_negative, -found.deltas, rtol=1e-5)
    np.testing.assert_allclose(found.settled_of_negative, 0.01, rtol=1e-3)
    np.testing.assert_allclose(found.schedule, 1, rtol=1e-2)


def test_that_of_momentum_is_a_line_and_clipping_ends_it():
    found = adaptation(MOMENTUM, num_steps=200)
    np.testing.assert_allclose(found.exponents, 1, atol=1e-3)
    np.testing.assert_allclose(found.settled[:, 0], -0.5 * found.sizes, rtol=1e-3)
    exponents = adaptation(ClippedSGD(0.1, limit=0.5)).exponents[:, 0]
    np.testing.assert_allclose(exponents[:20], 1, atol=1e-3)
    np.testing.assert_allclose(exponents[-15:], 0, atol=1e-3)


def test_sgd_answers_noise_at_any_step_alike_and_momentum_averages_it():
    found = noise_response(SGD(0.1), [0.0, 2.0], num_steps=20, num_draws=2000)
    assert found.sizes.shape == (20, 2, 1)
    np.testing.assert_allclose(found.sizes[:, 0], 0.1, rtol=0.1)
    np.testing.assert_allclose(found.sizes[:, 1], 0.1 * np.sqrt(5), rtol=0.1)
    np.testing.assert_allclose(found.drifts[:, 1], -0.2, rtol=0.1)
    found = noise_response(MOMENTUM, [0.0], num_steps=60, num_draws=2000)
    # The variances of all gradients add up: 1 / (1 - 0.9^2) times that of one.
    np.testing.assert_allclose(found.sizes[0, 0], 0.05, rtol=0.1)
    np.testing.assert_allclose(found.sizes[-1, 0], 0.05 / np.sqrt(1 - 0.81), rtol=0.1)
    with pytest.raises(ValueError, match="means must be one or more finite numbers"):
        noise_response(MOMENTUM, [])


def test_each_part_of_a_rule_is_probed():
    parts = [RNNprop((3,), 3, output_stddev=0.5, seed=seed, output_scale=0.1) for seed in range(2)]
    rule = RoutedRule(parts[0], [Route(parts[1], kind="dense")])
    found = adaptation(rule, [0.1, 1.0], num_steps=5)
    assert found.deltas.shape == (5, 2, 2)
    # Parts stand in the order of the rule.
    for column, part in enumerate(parts[::-1]):
        np.testing.assert_allclose(
            found.deltas[..., column], adaptation(part, [0.1, 1.0], 5).deltas[..., 0], rtol=1e-5
        )
    record = made_record(rule)
    assert {name: list(own) for name, own in record.parts.items()} == {
        "dense": [0, 1, 2, 3],
        "other": [4, 5],
    }
    both = impulse_response(rule, record, num_steps=3).deltas
    for name, part in rule.parts.items():
        of_part = impulse_response(part, record.of_part(name), num_steps=3).deltas
        np.testing.assert_allclose(both[..., record.parts[name]], of_part, rtol=1e-4, atol=1e-7)


def test_wrong_arguments_are_named():
    record = made_record(MOMENTUM)
    with pytest.raises(ValueError) as raised:
        impulse_response(MOMENTUM, record, [10], 31, background="recorded")
    assert str(raised.value) == (
        "num_steps must be at most what the record has left after the impulse. Received: "
        "num_steps=31 after step 10 of 40. Record more steps, or give fewer."
    )
    with pytest.raises(ValueError) as raised:
        adaptation(MOMENTUM, [1.0, 0.1])
    assert str(raised.value) == (
        "sizes must be two or more positive, finite numbers, ascending. Received: "
        "sizes=[1.0, 0.1]. Give, say, np.geomspace(1e-6, 1e4, 41)."
    )
