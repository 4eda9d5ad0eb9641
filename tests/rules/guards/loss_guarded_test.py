import json

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.delivery.rule_config import rule_from_config, rule_to_config
from l2l_tf.evaluation import evaluate
from l2l_tf.problems import Quadratic, task_seeds
from l2l_tf.rules import (
    SGD,
    Adam,
    CoordinatewiseLSTM,
    GeneralRule,
    Guarded,
    LossGuarded,
    NAdam,
    Route,
    RoutedRule,
    StepInfo,
    guarded,
)
from tests.rules.guards.toys import VARIABLES, Times, run


def _losses(rule, values, batch_shape=(), jump=1.0):
    """Returns the parameters and the state after each step, for given losses.

    The gradient is one everywhere, so the delta shows which rule has taken the step.
    """
    bound = rule.bind(VARIABLES, batch_shape)
    state = bound.initial_state()
    parameters = tf.zeros([bound.num_coordinates])
    points, states = [], []
    for step, losses in enumerate(values):
        info = StepInfo(tf.constant(step), tf.reshape(losses, [-1]), parameters)
        delta, state = bound(tf.fill([bound.num_coordinates], jump), state, info)
        parameters += delta
        points.append(parameters.numpy())
        states.append(state)
    return np.array(points), states


def _rule(**settings):
    return LossGuarded(Times(-1.0), SGD(0.25), **{"every": 2, "margin": 0.5, **settings})


def test_while_the_loss_falls_the_rule_is_left_alone():
    points, states = _losses(_rule(), [4.0, 4.0, 3.0, 3.0, 2.0, 2.0])
    np.testing.assert_array_equal(points[:, 0], -np.arange(1, 7))
    assert int(states[-1].num_returns) == 0
    assert float(states[-1].least) == 2


def test_within_the_margin_it_goes_on_but_keeps_the_better_parameters():
    points, states = _losses(_rule(), [5.0, 3.0, 5.9, 5.9, 6.1, 6.1])
    # The parameters at which the second loss was taken, those after the first step.
    assert states[3].kept.numpy()[0] == -1
    np.testing.assert_array_equal(points[:5, 0], -np.arange(1, 6))
    assert points[5, 0] == -1
    assert [int(one.num_returns) for one in states] == [0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("bad", [100.0, np.inf, np.nan])
def test_then_the_fallback_takes_over_for_a_while_each_time_longer(bad):
    values = [5.0, 3.0, bad, bad, *[4.0] * 6, bad, bad, *[4.0] * 8]
    points, states = _losses(_rule(), values)
    moves = np.diff(points[:, 0])
    # From step 3 on: back, once more back for the rounding, one step of the fallback, the rule.
    np.testing.assert_allclose(points[3:5, 0], -1)
    np.testing.assert_allclose(moves[4:10], [-0.25, -1, -1, -1, -1, -1])
    np.testing.assert_allclose(points[11:13, 0], -1)
    np.testing.assert_allclose(moves[12:17], [-0.25, -0.25, -0.25, -1, -1])
    assert int(states[-1].num_returns) == 2


def test_it_comes_back_from_very_far():
    values = [5.0, 3.0, 9.0, 9.0, 4.0]
    rule = LossGuarded(Times(-1e6), SGD(0.0), every=2, margin=0.5)
    points, _ = _losses(rule, values, jump=0.7)
    far = points[1:3].max()
    assert far < -1e6
    np.testing.assert_allclose(points[-1], points[0], rtol=1e-6)


def test_both_rules_start_anew():
    _, states = _losses(LossGuarded(Times(-1.0), Adam(0.1), every=2, margin=0.5), [4, 4, 9, 9.0])
    before, after = states[2].rules, states[3].rules
    assert max(np.abs(leaf).max() for leaf in tf.nest.flatten(before)) > 1
    assert max(np.abs(leaf).max() for leaf in tf.nest.flatten(after)) == 0


def test_the_fallback_takes_its_first_steps_again_in_the_entry_that_went_back():
    values = [[1.0, 1.0]] * 30 + [[9.0, 1.0]] + [[1.0, 1.0]] * 3
    rule = LossGuarded(Times(0.0), NAdam(0.1), every=1, margin=0.5, patience=3)
    points, states = _losses(rule, [tf.constant(one) for one in values], (2,))
    np.testing.assert_array_equal(states[-1].num_returns, [1, 0])
    alone, _ = run(NAdam(0.1), [[tf.ones([3, 2]), tf.ones([2])]] * 2)
    # One step back, one more for rounding, then those of a new fallback.
    moves = np.diff(points[:, 0])[-2:]
    np.testing.assert_allclose(moves, [step[0][0, 0] for step in alone], rtol=1e-4)


def test_a_guard_inside_keeps_what_is_left_of_its_budget():
    inside = Guarded(Times(3.0), SGD(0.1), "budget", 0.5, budget=1.0, spending=0.5)
    _, states = _losses(LossGuarded(inside, SGD(0.1), every=2, margin=0.5), [4, 4, 9, 9.0, 4])
    assert int(states[-1].num_returns) == 1
    ledgers = [one.rules[0].ledger for one in states]
    assert float(ledgers[2].budget_left) == 0.125
    assert float(ledgers[4].budget_left) == 0.125
    assert int(ledgers[4].num_steps) == 5


def test_general_inside_keeps_its_persistence():
    bound = LossGuarded(GeneralRule(seed=0), SGD(0.1), every=1, margin=0.5).bind(VARIABLES, (2,))
    state, parameters = bound.initial_state(), tf.ones([bound.num_coordinates])
    for step, losses in enumerate([[4.0, 4.0]] * 4 + [[9.0, 4.0]]):
        info = StepInfo(tf.constant(step), tf.constant(losses), parameters, tf.constant(50))
        _, state = bound(tf.ones([bound.num_coordinates]), state, info)
    np.testing.assert_array_equal(state.num_returns, [1, 0])
    np.testing.assert_array_equal(state.age, [0, 5])
    kernel = state.rules[0].tensors[0]
    assert np.abs(kernel.mean[0]).max() == 0
    assert np.abs(kernel.mean[1]).max() > 0
    assert np.min(kernel.persistence) > 0.3


def test_without_losses_it_says_what_is_missing():
    bound = _rule().bind(VARIABLES)
    with pytest.raises(ValueError) as raised:
        bound(tf.ones([8]), bound.initial_state())
    assert str(raised.value) == (
        "info must tell losses and parameters to a LossGuarded rule. Received: a StepInfo without "
        "losses and parameters. Give them in each call."
    )


@pytest.mark.parametrize("guard", [lambda rule: rule, lambda rule: guarded(rule, SGD(0.1))])
def test_rules_with_parts_are_referred_to_the_callback(guard):
    parts = guard(RoutedRule(CoordinatewiseLSTM((3,)), [Route(CoordinatewiseLSTM((3,)), "dense")]))
    with pytest.raises(TypeError, match=r"Watch the loss of a model by l2l_tf\.LossGuard, which"):
        LossGuarded(parts, SGD(0.1))


def test_a_rule_whose_loss_is_watched_is_not_watched_again():
    with pytest.raises(TypeError, match="rule must have no guard yet"):
        LossGuarded(_rule(), SGD(0.1))


def test_each_batch_entry_is_watched_for_itself():
    values = (
        [tf.constant([5.0, 4.0]), tf.constant([3.0, 4.0])]
        + [tf.constant([9.0, 3.0])] * 2
        + [tf.ones([2])]
    )
    points, states = _losses(_rule(), values, (2,))
    np.testing.assert_array_equal(states[-1].num_returns, [1, 0])
    kernel = points[-1][:12].reshape(2, 6)
    np.testing.assert_array_equal(kernel, [[-1] * 6, [-5] * 6])
    # The state of the entry that has gone on is whole.
    sums = states[3].rules[0][1].numpy()[:12].reshape(2, 6, 2)
    np.testing.assert_array_equal(sums[:, 0, 0], [0, 4])


def test_a_rule_that_diverges_does_not_when_its_loss_is_watched():
    problem, seeds = Quadratic(num_functions=2, num_dimensions=3), task_seeds(0, "test", 0, 2)
    uphill = Times(0.05)
    assert evaluate(uphill, problem, seeds, 150).final_loss > 1e6
    watched = LossGuarded(uphill, SGD(0.05), every=5, margin=0.2)
    losses = evaluate(watched, problem, seeds, 150).losses
    # The rule is tried again now and then, for a few steps.
    assert losses.max() < 100
    assert (losses[-30:].min(axis=0) < 0.5 * losses[0]).all()


def test_its_configuration_makes_it_again():
    rule = LossGuarded(CoordinatewiseLSTM((3,)), Adam(0.1), every=7, patience=3)
    again = rule_from_config(json.loads(json.dumps(rule_to_config(rule))))
    assert (again.every, again.margin, again.patience, again.growth) == (7, 0.1, 3, 2.0)
    assert again.rule.units == rule.rule.units


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 0}, "every must be an integer of at least 1."),
        ({"margin": -0.1}, "margin must be finite and not negative."),
        ({"patience": 0}, "patience must be an integer of at least 1."),
        ({"growth": 0.5}, "growth must be at least 1."),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError) as raised:
        _rule(**settings)
    assert str(raised.value).startswith(message)
