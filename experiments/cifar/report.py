"""Tables, and the paper's figure 7, of evaluations written by `experiments.cifar`.

Reads `<output_dir>/<variant>/results.json` and `results_training_half.json` of the variants that
are there. Writes `tables.md` and `figure7.png` beside them.
"""

from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import flags

from experiments.cifar.variants import VARIANTS, published_curves
from experiments.harness import common
from experiments.harness.baselines import has_schedule
from experiments.harness.report_tables import (
    Column,
    Results,
    check_any_results,
    numbers,
    rates,
    read_results,
    write_tables,
)
from l2l_tf.evaluation.evaluation import NUM_FINAL_MINIBATCHES
from l2l_tf.reporting import Row
from l2l_tf.reporting.figures import Panel, draw_curves
from l2l_tf.reporting.results import ratio_stderr

FLAGS = flags.FLAGS

# The file of each table, and what must be measured in it besides losses.
FILES = {
    "tasks of test images": ("results.json", ("final_losses",)),
    "fresh tasks of the training half": (
        "results_training_half.json",
        ("final_losses", "test_accuracy"),
    ),
}
# An early step, at which the paper's rule is far ahead of its baselines.
EARLY_STEP = 100


def main(strategy: tf.distribute.Strategy) -> None:
    """Writes the tables and the figure."""
    del strategy  # This binary computes nothing.
    folder = Path(FLAGS.output_dir)
    read = {what: read_results(folder, VARIANTS, *file) for what, file in FILES.items()}
    on_test_images, on_training_half = read.values()
    check_any_results("cifar", folder, VARIANTS, on_test_images)
    tables = {}
    for what, results in read.items():
        for title, step in {f"Loss at step {EARLY_STEP}": EARLY_STEP, "Final loss": None}.items():
            tables[f"{title}, {what}"] = {
                VARIANTS[name].heading: _losses(name, one, step or one["num_steps"])
                for name, one in results.items()
                if step is None or step <= one["num_steps"]
            }
    tables["Accuracy on test images, after training on the training half"] = {
        VARIANTS[name].heading: numbers(one, lambda row: row["test_accuracy"], best=max)
        for name, one in on_training_half.items()
    }
    tables["Learning rates of the baselines"] = {
        VARIANTS[name].heading: rates(one) for name, one in on_test_images.items()
    }
    text = write_tables(folder / "tables.md", tables)
    written = ["tables.md", *_draw(folder, on_test_images)]
    print(f"{text}\nWrote {' and '.join(written)} to {folder}")


def _losses(variant: str, results: Results, step: int) -> Column:
    """Returns rules' losses at a step, learned ones' over the best baseline's, and the paper's."""

    def loss(row: Row) -> float:
        return _loss_at(step, row)

    column = numbers(results, loss)
    finished = [row for row in results["rows"] if not row["diverged"]]
    baselines = [row for row in finished if not row["learned"]]
    of_constant_rate = [row for row in baselines if not has_schedule(row["rule"])]
    groups = {"best baseline": baselines}
    if len(of_constant_rate) < len(baselines):
        groups["best baseline of constant rate"] = of_constant_rate
    for row in finished:
        for what, group in groups.items() if row["learned"] else ():
            if group:
                baseline = min(group, key=loss)
                error = _stderr(row, baseline) if step == results["num_steps"] else ""
                ratio = f"{loss(row) / loss(baseline):.3f}{error} ({baseline['rule']})"
                column[f"{row['rule']} over the {what}"] = ratio
    for curve in published_curves(VARIANTS[variant]):
        # The paper's points are ten steps apart; its curves end at the horizon of its figures.
        nearest = int(np.argmin(np.abs(np.array(curve.steps) - step)))
        if abs(curve.steps[nearest] - step) < 10:
            column[f"*paper: {curve.rule}*"] = f"*{curve.losses[nearest]:.3g}*"
    return column


def _stderr(row: Row, baseline: Row) -> str:
    """Returns the standard error of the ratio of two final losses, for a cell, if it is known."""
    both = (np.array(one["final_losses"]) for one in (row, baseline))
    stderr = ratio_stderr(*both)
    return "" if stderr is None else f" ± {stderr:.3f}"


def _loss_at(step: int, row: Row) -> float:
    """Returns a rule's loss after some steps, as the mean over its last few minibatches."""
    return float(np.mean(row["curve"][: step + 1][-NUM_FINAL_MINIBATCHES:]))


def _draw(folder: Path, results: dict[str, Results]) -> list[str]:
    """Draws the variants that are in the paper's figure, and returns the figure's name."""
    panels = [
        Panel(VARIANTS[name].heading, one["rows"], published_curves(VARIANTS[name]))
        for name, one in results.items()
        if VARIANTS[name].figure is not None
    ]
    if not panels:
        return []
    draw_curves(folder / "figure7.png", panels)
    return ["figure7.png"]


if __name__ == "__main__":
    common.run(main)
