import functools
import re
from typing import ClassVar

import numpy as np
import pytest

from l2l_tf.evaluation.evaluation import evaluate
from l2l_tf.evaluation.tuning import DEFAULT_LEARNING_RATES, tune, tune_by_halving, tune_from
from l2l_tf.problems import Quadratic, task_seeds
from l2l_tf.rules import BASELINES, SGD
from tests.training.toys import NoisyBowls, NormalizedGradient, Parabolas

SEEDS = task_seeds(0, "tuning", 0, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("sgd", Quadratic("gaussian", 2, 3)),
        ("nag", NoisyBowls()),
        ("adam", NoisyBowls()),
        ("normalized", NoisyBowls()),
    ],
    ids=["sgd", "nag", "adam", "normalized"],
)
@pytest.mark.filterwarnings("ignore:The best learning rate:UserWarning")
def test_rates_tried_side_by_side_give_what_each_gives_alone(name, problem):
    make_rule = {**BASELINES, "normalized": NormalizedGradient}[name]
    rates = (0.003, 0.03, 0.3)
    tuning = tune(make_rule, problem, SEEDS, 6, rates)
    alone = [evaluate(make_rule(rate), problem, SEEDS, 6).final_loss for rate in rates]
    assert tuning.candidates == rates
    # The same float32 operations, but for fused vector instructions.
    np.testing.assert_allclose(tuning.losses, alone, rtol=1e-5)
    assert tuning.best == rates[np.argmin(alone)]
    assert len(set(tuning.losses)) == 3


def test_the_best_rate_for_a_parabola_is_the_one_that_reaches_its_minimum():
    # x_t = (1 - 2 r)^t, whatever the order of the rates and how often one is given.
    tuning = tune(SGD, Parabolas(), SEEDS, 3, [0.9, 0.5, 0.1, 0.7, 0.5, 0.3])
    assert tuning.best == 0.5
    assert tuning.candidates == (0.1, 0.3, 0.5, 0.7, 0.9)
    # float32 rates are off by 1e-8, a factor of up to 1 - 2r by 1e-7 of its largest.
    expected = (1 - 2 * np.array(tuning.candidates)) ** 6
    np.testing.assert_allclose(tuning.losses, expected, rtol=1e-5)
    assert not tuning.is_at_edge


def test_a_rate_at_which_one_run_diverges_is_worse_than_any_other():
    # At rate 1e10 the first task, of slope zero, stays at loss 0 while the others overflow.
    tuning = tune(SGD, Parabolas([0.0, 1.0, 1.0]), SEEDS, 6, [0.01, 0.3, 1e10])
    assert tuning.losses[2] == np.inf
    assert np.isfinite(tuning.losses[:2]).all()
    assert tuning.best == 0.3
    assert not tuning.is_at_edge


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        (
            (0.1, 0.2, 0.3),
            "The best learning rate, 0.3, is at the edge of the 3 rates tried, 0.1 to 0.3; a "
            "better one may lie beyond.",
        ),
        (
            (0.6, 0.7),
            "The best learning rate, 0.6, is at the edge of the 2 rates tried, 0.6 to 0.7; a "
            "better one may lie beyond.",
        ),
    ],
)
def test_a_best_rate_at_the_edge_of_those_tried_is_told(rates, message):
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$") as caught:
        tuning = tune(SGD, Parabolas(), SEEDS, 3, rates)
    assert tuning.is_at_edge
    # It points at the call of `tune`.
    assert caught[0].filename == __file__


# Successive halving


def test_halving_runs_only_the_best_rates_to_the_end_and_their_neighbours():
    rates = (0.01, 0.03, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 0.9)
    tuning = tune_by_halving(SGD, Parabolas(), SEEDS, 18, rates)
    assert tuning.best == 0.45
    assert tuning.candidates == rates
    # x_t = (1 - 2 r)^t. After 2 steps three are left, after 6 the best, and then its neighbours.
    assert tuning.num_steps == (2, 2, 2, 2, 18, 18, 18, 2, 2)
    expected = (1 - 2 * np.array(rates)) ** (2 * np.array(tuning.num_steps))
    np.testing.assert_allclose(tuning.losses, expected, rtol=1e-4)


def test_halving_finds_a_rate_that_is_best_at_the_end_although_it_is_among_the_worst_before():
    # Up to step 4 the highest rate is best; after it that explodes, and .02 is best.
    problem = Parabolas([20.0], first_step=5)
    rates = (0.0125, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3)
    tuning = tune_by_halving(SGD, problem, SEEDS, 18, rates)
    assert tuning.best == tune(SGD, problem, SEEDS, 18, rates).best == 0.02
    # All on the way from the early best were run to the end, and the neighbour beyond.
    assert tuning.num_steps == (18,) * 7


def test_halving_goes_on_with_other_rates_where_all_that_are_left_diverge():
    # From step 5 on, rates above 1e-20 diverge.
    problem = Parabolas([1e20], first_step=5)
    rates = (1e-22, 1e-21, 0.1, 0.2, 0.3, 0.4, 0.45)
    tuning = tune_by_halving(SGD, problem, SEEDS, 18, rates)
    assert tuning.best == 1e-21
    assert not np.isfinite(tuning.losses[2:]).any()


@pytest.mark.parametrize(
    "search", [tune, tune_by_halving, functools.partial(tune_from, first_rate=0.2)]
)
def test_where_every_rate_diverges_there_is_no_tuning(search):
    with pytest.raises(ValueError) as raised:
        search(SGD, Parabolas([np.nan]), SEEDS, 9, learning_rates=(0.1, 0.2, 0.3))
    assert str(raised.value) == (
        "learning_rates must hold a rate at which no run diverges. "
        "Received: learning_rates=(0.1, 0.2, 0.3). Try lower ones."
    )


def test_halving_tells_of_a_best_rate_at_the_edge_too():
    with pytest.warns(
        UserWarning, match=r"^The best learning rate, 0\.3, is at the edge "
    ) as caught:
        tuning = tune_by_halving(SGD, Parabolas(), SEEDS, 9, (0.1, 0.2, 0.3))
    assert tuning.is_at_edge
    assert caught[0].filename == __file__


# From a likely rate


@pytest.mark.parametrize(
    ("first_rate", "tried"),
    [
        (0.1, (0.03, 0.1, 0.2, 0.3, 0.45, 0.6)),
        (0.44, (0.3, 0.45, 0.6)),
        (1.0, (0.3, 0.45, 0.6, 0.8, 0.9)),
    ],
)
def test_a_search_from_a_likely_rate_runs_those_on_its_way_to_the_best(first_rate, tried):
    rates = (0.01, 0.03, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 0.9)
    tuning = tune_from(SGD, Parabolas(), SEEDS, 18, first_rate, rates)
    assert tuning.best == 0.45
    assert tuning.candidates == tried
    assert tuning.num_steps == (18,) * len(tried)
    expected = (1 - 2 * np.array(tried)) ** (2 * 18)
    np.testing.assert_allclose(tuning.losses, expected, rtol=1e-4)
    assert not tuning.is_at_edge


def test_a_search_from_a_likely_rate_goes_down_to_where_none_diverges():
    rates = (1e-22, 1e-21, 0.1, 0.2, 0.3)
    tuning = tune_from(SGD, Parabolas([1e20], first_step=5), SEEDS, 18, 0.2, rates)
    assert tuning.best == 1e-21
    assert tuning.candidates == (1e-22, 1e-21, 0.1, 0.2)


def test_a_search_from_a_likely_rate_tells_of_a_best_one_at_the_edge():
    with pytest.warns(
        UserWarning, match=r"^The best learning rate, 0\.3, is at the edge "
    ) as caught:
        tune_from(SGD, Parabolas(), SEEDS, 9, 0.2, (0.1, 0.2, 0.3))
    assert caught[0].filename == __file__


@pytest.mark.parametrize("first_rate", [0.0, -1.0, float("inf"), float("nan")])
def test_a_search_from_a_rate_that_is_none_is_refused(first_rate):
    with pytest.raises(ValueError, match=r"^first_rate must"):
        tune_from(SGD, Parabolas(), SEEDS, 9, first_rate, (0.1, 0.2, 0.3))


def test_the_default_rates_are_quarter_decades_from_a_millionth_to_ten():
    assert len(DEFAULT_LEARNING_RATES) == 29
    # Rounded to four digits: off by up to half of one in 1000.
    np.testing.assert_allclose(DEFAULT_LEARNING_RATES, np.geomspace(1e-6, 10, 29), rtol=5e-4)
    # Every decade is met exactly.
    assert {1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1.0, 10.0} <= set(DEFAULT_LEARNING_RATES)


@pytest.mark.parametrize(
    ("rates", "shown"),
    [
        ([], "()"),
        ([0.1], "(0.1,)"),
        ([0.1, 0.1], "(0.1, 0.1)"),
        ([0.1, 0.0], "(0.1, 0.0)"),
        ([-0.1, 0.1], "(-0.1, 0.1)"),
        ([0.1, float("nan")], "(0.1, nan)"),
        ([0.1, float("inf")], "(0.1, inf)"),
    ],
)
def test_rates_that_are_no_grid_are_refused(rates, shown):
    with pytest.raises(ValueError) as raised:
        tune(SGD, Parabolas(), SEEDS, 3, rates)
    assert str(raised.value) == (
        "learning_rates must hold two or more different positive numbers. "
        f"Received: learning_rates={shown}. Give a grid, say in half decades."
    )


def test_rates_that_all_diverge_are_refused():
    with pytest.raises(ValueError) as raised:
        tune(SGD, Parabolas(), SEEDS, 6, [1e9, 1e8])
    assert str(raised.value) == (
        "learning_rates must hold a rate at which no run diverges. "
        "Received: learning_rates=(100000000.0, 1000000000.0). Try lower ones."
    )


class _Counting(SGD):
    """SGD that writes down for how many coordinates it is called."""

    num_coordinates: ClassVar[list[int]] = []

    def __call__(self, gradient, state):
        self.num_coordinates.append(gradient.shape[0])
        return super().__call__(gradient, state)


def test_all_rates_are_run_in_one_call_of_the_rule_for_each_step():
    _Counting.num_coordinates.clear()
    tune(_Counting, Parabolas(), SEEDS, 3, [0.1, 0.4, 0.6, 0.7])
    # One trace, of four rates on three tasks of one coordinate.
    assert _Counting.num_coordinates == [4 * 3]


@pytest.mark.parametrize(
    ("max_coordinates", "at_once"), [(12, 12), (11, 6), (5, 4), (3, 3), (1, 1)]
)
def test_rates_run_in_groups_of_bounded_size_give_the_same(max_coordinates, at_once):
    # Twelve runs of one coordinate. Groups of five are three, of which the last would be of two:
    # three of four are as many.
    rates = [0.1, 0.4, 0.6, 2.0]
    problem = Parabolas([1.0, 0.3, 0.7])
    together = tune(SGD, problem, SEEDS, 3, rates)
    _Counting.num_coordinates.clear()
    in_groups = tune(_Counting, problem, SEEDS, 3, rates, max_coordinates)
    assert in_groups == together
    assert _Counting.num_coordinates == [at_once]


def test_a_rule_of_whole_tensors_is_run_at_all_rates_in_one_call_too():
    made = []

    def make_rule(learning_rate):
        made.append(NormalizedGradient(learning_rate))
        return made[-1]

    # From 1, in steps of one length towards zero.
    rates = [0.1, 0.3, 0.45, 0.7]
    tuning = tune(make_rule, Parabolas(), SEEDS, 3, rates)
    expected = []
    for rate in rates:
        x = 1.0
        for _ in range(3):
            x -= rate * np.sign(x)
        expected.append(x**2)
    np.testing.assert_allclose(tuning.losses, expected, rtol=1e-4, atol=1e-6)
    assert tuning.best == 0.3
    assert [rule.num_calls for rule in made] == [1]
