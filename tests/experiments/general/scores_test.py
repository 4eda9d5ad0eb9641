import math

import pytest

from experiments.general import scores
from tests.experiments.general.made_up import made_up_run, tuned_runs

TASKS = ["one", "two"]


def _table():
    runs = [
        *tuned_runs("one", "adam", [8.0, 4.0], test_loss=5.0),
        *tuned_runs("one", "adamw_cosine", [8.0, 2.0], test_loss=4.0),
        *tuned_runs("one", "nag_cosine", [8.0, 3.0], test_loss=8.0),
        *tuned_runs("one", "muon_cosine", [8.0, 1.0], test_loss=16.0),
        made_up_run("one", "mine", None, 0, [2.0, 0.5], test_loss=2.0),
        *tuned_runs("two", "adam", [0.5, 0.1]),
        *tuned_runs("two", "adamw_cosine", [0.5, 0.4]),
        *tuned_runs("two", "nag_cosine", [0.5, 0.2]),
        *tuned_runs("two", "muon_cosine", [0.5, 0.4]),
        made_up_run("two", "mine", None, 0, [0.4, 0.1600]),
    ]
    return scores.results_of(runs, TASKS, num_seeds=1)


def test_ratios_are_those_computed_by_hand():
    table, unfinished = _table()
    assert unfinished == []
    mine = scores.score(table, "mine", lambda result: result.final_loss)
    # .5 / 2 and .16 / .1; .5 / 1 and .16 / .1; .5 / 1 and .16 / .4.
    assert mine.num_tasks == 2
    assert mine.to_first_three == pytest.approx(math.sqrt(0.25 * 1.6))
    assert mine.to_best == pytest.approx(math.sqrt(0.5 * 1.6))
    assert mine.to_muon == pytest.approx(math.sqrt(0.5 * 0.4))
    assert (mine.worst, mine.worst_task) == (pytest.approx(1.6), "two")
    adam = scores.score(table, "adam", lambda result: result.final_loss)
    assert adam.to_first_three == pytest.approx(math.sqrt(2 * 1))
    tested = scores.score(table, "mine", lambda result: result.test_loss)
    # 2 / 4 and 1 / 1; 2 / 16 and 1 / 1.
    assert tested.to_first_three == pytest.approx(math.sqrt(0.5))
    assert tested.to_muon == pytest.approx(math.sqrt(1 / 8))


def test_steps_to_the_final_loss_of_others_are_a_share_of_the_horizon():
    table, _ = _table()
    # On "one", 2 is reached at the first of two steps; on "two", .1 is not.
    assert scores.share_of_steps(table, "mine") == (pytest.approx((0.5 + 1) / 2), 1, 2)
    assert scores.share_of_steps(table, "adam") == (pytest.approx((1 + 1) / 2), 1, 2)


def test_a_diverged_seed_makes_a_loss_infinite_and_is_counted():
    runs = [
        made_up_run("one", "mine", None, 0, [2.0, 1.0]),
        made_up_run("one", "mine", None, 1, [2.0, math.inf], test_loss=math.inf),
        *(run for name in scores.FIRST_THREE for run in tuned_runs("one", name, [2.0], 1.0, 2)),
    ]
    table, _ = scores.results_of(runs, ["one"], num_seeds=2)
    mine = table["one"]["mine"]
    assert (mine.final_loss, mine.test_loss, mine.num_diverged) == (math.inf, math.inf, 1)
    assert mine.curve == ([1, 2], [2.0, math.inf])
    assert scores.score(table, "mine", lambda result: result.final_loss).worst == math.inf
    assert scores.share_of_steps(table, "mine") == (0.5, 1, 1)


def test_means_are_over_seeds():
    runs = [made_up_run("one", "mine", None, seed, [4.0, 1.0 + seed]) for seed in range(3)]
    table, _ = scores.results_of(runs, ["one"], num_seeds=3)
    assert table["one"]["mine"].final_loss == 2.0
    assert table["one"]["mine"].curve == ([1, 2], [4.0, 2.0])
    assert table["one"]["mine"].test_metric is None


def test_what_is_not_complete_is_left_out_and_named():
    complete = tuned_runs("one", "adam", [2.0], num_seeds=2)
    table, unfinished = scores.results_of(
        [
            *complete,
            *tuned_runs("one", "nag_cosine", [2.0]),
            *tuned_runs("two", "adam", [2.0], num_seeds=2)[1:],
            made_up_run("three", "adam", None, 0, [1.0]),
        ],
        TASKS,
        num_seeds=2,
    )
    assert {task: list(results) for task, results in table.items()} == {"one": ["adam"]}
    assert unfinished == [("one", "nag_cosine"), ("two", "adam")]
    alone = scores.score(table, "adam", lambda result: result.final_loss)
    assert alone.num_tasks == 0
    assert math.isnan(alone.to_first_three)


def test_a_finite_loss_over_an_infinite_one_is_no_number():
    assert math.isnan(scores.ratio(1.0, math.inf))
    assert scores.ratio(math.inf, math.inf) == math.inf
    assert scores.ratio(1.0, 2.0) == 0.5
