"""Tables and figures, in the paper's form, of evaluations written by `experiments.mnist`.

Reads `<output_dir>/<variant>/results.json` and `results_training_half.json` of the variants that
are there, and `<output_dir>/figure6/figure6.json`. Writes `tables.md` and figures beside them.
"""

import json
from pathlib import Path

import tensorflow as tf
from absl import flags

from experiments.harness import common
from experiments.harness.references import reference_curves
from experiments.harness.report_tables import (
    Column,
    Results,
    check_any_results,
    numbers,
    rates,
    read_results,
    write_tables,
)
from experiments.mnist.variants import VARIANTS
from l2l_tf.reporting.figures import Panel, draw_curves

FLAGS = flags.FLAGS

# For each figure, its variants and the step at which each curve begins.
FIGURES = {
    "figure4.png": {"base": 0, "steps200": 100},
    "figure5.png": {"units40": 0, "layers2": 0, "relu": 0},
    "steps2000.png": {"steps2000": 0, "relu_steps2000": 0},
}
FILES = {
    "tasks of test images": "results.json",
    "fresh tasks of the training half": "results_training_half.json",
}
LOSSES = {"Final loss": "final_loss", "Mean loss over steps": "mean_loss"}


def main(strategy: tf.distribute.Strategy) -> None:
    """Writes the tables and figures."""
    folder = Path(FLAGS.output_dir)
    read = {what: read_results(folder, VARIANTS, file) for what, file in FILES.items()}
    on_test_images = next(iter(read.values()))
    check_any_results("mnist", folder, VARIANTS, on_test_images)
    tables = {
        f"{title}, {what}": {
            VARIANTS[name].heading: _losses(name, one, loss) for name, one in results.items()
        }
        for what, results in read.items()
        for title, loss in LOSSES.items()
    }
    tables["Learning rates of the baselines"] = {
        VARIANTS[name].heading: rates(one) for name, one in on_test_images.items()
    }
    tables["Final loss against hidden units"] = _widths(folder / "figure6" / "figure6.json")
    text = write_tables(folder / "tables.md", tables)
    written = ["tables.md", *_draw(folder, on_test_images)]
    print(f"{text}\nWrote {', '.join(written)} to {folder}")


def _losses(variant: str, results: Results, loss: str) -> Column:
    """Returns our losses (the lowest in bold), the ratio of final ones, and the paper's losses."""
    column = numbers(results, lambda row: row[loss])
    if loss == "final_loss" and results["ratio_to_best_baseline"] is not None:
        ratio = f"{results['ratio_to_best_baseline']:.3g} ({results['best_baseline']})"
        column["best learned rule over best baseline"] = ratio
    for curve in reference_curves(*VARIANTS[variant].figures):
        # The paper draws its baselines one step earlier, so their curves end one step early.
        if curve.steps[-1] >= results["num_steps"] - 1:
            mean = sum(curve.losses) / len(curve.losses)
            published = curve.losses[-1] if loss == "final_loss" else mean
            column[f"*paper: {curve.rule}*"] = f"*{published:.3g}*"
    return column


def _widths(path: Path) -> dict[str, Column]:
    """Returns the columns of figure 6: one per width, with a row for each rule and depth."""
    columns: dict[str, Column] = {}
    for network in json.loads(path.read_text())["networks"] if path.exists() else []:
        column = columns.setdefault(f"{network['units']} units", {})
        for row in network["rows"]:
            loss = row["final_loss"]
            layers = "layer" if network["num_layers"] == 1 else "layers"
            cell = "diverged" if loss is None else f"{loss:.3g}"
            column[f"{row['rule']}, {network['num_layers']} {layers}"] = cell
    return columns


def _draw(folder: Path, results: dict[str, Results]) -> list[str]:
    """Draws the figures that have results, and returns their names."""
    drawn = []
    for name, first_steps in FIGURES.items():
        panels = [
            Panel(
                VARIANTS[variant].heading,
                results[variant]["rows"],
                reference_curves(*VARIANTS[variant].figures),
                first_step,
            )
            for variant, first_step in first_steps.items()
            if variant in results
        ]
        if panels:
            draw_curves(folder / name, panels)
            drawn.append(name)
    return drawn


if __name__ == "__main__":
    common.run(main)
