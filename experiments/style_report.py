"""Figure 8 in the paper's form, of evaluations that `experiments.style` has written apart.

Where both of its tables would take too long in one run: the first file of `--results` is of the
painting and size that rules were trained on, the second of others.
"""

import json
from pathlib import Path

import tensorflow as tf
from absl import flags

from experiments import common
from experiments.style_figures import check_references, figure8

FLAGS = flags.FLAGS
HEADINGS = ("training style", "new style")

flags.DEFINE_list("results", [], "Files results.json of one or two evaluations.")


def main(strategy: tf.distribute.Strategy) -> None:
    """Draws the figure."""
    del strategy  # Nothing is computed.
    if len(FLAGS.results) not in (1, 2):
        raise ValueError(
            "--results must be one file or two. "
            f"Received: --results={','.join(FLAGS.results)}. Name the results.json of an "
            "evaluation of experiments.style, and that of another painting and size."
        )
    tables = {}
    sides = []
    for heading, file in zip(HEADINGS, FLAGS.results, strict=False):
        num_steps, (height, width) = _read(file)
        sides.append(height)
        check_references(num_steps, *sides)
        tables[f"{heading}, {height} x {width}"] = str(Path(file).resolve())
    name = figure8(Path(FLAGS.output_dir), tables)
    print(f"Wrote {name} to {FLAGS.output_dir}")


def _read(file: str) -> tuple[int, tuple[int, int]]:
    """Returns the horizon of an evaluation, and the height and width of its pictures."""
    try:
        results = json.loads(Path(file).read_text())
        height, width = results["problem_config"]["image_size"]
        return results["num_steps"], (height, width)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            "--results must be files that an evaluation of experiments.style has written. "
            f"Received: --results={file}, where {error!r}. Check the path."
        ) from error


if __name__ == "__main__":
    common.run(main)
