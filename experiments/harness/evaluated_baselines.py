"""The baselines' runs on fresh tasks: run now, or read from the file of an earlier evaluation."""

import math
from collections.abc import Collection
from typing import Any

from experiments.harness.json_lines import add_line, check_lines_file, identity, read_lines
from experiments.harness.path_flags import define_path
from experiments.harness.revision import find_commit
from experiments.harness.tuned_rates import chosen_baselines, with_momenta
from l2l_tf.problems import Problem
from l2l_tf.reporting import Row

define_path(
    "evaluated_baselines",
    None,
    "JSON Lines file of the baselines' losses on fresh tasks. Baselines in the file are not run "
    "again (and have no pictures); others are run and added to it. This lets an interrupted "
    "evaluation resume, and further rules be compared at little cost.",
)

_MEANS_AND_COUNTS = (
    *("rule", "learned", "learning_rate", "diverged", "num_runs"),
    *("final_loss", "final_loss_stderr", "mean_loss"),
)


def known_rows() -> list[dict[str, Any]]:
    """Returns the rows in the file that `--evaluated_baselines` names.

    Raises:
        ValueError: it holds something other than evaluations of baselines.
    """
    return read_lines("evaluated_baselines", "baselines' losses", _row)


def check_rows(problem: Problem, num_tasks: int, names: Collection[str] | None = None) -> None:
    """Checks that the file can be written if it lacks a row of a baseline.

    Args:
        problem: the problem that baselines are evaluated on.
        num_tasks: the number of tasks.
        names: the baselines. By default, those that flags choose, with any one of their momenta,
            since the best is not known before they are tuned.

    Raises:
        ValueError: the file can't be written, or holds something else.
    """
    what = identity(problem, num_tasks)
    known = {one["row"]["rule"] for one in known_rows() if what.items() <= one.items()}
    wanted = (
        [[name] for name in names] if names is not None else map(with_momenta, chosen_baselines())
    )
    if not all(known.intersection(one) for one in wanted):
        check_lines_file("evaluated_baselines")


def find_row(
    known: list[dict[str, Any]], name: str, rate: float, what: dict[str, Any]
) -> Row | None:
    """Returns a baseline's row among known ones, with the commit that ran it, or None.

    Args:
        known: the result of `known_rows`.
        name: the baseline's name.
        rate: its learning rate.
        what: which tasks it ran on, in the form of `identity`.
    """
    # The latest first: only the latest may have everything that is measured today.
    for entry in reversed(known):
        row = entry["row"]
        if (row["rule"], row["learning_rate"]) == (name, rate) and what.items() <= entry.items():
            return _row(entry)
    return None


def add_row(row: Row, what: dict[str, Any]) -> None:
    """Adds a baseline's row to the file, if a file is named."""
    kept = {key: value for key, value in row.items() if key != "tuning"}
    add_line("evaluated_baselines", {**what, "commit": find_commit() or "unknown", "row": kept})


def _row(entry: dict[str, Any]) -> Row:
    """Returns an entry's row; numbers that are not finite, null in JSON, are restored."""
    row = {**entry["row"], "commit": entry["commit"]}
    for key in _MEANS_AND_COUNTS:
        row[key]  # These must be present.
    for key in ("final_losses", "curve"):
        row[key] = [math.inf if loss is None else float(loss) for loss in row[key]]
    # If a run has diverged, all its losses are infinite, and so is everything measured of its
    # pictures.
    not_finite = {"final_loss_stderr": math.nan}
    return {
        key: not_finite.get(key, math.inf) if value is None else value for key, value in row.items()
    }
