import re

import numpy as np
import pytest

from l2l_tf.problems import task_seeds
from l2l_tf.rules import CoordinatewiseLSTM, RNNprop, Route, RoutedRule
from l2l_tf.training import evaluate, tune_deltas
from tests.training.toys import LinearRule, Parabolas

SEEDS = task_seeds(0, "validation", 0, 2)
NUM_STEPS = 4


def _walker(kind=CoordinatewiseLSTM):
    """A rule whose every delta is -0.05, or nearly so, whatever the gradient."""
    rule = kind((1,), output_scale=0.05, seed=0)
    rule.set_weights([np.zeros(weight.shape) for weight in rule.weights])
    by_name = {weight.name: weight for weight in rule.weights}
    by_name["output_bias"].assign([-1.0 if kind is CoordinatewiseLSTM else -10.0])
    return rule


@pytest.mark.parametrize("kind", [CoordinatewiseLSTM, RNNprop])
def test_the_factor_is_kept_with_which_four_steps_end_in_the_minimum(kind):
    rule = _walker(kind)
    # From 1 to 1 - 0.2 k.
    losses = tune_deltas(rule, Parabolas(), SEEDS, NUM_STEPS, [10, 5, 1])
    assert list(losses) == [10, 5, 1]
    assert list(losses.values()) == pytest.approx([1, 0, 0.64], abs=1e-5)
    assert rule.output_scale == 0.25
    kept = evaluate(rule, Parabolas(), SEEDS, NUM_STEPS).final_loss
    assert kept == pytest.approx(0, abs=1e-5)


def test_what_the_losses_are_of_can_be_the_mean_over_steps():
    rule = _walker()
    losses = tune_deltas(rule, Parabolas(), SEEDS, NUM_STEPS, [5, 6], "mean_loss")
    # 1 - 0.3 t is .7, .4, .1, -.2; 1 - 0.25 t ends at 0, but is later near it.
    expected = [(0.75**2 + 0.5**2 + 0.25**2) / 4, (0.7**2 + 0.4**2 + 0.1**2 + 0.2**2) / 4]
    assert list(losses.values()) == pytest.approx(expected)
    assert rule.output_scale == 0.3


def test_all_parts_of_a_routed_rule_get_the_factor():
    rule = RoutedRule(_walker(), [Route(_walker(), kind="conv")])
    tune_deltas(rule, Parabolas(), SEEDS, NUM_STEPS, [1, 3])
    # Not 0.15000000000000002: who goes on with it writes --output_scale=0.15.
    assert [part.output_scale for part in rule.parts.values()] == [0.15, 0.15]


def test_a_rule_that_diverges_with_each_factor_stays_as_it_is():
    rule = _walker()
    problem = Parabolas([np.nan])
    assert tune_deltas(rule, problem, SEEDS, NUM_STEPS, [1, 3]) == {1: np.inf, 3: np.inf}
    assert rule.output_scale == 0.05


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"factors": []},
            "factors must hold positive, finite numbers. Received: factors=[]. Give, say, "
            "[1, 2, 4].",
        ),
        (
            {"factors": [1, -2]},
            "factors must hold positive, finite numbers. Received: factors=[1, -2]. Give, say, "
            "[1, 2, 4].",
        ),
        (
            {"metric": "loss"},
            "metric must be one of ['final_loss', 'mean_loss']. Received: metric='loss'. Choose "
            "one of them.",
        ),
    ],
)
def test_what_can_not_be_tried_is_refused(arguments, message):
    rule = _walker()
    with pytest.raises(ValueError, match=re.escape(message)):
        tune_deltas(rule, Parabolas(), SEEDS, NUM_STEPS, **{"factors": [1.0], **arguments})
    assert rule.output_scale == 0.05


def test_a_rule_whose_deltas_can_not_be_scaled_is_refused():
    rule = RoutedRule(_walker(), [Route(LinearRule(), kind="conv")])
    with pytest.raises(TypeError, match=r"^rule must be a learned rule whose deltas can be scaled"):
        tune_deltas(rule, Parabolas(), SEEDS, NUM_STEPS, [1.0])
