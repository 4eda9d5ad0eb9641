"""Results of an evaluation as rows of `results.json` and as a table."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from l2l_tf.evaluation.evaluation import Evaluation
from l2l_tf.evaluation.tuning import Tuning

Row = dict[str, Any]

# How the best learned rule stands beside the best baseline.
COMPARED = (
    "best_baseline",
    "ratio_to_best_baseline",
    "ratio_to_best_baseline_stderr",
    "steps_to_best_baseline",
)
# How tables show what is measured beside losses.
_MEASURED = {"test_accuracy": ".3f", "clipped_loss": ".4g"}


def result_row(
    name: str, evaluation: Evaluation, tuning: Tuning | None = None, learned: bool = False
) -> Row:
    """Returns what `results.json` says of one rule.

    Losses are in the problem's unit, averaged over runs; `curve` holds T + 1 of them, at the
    iterate before each step and after the last, and `final_losses` that of each run at the end,
    both to seven digits. A rule with a diverged run has an infinite loss.

    Args:
        name: the rule's name.
        evaluation: its runs.
        tuning: the search for its learning rate, if it had one.
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
    """Returns what a row says of the search for its rule's learning rate."""
    return {
        "learning_rates": list(tuning.candidates),
        "final_losses": list(tuning.losses),
        "is_at_edge": tuning.is_at_edge,
        **({"num_steps": list(tuning.num_steps)} if tuning.num_steps else {}),
    }


def _seven_digits(losses: Iterable[float]) -> list[float]:
    # What they are computed from was float32.
    return [float(f"{loss:.7g}") for loss in losses]


def compare_with_baselines(rows: Sequence[Row]) -> dict[str, Any]:
    """Returns how the best learned rule stands beside the best hand-designed one.

    Returns:
        `best_baseline`, the hand-designed rule with the lowest final loss;
        `ratio_to_best_baseline`, the best learned rule's final loss over that one's (below 1: the
        learned rule is better; None if that one's is zero or infinite);
        `ratio_to_best_baseline_stderr`, that ratio's standard error, from the losses of both on
        each run (None of a single run or where one has diverged; that both are the best of several
        on these runs is not accounted for); and
        `steps_to_best_baseline`, the first step at which the learned rule's curve is at or below
        that final loss (None if it never is). All None where there are not both kinds.
    """
    learned = [row for row in rows if row["learned"]]
    baselines = [row for row in rows if not row["learned"]]
    if not learned or not baselines:
        return dict.fromkeys(COMPARED)
    rule = min(learned, key=lambda row: row["final_loss"])
    baseline = min(baselines, key=lambda row: row["final_loss"])
    (target,) = _seven_digits([baseline["final_loss"]])  # As curves are.
    reached = np.flatnonzero(np.array(rule["curve"]) <= target)
    ratio = stderr = None
    if 0 < baseline["final_loss"] < np.inf:
        ratio = rule["final_loss"] / baseline["final_loss"]
        stderr = _ratio_stderr(np.array(rule["final_losses"]), np.array(baseline["final_losses"]))
    return {
        "best_baseline": baseline["rule"],
        "ratio_to_best_baseline": ratio,
        "ratio_to_best_baseline_stderr": stderr,
        "steps_to_best_baseline": int(reached[0]) if reached.size else None,
    }


def _ratio_stderr(numerators: np.ndarray, denominators: np.ndarray) -> float | None:
    """Returns the standard error of a ratio of means over the same runs, to first order."""
    num_runs = len(numerators)
    if num_runs == 1 or not np.isfinite(numerators).all():
        return None
    ratio = numerators.mean() / denominators.mean()
    residuals = numerators - ratio * denominators
    return float(residuals.std(ddof=1) / np.sqrt(num_runs) / denominators.mean())


def format_table(rows: Sequence[Row]) -> str:
    """Returns a table of the rules for people, best final loss first.

    What was measured beside losses, such as a test accuracy, has a column where rows have it.
    """
    header = ["rule", "learning rate", "final loss", "std. error", "mean loss", "diverged"]
    measured = [key for key in _MEASURED if any(key in row for row in rows)]
    header += [key.replace("_", " ") for key in measured]
    lines = [header]
    for row in sorted(rows, key=lambda row: row["final_loss"]):
        rate = row["learning_rate"]
        lines.append(
            [
                row["rule"] + (" (learned)" if row["learned"] else ""),
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
    """Returns a Markdown table, each line of it ended."""
    return "".join(
        f"| {' | '.join(cells)} |\n" for cells in (header, ["---"] * len(header), *lines)
    )
