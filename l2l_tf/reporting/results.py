"""Results of an evaluation, as rows of `results.json` and as a table."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from l2l_tf.evaluation.evaluation import Evaluation
from l2l_tf.evaluation.tuning import Tuning

Row = dict[str, Any]
"""The results of one rule, in the form of `results.json`: plain values by name."""

# The comparison of the best learned rule with the best baseline.
COMPARED = (
    "best_baseline",
    "ratio_to_best_baseline",
    "ratio_to_best_baseline_stderr",
    "steps_to_best_baseline",
)
# The number formats of other measurements in tables.
_MEASURED = {"test_accuracy": ".3f", "clipped_loss": ".4g"}


def result_row(
    name: str, evaluation: Evaluation, tuning: Tuning | None = None, learned: bool = False
) -> Row:
    """Returns the entry of one rule in `results.json`.

    Losses are in the problem's unit, averaged over runs. `curve` holds T + 1 of them, before each
    step and after the last. `final_losses` holds the final loss of each run. Both are rounded to
    seven digits. A rule with a diverged run has an infinite loss.

    Args:
        name: the rule's name.
        evaluation: the rule's evaluation.
        tuning: the search for its learning rate, if there was one.
        learned: whether it is a learned rule.
    """
    row: Row = {
        "rule": name,
        "learned": learned,
        "learning_rate": None if tuning is None else tuning.best,
        "final_loss": evaluation.final_loss,
        "final_loss_stderr": evaluation.final_loss_stderr,
        "mean_loss": evaluation.mean_loss,
        "diverged": evaluation.num_diverged,
        "num_runs": evaluation.losses.shape[1],
        "final_losses": _seven_digits(evaluation.final_losses),
        "curve": _seven_digits(evaluation.curve),
    }
    if tuning is not None:
        row["tuning"] = search_entry(tuning)
    return row


def search_entry(tuning: Tuning) -> dict[str, Any]:
    """Returns the entry of a row for the search for its rule's learning rate."""
    return {
        "learning_rates": list(tuning.candidates),
        "final_losses": list(tuning.losses),
        "is_at_edge": tuning.is_at_edge,
        **({"num_steps": list(tuning.num_steps)} if tuning.num_steps else {}),
    }


def _seven_digits(losses: Iterable[float]) -> list[float]:
    # They are computed from float32 values.
    return [float(f"{loss:.7g}") for loss in losses]


def is_trained(row: Row) -> bool:
    """Returns whether a row is of a learned rule, and not of what it was before its training."""
    return row["learned"] and not row.get("untrained", False)


def compare_with_baselines(rows: Sequence[Row]) -> dict[str, Any]:
    """Compares the best learned rule with the best hand-designed one.

    Args:
        rows: those of all rules. Rows of learned rules before their training do not count.

    Returns:
        A dictionary with four entries, all None unless there are rules of both kinds.
        `best_baseline` is the hand-designed rule with the lowest final loss.
        `ratio_to_best_baseline` is the best learned rule's final loss divided by that of the best
        baseline. Below 1, the learned rule is better. It is None if the baseline's loss is zero or
        infinite.
        `ratio_to_best_baseline_stderr` is the standard error of that ratio, from the losses of both
        on each run. It is None for a single run, or if one has diverged. It ignores that both rules
        were selected as the best of several on these runs.
        `steps_to_best_baseline` is the first step at which the learned rule's curve is at or below
        that final loss, or None if it never is.
    """
    learned = [row for row in rows if is_trained(row)]
    baselines = [row for row in rows if not row["learned"]]
    if not learned or not baselines:
        return dict.fromkeys(COMPARED)
    rule = min(learned, key=lambda row: row["final_loss"])
    baseline = min(baselines, key=lambda row: row["final_loss"])
    (target,) = _seven_digits([baseline["final_loss"]])  # Rounded like curves.
    reached = np.flatnonzero(np.array(rule["curve"]) <= target)
    ratio = stderr = None
    if 0 < baseline["final_loss"] < np.inf:
        ratio = rule["final_loss"] / baseline["final_loss"]
        stderr = ratio_stderr(np.array(rule["final_losses"]), np.array(baseline["final_losses"]))
    return {
        "best_baseline": baseline["rule"],
        "ratio_to_best_baseline": ratio,
        "ratio_to_best_baseline_stderr": stderr,
        "steps_to_best_baseline": int(reached[0]) if reached.size else None,
    }


def ratio_stderr(numerators: np.ndarray, denominators: np.ndarray) -> float | None:
    """Returns the standard error of a ratio of means over the same runs, to first order.

    It is None for a single run, or if a numerator is not finite.

    Args:
        numerators: one for each run, float `[R]`.
        denominators: the same runs' denominators, positive and finite, float `[R]`.
    """
    num_runs = len(numerators)
    if num_runs == 1 or not np.isfinite(numerators).all():
        return None
    ratio = numerators.mean() / denominators.mean()
    residuals = numerators - ratio * denominators
    return float(residuals.std(ddof=1) / np.sqrt(num_runs) / denominators.mean())


def format_table(rows: Sequence[Row]) -> str:
    """Returns a human-readable table of the rules, best final loss first.

    Other measurements, such as test accuracy, get a column if any row has them.
    """
    header = ["rule", "learning rate", "final loss", "std. error", "mean loss", "diverged"]
    measured = [key for key in _MEASURED if any(key in row for row in rows)]
    header += [key.replace("_", " ") for key in measured]
    lines = [header]
    for row in sorted(rows, key=lambda row: row["final_loss"]):
        rate = row["learning_rate"]
        lines.append(
            [
                row["rule"] + (" (learned)" if is_trained(row) else ""),
                "-" if rate is None else f"{rate:.4g}",
                f"{row['final_loss']:.4g}",
                f"{row['final_loss_stderr']:.2g}",
                f"{row['mean_loss']:.4g}",
                f"{row['diverged']} of {row['num_runs']}",
                *(format(row[key], _MEASURED[key]) if key in row else "-" for key in measured),
            ]
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def format_markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table, with a newline after each row."""
    return "".join(
        f"| {' | '.join(cells)} |\n" for cells in (header, ["---"] * len(header), *lines)
    )
