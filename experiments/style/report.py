"""Figure 8 in the paper's form, from evaluations that `experiments.style` has written separately.

Use this where both tables of the figure would take too long in one run. The first file of
`--results` is of the painting and size that rules were trained on, the second of others.
"""

import json
from pathlib import Path
from typing import Any

import tensorflow as tf
from absl import flags

from experiments.harness import common
from experiments.harness.path_flags import define_paths
from experiments.style.figures import check_references, figure8

FLAGS = flags.FLAGS

define_paths("results", "The results.json files of one or two evaluations.")


def main(strategy: tf.distribute.Strategy) -> None:
    """Draws the figure."""
    del strategy  # This binary computes nothing.
    if len(FLAGS.results) not in (1, 2):
        raise ValueError(
            "--results must be one file or two. "
            f"Received: --results={','.join(FLAGS.results)}. Name the results.json of an "
            "evaluation of experiments.style, and that of another painting and size."
        )
    tables = [_read(file) for file in FLAGS.results]
    sides = [table["problem_config"]["image_size"][0] for table in tables]
    for table in tables:
        check_references(table["num_steps"], *sides)
    name = figure8(Path(FLAGS.output_dir), tables)
    print(f"Wrote {name} to {FLAGS.output_dir}")


def _read(file: str) -> dict[str, Any]:
    """Returns the part of an evaluation of pictures that the figure needs."""
    try:
        results = json.loads(Path(file).read_text())
        height, width = results["problem_config"]["image_size"]
        kept = {key: results[key] for key in ("num_steps", "rows")}
        return {**kept, "problem_config": {"image_size": (height, width)}}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            "--results must be files that an evaluation of experiments.style has written. "
            f"Received: --results={file}, where {error!r}. Check the path."
        ) from error


if __name__ == "__main__":
    common.run(main)
