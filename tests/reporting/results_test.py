import json
import math

import numpy as np
import pytest

from l2l_tf.evaluation.evaluation import Evaluation
from l2l_tf.evaluation.tuning import Tuning
from l2l_tf.files import write_json
from l2l_tf.reporting.results import (
    compare_with_baselines,
    format_table,
    result_row,
)

# Three iterates of two runs: the numbers below are worked out by hand.
LOSSES = np.array([[4.0, 2.0], [2.0, 1.0], [1.0, 0.0]])
TUNING = Tuning(0.1, (0.01, 0.1, 1.0), (3.0, 2.0, math.inf))
INF, NAN = math.inf, math.nan


def _row(rule: str, curve: list[float], learned: bool = False) -> dict:
    last = curve[-1]
    return {
        "rule": rule,
        "learned": learned,
        "curve": curve,
        "final_loss": last,
        "final_losses": [last, last],
    }


# Rows


def test_a_row_of_a_learned_rule_holds_the_means_over_its_runs():
    row = result_row("mine", Evaluation(LOSSES), learned=True)
    assert row == {
        "rule": "mine",
        "learned": True,
        "learning_rate": None,
        "final_loss": 0.5,
        # Final losses 1 and 0: a standard deviation of sqrt(1/2) over sqrt(2) runs.
        "final_loss_stderr": pytest.approx(0.5, rel=1e-15),
        "mean_loss": 1.0,
        "diverged": 0,
        "num_runs": 2,
        "final_losses": [1.0, 0.0],
        "curve": [3.0, 1.5, 0.5],
    }


def test_a_row_holds_losses_to_the_digits_that_float32_has():
    row = result_row("mine", Evaluation(np.float64(np.float32([[0.1], [INF]]))))
    assert row["curve"] == [0.1, INF]
    assert row["final_losses"] == [INF]


def test_a_row_of_a_tuned_rule_holds_its_rate_and_the_search_for_it():
    row = result_row("sgd", Evaluation(LOSSES), TUNING)
    assert row["learned"] is False
    assert row["learning_rate"] == 0.1
    assert row["tuning"] == {
        "learning_rates": [0.01, 0.1, 1.0],
        "final_losses": [3.0, 2.0, INF],
        "is_at_edge": False,
    }


def test_a_row_says_how_far_each_rate_of_a_search_was_run():
    tuning = Tuning(0.1, (0.01, 0.1, 1.0), (3.0, 2.0, 5.0), (4, 12, 12))
    assert result_row("sgd", Evaluation(LOSSES), tuning)["tuning"]["num_steps"] == [4, 12, 12]


def test_a_row_says_that_the_best_rate_was_the_last_one_tried():
    tuning = Tuning(1.0, (0.01, 0.1, 1.0), (3.0, 2.0, 1.0))
    assert result_row("sgd", Evaluation(LOSSES), tuning)["tuning"]["is_at_edge"] is True


def test_a_row_of_a_rule_with_a_diverged_run_has_an_infinite_loss():
    losses = np.array([[4.0, 2.0], [2.0, INF], [1.0, INF]])
    row = result_row("sgd", Evaluation(losses), TUNING)
    assert row["diverged"] == 1
    assert row["num_runs"] == 2
    assert row["final_loss"] == row["mean_loss"] == INF
    assert math.isnan(row["final_loss_stderr"])
    assert row["curve"] == [3.0, INF, INF]


def test_the_final_loss_of_minibatches_is_a_mean_over_the_last_ones():
    row = result_row("mine", Evaluation(LOSSES, num_final=2))
    assert row["final_loss"] == 1.0
    # Final losses 1.5 and 0.5.
    assert row["final_loss_stderr"] == pytest.approx(0.5, rel=1e-15)


def test_a_row_is_plain_enough_for_json():
    row = result_row("sgd", Evaluation(LOSSES), TUNING)
    assert json.loads(json.dumps(row)) == row


# Comparison


def test_the_best_learned_rule_is_compared_with_the_best_baseline():
    rows = [
        _row("worse", [4.0, 2.0, 1.9], learned=True),
        _row("mine", [4.0, 2.1, 1.9, 0.5], learned=True),
        _row("sgd", [4.0, 3.0, 2.5, 2.5]),
        _row("adam", [4.0, 3.0, 2.5, 2.0]),
    ]
    assert compare_with_baselines(rows) == {
        "best_baseline": "adam",
        "ratio_to_best_baseline": 0.25,
        "ratio_to_best_baseline_stderr": 0.0,
        "steps_to_best_baseline": 2,
    }


def test_a_loss_equal_to_the_best_baselines_has_reached_it():
    rows = [_row("mine", [4.0, 2.0, 3.0], learned=True), _row("adam", [4.0, 3.0, 2.0])]
    assert compare_with_baselines(rows)["steps_to_best_baseline"] == 1


def test_a_learned_rule_that_never_reaches_the_best_baseline_has_no_number_of_steps():
    rows = [_row("mine", [4.0, 3.0], learned=True), _row("adam", [4.0, 2.0])]
    assert compare_with_baselines(rows) == {
        "best_baseline": "adam",
        "ratio_to_best_baseline": 1.5,
        "ratio_to_best_baseline_stderr": 0.0,
        "steps_to_best_baseline": None,
    }


def test_what_a_rule_was_before_its_training_does_not_count():
    rows = [
        {**_row("mine, untrained", [4.0, 1.0], learned=True), "untrained": True},
        _row("mine", [4.0, 3.0], learned=True),
        _row("adam", [4.0, 2.0]),
    ]
    assert compare_with_baselines(rows)["ratio_to_best_baseline"] == 1.5


@pytest.mark.parametrize("learned", [[], [True], [False], [True, True], [False, False]])
def test_there_is_no_comparison_without_both_kinds(learned):
    rows = [_row(str(index), [2.0, 1.0], kind) for index, kind in enumerate(learned)]
    assert compare_with_baselines(rows) == {
        "best_baseline": None,
        "ratio_to_best_baseline": None,
        "ratio_to_best_baseline_stderr": None,
        "steps_to_best_baseline": None,
    }


@pytest.mark.parametrize("final_loss", [0.0, INF])
def test_there_is_no_ratio_to_a_loss_of_zero_or_infinity(final_loss):
    rows = [_row("mine", [4.0, 3.0], learned=True), _row("adam", [4.0, final_loss])]
    comparison = compare_with_baselines(rows)
    assert comparison["best_baseline"] == "adam"
    assert comparison["ratio_to_best_baseline"] is None
    assert comparison["ratio_to_best_baseline_stderr"] is None


def test_the_error_of_the_ratio_is_of_differences_on_the_same_runs():
    mine, adam = np.array([1.0, 2.0, 6.0]), np.array([2.0, 4.0, 10.0])
    rows = [
        result_row("mine", Evaluation(np.array([adam, mine])), learned=True),
        result_row("adam", Evaluation(np.array([mine, adam]))),
    ]
    comparison = compare_with_baselines(rows)
    assert comparison["ratio_to_best_baseline"] == 9 / 16
    # Residuals 1 - 18/16, 2 - 36/16, 6 - 90/16: -1/8, -1/4, 3/8, whose squares sum to 7/32.
    expected = math.sqrt(7 / 32 / 2 / 3) / (16 / 3)
    assert comparison["ratio_to_best_baseline_stderr"] == pytest.approx(expected, rel=1e-12)


def test_the_ratio_of_a_single_run_has_no_error():
    rows = [
        result_row("mine", Evaluation(np.array([[2.0], [1.0]])), learned=True),
        result_row("adam", Evaluation(np.array([[2.0], [2.0]]))),
    ]
    assert compare_with_baselines(rows)["ratio_to_best_baseline_stderr"] is None


def test_a_learned_rule_that_diverged_is_infinitely_worse():
    rows = [_row("mine", [4.0, INF], learned=True), _row("adam", [4.0, 2.0])]
    comparison = compare_with_baselines(rows)
    assert comparison["ratio_to_best_baseline"] == INF
    assert comparison["ratio_to_best_baseline_stderr"] is None
    assert comparison["steps_to_best_baseline"] is None


# Files


def test_numbers_that_are_not_finite_are_written_as_null(tmp_path):
    def refuse(constant):
        raise AssertionError(constant)

    losses = np.array([[4.0, 2.0], [INF, 1.0], [INF, 0.0]])
    write_json(
        tmp_path / "results.json",
        {"rows": [result_row("sgd", Evaluation(losses), TUNING)], "ratio": -INF, "pair": (NAN, 1)},
    )
    read = json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)
    assert (read["ratio"], read["pair"]) == (None, [None, 1])
    (row,) = read["rows"]
    assert row["curve"] == [3.0, None, None]
    assert row["final_loss"] is row["final_loss_stderr"] is row["mean_loss"] is None
    assert row["tuning"]["final_losses"] == [3.0, 2.0, None]
    assert (row["diverged"], row["num_runs"], row["learned"]) == (1, 2, False)


# The table

TABLE = """\
rule            learning rate  final loss  std. error  mean loss  diverged
--------------  -------------  ----------  ----------  ---------  --------
mine (learned)              -         0.5         0.5          1    0 of 2
adam                   0.3162           1         0.5       1.25    0 of 2
sgd                       0.1         inf         nan        inf    1 of 2"""


def test_the_table_shows_rules_from_best_to_worst():
    diverged = np.array([[4.0, 2.0], [2.0, INF], [1.0, INF]])
    slower = np.array([[4.0, 2.0], [2.0, 1.0], [1.5, 0.5]])
    rows = [
        result_row("sgd", Evaluation(diverged), TUNING),
        result_row("adam", Evaluation(slower), Tuning(0.31623, (0.1, 0.31623, 1.0), (3, 2, 4))),
        result_row("mine", Evaluation(LOSSES), learned=True),
    ]
    assert format_table(rows) == TABLE


def test_the_table_shows_test_accuracies_where_rows_have_them():
    row = result_row("mine", Evaluation(LOSSES), learned=True) | {"test_accuracy": 0.61449}
    header, line, values = format_table([row]).splitlines()
    assert header.endswith("  diverged  test accuracy")
    assert line.endswith("  -------------")
    assert values.endswith("    0 of 2          0.614")
