"""The baselines' runs on fresh tasks: done, or taken from the file of an earlier evaluation."""

import math
from typing import Any

from experiments.harness.json_lines import add_line, check_lines_file, identity, read_lines
from experiments.harness.path_flags import define_path
from experiments.harness.revision import find_commit
from experiments.harness.tuned_rates import chosen_baselines
from l2l_tf.problems import Problem
from l2l_tf.reporting import Row

define_path(
    "evaluated_baselines",
    None,
    "JSON Lines file of baselines' losses on fresh tasks: those that it holds are not run again "
    "(and have no pictures), others are added to it. So an evaluation that was stopped goes on, "
    "and further rules are compared at little cost.",
)

_MEANS_AND_COUNTS = (
    *("rule", "learned", "learning_rate", "diverged", "num_runs"),
    *("final_loss", "final_loss_stderr", "mean_loss"),
)


def known_rows() -> list[dict[str, Any]]:
    """Returns what the file holds that `--evaluated_baselines` names.

    Raises:
        ValueError: it holds something else than evaluations of baselines.
    """
    return read_lines("evaluated_baselines", "baselines' losses", _row)


def check_rows(problem: Problem, num_tasks: int) -> None:
    """Makes sure that the file can be written, if it lacks a row of a chosen baseline.

    Args:
        problem: what baselines are evaluated on.
        num_tasks: on how many tasks.

    Raises:
        ValueError: it can't be written, or holds something else.
    """
    what = identity(problem, num_tasks)
    known = {one["row"]["rule"] for one in known_rows() if what.items() <= one.items()}
    if not known >= set(chosen_baselines()):
        check_lines_file("evaluated_baselines")


def find_row(
    known: list[dict[str, Any]], name: str, rate: float, what: dict[str, Any]
) -> Row | None:
    """Returns the row of a baseline among known ones, with the commit that ran it, or None.

    Args:
        known: what `known_rows` returns.
        name: the baseline's name.
        rate: its learning rate.
        what: which tasks it ran on, as `identity` says.
    """
    # The latest first: only that may have all that is measured today.
    for entry in reversed(known):
        row = entry["row"]
        if (row["rule"], row["learning_rate"]) == (name, rate) and what.items() <= entry.items():
            return _row(entry)
    return None


def add_row(row: Row, what: dict[str, Any]) -> None:
    """Adds a baseline's row to the file, if there is to be one."""
    kept = {key: value for key, value in row.items() if key != "tuning"}
    add_line("evaluated_baselines", {**what, "commit": find_commit() or "unknown", "row": kept})


def _row(entry: dict[str, Any]) -> Row:
    """Returns an entry's row, with the numbers that are not finite, for which JSON has null."""
    row = {**entry["row"], "commit": entry["commit"]}
    for key in _MEANS_AND_COUNTS:
        row[key]  # Must be there.
    for key in ("final_losses", "curve"):
        row[key] = [math.inf if loss is None else float(loss) for loss in row[key]]
    # Of a run that has diverged, all losses are infinite, and so is what is measured of pictures.
    not_finite = {"final_loss_stderr": math.nan}
    return {
        key: not_finite.get(key, math.inf) if value is None else value for key, value in row.items()
    }
