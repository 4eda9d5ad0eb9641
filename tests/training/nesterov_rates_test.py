import re

import numpy as np
import pytest

from l2l_tf.problems import task_seeds
from l2l_tf.rules import CoordinatewiseLSTM, NesterovRNNprop, RNNprop, Route, RoutedRule
from l2l_tf.training import add_nesterov, evaluate
from tests.training.toys import Parabolas

SEEDS = task_seeds(0, "validation", 0, 2)
NUM_STEPS = 3


def _new(seed=0):
    """A rule that has learned nothing, so that what is added to it is all that moves."""
    return RNNprop((1,), beta_1=0.5, seed=seed)


def _walked(rate):
    """Returns x^2 after each of three steps of Nesterov momentum 0.5 from x = 1, f(x) = x^2."""
    x, velocity, losses = 1.0, 0.0, []
    for _ in range(NUM_STEPS):
        velocity = 0.5 * velocity + 2 * x
        x -= rate * (0.5 * velocity + 2 * x)
        losses.append(x**2)
    return losses


def test_the_rule_of_the_rate_that_ends_lowest_is_returned_and_the_old_one_left():
    rule = _new()
    best, losses = add_nesterov(rule, Parabolas(), SEEDS, NUM_STEPS, [0, 0.9, 0.2])
    assert losses == pytest.approx({0: 1, 0.9: _walked(0.9)[-1], 0.2: _walked(0.2)[-1]}, rel=1e-4)
    assert min(losses, key=losses.get) == 0.2
    assert type(best) is NesterovRNNprop
    assert (best.nesterov_rate, best.damping_power) == (0.2, 2.0)
    assert type(rule) is RNNprop
    kept = evaluate(best, Parabolas(), SEEDS, NUM_STEPS).final_loss
    assert kept == pytest.approx(losses[0.2])


def test_what_the_losses_are_of_can_be_the_mean_over_steps():
    _, losses = add_nesterov(_new(), Parabolas(), SEEDS, NUM_STEPS, [0.2], "mean_loss")
    assert losses == pytest.approx({0.2: np.mean(_walked(0.2))}, rel=1e-4)


def test_all_parts_of_a_routed_rule_get_the_rate_and_the_power():
    rule = RoutedRule(_new(), [Route(_new(1), kind="conv")])
    best, _ = add_nesterov(rule, Parabolas(), SEEDS, NUM_STEPS, [0.2], damping_power=3)
    assert isinstance(best, RoutedRule)
    for part in best.parts.values():
        assert type(part) is NesterovRNNprop
        assert (part.nesterov_rate, part.damping_power) == (0.2, 3)


@pytest.mark.parametrize("curvature", [1.0, np.nan], ids=["zero_is_best", "all_diverge"])
def test_the_rule_stays_as_it_is_where_no_rate_is_better(curvature):
    rule = _new()
    best, losses = add_nesterov(rule, Parabolas([curvature]), SEEDS, NUM_STEPS, [0, 5])
    assert best is rule
    assert losses[5] > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"rates": []},
            "rates must hold finite numbers from 0 on. Received: rates=[]. Give, say, "
            "[0, 0.005, 0.01].",
        ),
        (
            {"rates": [-1, 0.1]},
            "rates must hold finite numbers from 0 on. Received: rates=[-1, 0.1]. Give, say, "
            "[0, 0.005, 0.01].",
        ),
        (
            {"metric": "loss"},
            "metric must be one of ['final_loss', 'mean_loss']. Received: metric='loss'. Choose "
            "one of them.",
        ),
    ],
)
def test_what_can_not_be_tried_is_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        add_nesterov(_new(), Parabolas(), SEEDS, NUM_STEPS, **{"rates": [0.1], **arguments})


@pytest.mark.parametrize("rate", [0, 0.1])
def test_a_rule_of_another_kind_or_a_power_out_of_range_is_refused(rate):
    rule = CoordinatewiseLSTM((1,), seed=0)
    with pytest.raises(TypeError, match=r"^rule must be an RNNprop, to which Nesterov momentum"):
        add_nesterov(rule, Parabolas(), SEEDS, NUM_STEPS, [rate])
    with pytest.raises(ValueError, match=r"^damping_power must be 0 or a finite number from 1 on"):
        add_nesterov(_new(), Parabolas(), SEEDS, NUM_STEPS, [rate], damping_power=0.5)
