import numpy as np
import pytest

from l2l_tf.evaluation import evaluate, search
from l2l_tf.problems import task_seeds
from l2l_tf.rules import SGD, CoordinatewiseLSTM, RNNprop, Route, RoutedRule
from tests.training.toys import Parabolas

SEEDS = task_seeds(0, "validation", 0, 2)


def _walker(kind=CoordinatewiseLSTM):
    """A rule whose every delta is -0.05, or nearly so, whatever the gradient."""
    rule = kind((1,), output_scale=0.05, seed=0)
    rule.set_weights([np.zeros(weight.shape) for weight in rule.weights])
    by_name = {weight.name: weight for weight in rule.weights}
    by_name["output_bias"].assign([-1.0 if kind is CoordinatewiseLSTM else -10.0])
    return rule


def _walked(rate):
    """Returns x^2 after each of three steps of Nesterov momentum 0.5 from x = 1, f(x) = x^2."""
    x, velocity, losses = 1.0, 0.0, []
    for _ in range(3):
        velocity = 0.5 * velocity + 2 * x
        x -= rate * (0.5 * velocity + 2 * x)
        losses.append(x**2)
    return losses


@pytest.mark.parametrize("kind", [CoordinatewiseLSTM, RNNprop])
def test_the_factor_is_best_with_which_four_steps_end_in_the_minimum(kind):
    rule = _walker(kind)
    # From 1 to 1 - 0.2 k.
    tuning = search(rule.rescaled, Parabolas(), SEEDS, 4, [10, 5, 1])
    assert (tuning.best, tuning.candidates) == (5, (1, 5, 10))
    assert tuning.losses == pytest.approx((0.64, 0, 1), abs=1e-5)
    assert not tuning.has_diverged
    kept = evaluate(rule.rescaled(5), Parabolas(), SEEDS, 4).final_loss
    assert kept == pytest.approx(0, abs=1e-5)
    assert rule.output_scale == 0.05


def test_the_mean_over_steps_can_decide():
    tuning = search(_walker().rescaled, Parabolas(), SEEDS, 4, [5, 6], "mean_loss")
    # 1 - 0.3 t is .7, .4, .1, -.2; 1 - 0.25 t ends at 0, but is later near it.
    expected = [(0.75**2 + 0.5**2 + 0.25**2) / 4, (0.7**2 + 0.4**2 + 0.1**2 + 0.2**2) / 4]
    assert tuning.losses == pytest.approx(expected)
    assert tuning.best == 6


def test_a_rate_of_nesterov_momentum_is_found():
    rates = [0.05, 0.9, 0.2]
    tuning = search(lambda rate: SGD(rate, 0.5, nesterov=True), Parabolas(), SEEDS, 3, rates)
    assert tuning.best == 0.2
    expected = [_walked(rate)[-1] for rate in (0.05, 0.2, 0.9)]
    assert tuning.losses == pytest.approx(expected, rel=1e-4)


def test_a_search_in_which_every_run_diverges_says_so():
    tuning = search(_walker().rescaled, Parabolas([np.nan]), SEEDS, 4, [3, 1])
    assert tuning.has_diverged
    assert tuning.losses == (np.inf, np.inf)


def test_of_equal_candidates_the_lowest_wins():
    assert search(lambda _: SGD(0.1), Parabolas(), SEEDS, 4, [3, 2, 3]).best == 2


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"candidates": []}, "candidates"),
        ({"candidates": [1, np.nan]}, "candidates"),
        ({"metric": "loss"}, "metric"),
    ],
)
def test_what_can_not_be_tried_is_refused(arguments, name):
    with pytest.raises(ValueError, match=f"^{name} must"):
        search(_walker().rescaled, Parabolas(), SEEDS, 4, **{"candidates": [1.0]} | arguments)


def test_a_candidate_that_the_rule_refuses_is_refused_before_any_runs():
    class NeverRun(Parabolas):
        def losses(self, *arguments):
            raise AssertionError("A rule ran.")

    with pytest.raises(ValueError, match=r"^factor must"):
        search(_walker().rescaled, NeverRun(), SEEDS, 4, [1, -2])


# What rules offer to a search


def test_every_part_of_a_routed_rule_is_rescaled():
    rule = RoutedRule(_walker(), [Route(_walker(), kind="conv")])
    # Not 0.15000000000000002: who goes on with it writes --output_scale=0.15.
    parts = rule.rescaled(3).parts.values()
    assert [part.output_scale for part in parts] == [0.15, 0.15]
    assert [part.output_scale for part in rule.parts.values()] == [0.05, 0.05]
