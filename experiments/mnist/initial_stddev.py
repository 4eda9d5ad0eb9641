"""From which initial parameters do our tuned SGD and NAG follow the paper's curves best?

The paper draws initial parameters from a Gaussian and does not say how wide (Andrychowicz et al.
2016, section 3.2, arXiv 1606.04474). Its curves of SGD and NAG tell, because in these rules only
the rate and NAG's momentum are open.
"""

import math
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import flags

from experiments.harness import common
from experiments.harness.images import classification, load_dataset
from experiments.harness.references import reference_curves
from experiments.harness.tuned_rates import (
    chosen_baselines,
    known_searches,
    refuse_momenta,
    tune_baselines,
)
from experiments.mnist.variants import VARIANTS, network
from l2l_tf.evaluation import evaluate
from l2l_tf.files import write_json, write_text
from l2l_tf.problems import task_seeds
from l2l_tf.reporting import format_markdown
from l2l_tf.reporting.figures import ReferenceCurve
from l2l_tf.rules import BASELINES

COMPARED = ("base", "layers2")

flags.DEFINE_list(
    "initial_stddevs",
    ["0.001", "0.003", "0.005", "0.01", "0.02", "0.03", "0.05", "0.1", "0.3"],
    "Standard deviations of initial parameters to try.",
)

FLAGS = flags.FLAGS


def main(strategy: tf.distribute.Strategy) -> None:
    """Runs the comparison that the flags describe and writes a table of it."""
    stddevs = _stddevs()
    if FLAGS.reference_curves is None:
        raise ValueError(
            "--reference_curves must be given: curves are compared with the paper's. "
            "Received: none. Give the path of a JSON file (--helpfull says in which form)."
        )
    references = {name: reference_curves(*VARIANTS[name].figures) for name in COMPARED}
    published = {curve.rule for curve in references[COMPARED[0]]} & BASELINES.keys()
    if not published >= set(chosen_baselines()):
        raise ValueError(
            f"--baselines must be among {sorted(published)}, of which there are published curves. "
            f"Received: --baselines={','.join(FLAGS.baselines)}. Leave it out for sgd and nag."
        )
    refuse_momenta("curves are compared with the paper's, whose momentum is the usual one")
    known_searches()
    dataset = load_dataset()
    output_dir = Path(FLAGS.output_dir)
    seeds = task_seeds(FLAGS.seed, "test", 0, FLAGS.num_tasks)
    rows = []
    for stddev in stddevs:
        row: dict[str, float] = {"initial_stddev": stddev}
        for variant in COMPARED:
            model = network(VARIANTS[variant], dataset)
            tunings = tune_baselines(classification(model, dataset, dataset.validation, stddev))
            problem = classification(model, dataset, dataset.test, stddev)
            for name, tuning in tunings.items():
                rule = BASELINES[name](tuning.best)
                evaluation = evaluate(rule, problem, seeds, FLAGS.num_steps)
                error = log_error(evaluation.curve, references[variant], name)
                column = f"{VARIANTS[variant].heading}, {name}"
                row[f"{column}: error"] = error
                row[f"{column}: final"] = evaluation.final_loss
        errors = [value for key, value in row.items() if key.endswith("error")]
        row["all: error"] = math.sqrt(np.mean(np.square(errors)))
        rows.append(row)
        print("  ".join(f"{key}: {value:.3g}" for key, value in row.items()), flush=True)
    table = format_markdown(
        list(rows[0]), [[f"{value:.3g}" for value in row.values()] for row in rows]
    )
    write_json(output_dir / "initial_stddev.json", {"num_tasks": FLAGS.num_tasks, "rows": rows})
    write_text(output_dir / "initial_stddev.md", table)
    common.write_flags(output_dir / "evaluate_flags.txt")
    print(f"{table}Wrote initial_stddev.json and initial_stddev.md to {output_dir}")


def log_error(curve: np.ndarray, references: list[ReferenceCurve], name: str) -> float:
    """Returns the distance of a curve from the published one of the same name.

    Args:
        curve: float `[T + 1]`, losses at steps 0 to T.
        references: the published curves.
        name: the rule's name.

    Returns:
        The root mean square, over the steps that both have, of the natural logarithm of the ratio.
    """
    (reference,) = (one for one in references if one.rule == name)
    steps = np.array(reference.steps, int)
    shared = steps < len(curve)
    ratios = curve[steps[shared]] / np.array(reference.losses)[shared]
    return float(np.sqrt(np.mean(np.square(np.log(ratios)))))


def _stddevs() -> list[float]:
    try:
        stddevs = sorted({float(stddev) for stddev in FLAGS.initial_stddevs})
    except ValueError:
        stddevs = []
    if not stddevs or not 0 <= stddevs[0] <= stddevs[-1] < math.inf:
        raise ValueError(
            "--initial_stddevs must be finite numbers that are not negative. Received: "
            f"--initial_stddevs={','.join(FLAGS.initial_stddevs)}. Give, say, "
            "--initial_stddevs=0.01,0.1."
        )
    return stddevs


if __name__ == "__main__":
    FLAGS.set_default("baselines", ["sgd", "nag"])
    FLAGS.set_default("num_tasks", 16)
    common.run(main)
