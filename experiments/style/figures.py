"""The paper's figures 8 and 9 of an evaluation: losses, and the pictures themselves."""

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from absl import flags

from experiments.harness.common import FLAGS
from experiments.harness.comparison import Measure
from experiments.harness.references import reference_curves
from l2l_tf.data.photos import write_image
from l2l_tf.evaluation import Evaluation
from l2l_tf.problems import StyleTransferProblem
from l2l_tf.reporting.figures import Panel, ReferenceCurve, draw_curves, draw_pictures

flags.DEFINE_integer(
    "num_pictures", 4, "Number of test crops whose pictures are drawn and written.", 0
)


# The names of the tables, in order.
TABLES = ("training style", "new style")


class Pictures:
    """The pictures that rules make of the first test crops, collected while rules are compared.

    For all of them, `clipped_loss` is measured: the loss after clipping to what a screen shows. The
    clipping is no part of the optimisation.

    Args:
        problems: the problems that rules are compared on, by the name of the table.
    """

    def __init__(self, problems: dict[str, StyleTransferProblem]):
        self._problems = problems
        # By table and then by rule, the pictures of each crop; the crops themselves come first.
        self._of_tables: dict[str, dict[str, list[np.ndarray]]] = {part: {} for part in problems}

    @property
    def measures(self) -> dict[str, Measure]:
        """The measures by which `pipeline.Problems` collects the pictures, by table."""
        return {part: functools.partial(self._collect, part) for part in self._problems}

    def write(self, output_dir: Path, styles: dict[str, np.ndarray]) -> list[str]:
        """Writes each picture and, for each table, figure 9; returns the names of the figures.

        Args:
            output_dir: where figures go; pictures go to `pictures/<table>` in it.
            styles: the paintings, by table.
        """
        written = []
        for part, by_rule in self._of_tables.items():
            suffix = part.replace(" ", "_")
            if not FLAGS.num_pictures:
                continue
            columns = {**by_rule, "style": [styles[part]] * len(by_rule["content"])}
            for name, pictures in columns.items():
                for index, picture in enumerate(pictures):
                    file = f"{index}_{name.replace('/', '_')}.png"
                    write_image(output_dir / "pictures" / suffix / file, picture)
            figure = f"figure9_{suffix}.png"
            rows = list(zip(*columns.values(), strict=True))
            draw_pictures(output_dir / figure, list(columns), rows)
            written.append(figure)
        return written

    def _collect(
        self, part: str, rule_name: str, seeds: tf.Tensor, evaluation: Evaluation
    ) -> dict[str, float]:
        problem, by_rule = self._problems[part], self._of_tables[part]
        count = min(FLAGS.num_pictures, len(seeds))
        if "content" not in by_rule:
            starts = [problem.initial_parameters(seed)[0] for seed in seeds[:count]]
            by_rule["content"] = [problem.pictures(start)[0] for start in starts]
        pictures = [problem.pictures(vector) for vector in evaluation.parameters]
        # If a task has several pictures, take the first.
        by_rule[rule_name] = [of_task[0] for of_task in pictures[:count]]
        step = tf.constant(FLAGS.num_steps)
        clipped = [
            problem.loss_of_pictures(of_task, problem.batch(seed, step))
            for of_task, seed in zip(pictures, seeds, strict=True)
        ]
        # Numbers that are not finite make no meaningful picture.
        return {"clipped_loss": math.inf if evaluation.num_diverged else float(np.mean(clipped))}


def check_references(num_steps: int, *sides: int) -> None:
    """Refuses the paper's curves if they do not show what is compared.

    Args:
        num_steps: the horizon.
        sides: the side of the crops of one table or both, in pixels.

    Raises:
        ValueError: the horizon or the size is another, or there is no file of the curves.
    """
    if FLAGS.reference_curves is None:
        return
    if num_steps != 128 or sides != (64, 128)[: len(sides)]:
        raise ValueError(
            "--reference_curves must go with 128 steps on pictures of 64 x 64 pixels, and then of "
            f"128 x 128, as in the paper's figure 8. Received: num_steps={num_steps} with "
            f"sides={list(sides)}. Leave out the one or the other."
        )
    _references(0)
    _references(1)


def figure8(output_dir: Path, tables: Sequence[dict[str, Any]]) -> str:
    """Draws the curves of all tables, in units of the best baseline's last loss.

    The paper's curves are in units of the last loss of the paper's own best baseline, because only
    ratios can be read from its axes.

    Args:
        output_dir: where the figure goes.
        tables: the contents of their `results.json`. The first is of the painting that rules were
            trained on, the second of another.

    Returns:
        The figure's file name.
    """
    panels = []
    for index, (name, results) in enumerate(zip(TABLES, tables, strict=False)):
        height, width = results["problem_config"]["image_size"]
        panels.append(relative_panel(f"{name}, {height} x {width}", results, _references(index)))
    draw_curves(output_dir / "figure8.png", panels, quantity="loss / best baseline's last")
    return "figure8.png"


def relative_panel(
    title: str, results: dict[str, Any], references: Sequence[ReferenceCurve]
) -> Panel:
    """Returns the panel of a table, in units of the best baseline's last loss.

    Args:
        title: the panel's title.
        results: the contents of `results.json`.
        references: published curves, in units of the last loss of their own best baseline.
    """
    last = [row["final_loss"] for row in results["rows"] if not row["learned"]]
    unit = min((loss for loss in last if loss is not None), default=1.0)
    rows = [
        {**row, "curve": [None if loss is None else loss / unit for loss in row["curve"]]}
        for row in results["rows"]
    ]
    published = min((one.losses[-1] for one in references if one.rule != "lstm"), default=1.0)
    scaled = [one._replace(losses=[loss / published for loss in one.losses]) for one in references]
    return Panel(title, rows, scaled)


def _references(table: int) -> list[ReferenceCurve]:
    return reference_curves(("fig8_art_train_relative", "fig8_art_double_relative")[table])
