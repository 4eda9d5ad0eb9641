"""What do rules that are not coordinatewise gain on random quadratics, and what does L-BFGS reach?

    python -m experiments.appendix_d --rules_dir=results --output_dir=results/appendix_d

Compares, on fresh tasks of each family, the rules that were trained on it, NTM-BFGS and NTM-L-BFGS
before training (which are BFGS and L-BFGS without a line search), tuned hand-designed rules, and
SciPy's L-BFGS, whose gradients count as steps. Writes `appendix_d.json` and prints a table.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from absl import flags
from scipy import optimize

from experiments.harness import common, tuned_rates
from experiments.harness.baselines import make_baseline
from experiments.harness.path_flags import define_path
from l2l_tf.delivery import load_rule
from l2l_tf.evaluation import Evaluation, evaluate
from l2l_tf.files import write_json
from l2l_tf.problems import Quadratic, task_seeds
from l2l_tf.problems.quadratic import FAMILIES
from l2l_tf.reporting import format_markdown, result_row
from l2l_tf.rules import NTMBFGS, NTMLBFGS

define_path(
    "rules_dir",
    None,
    "Folder of folders in which experiments.quadratic has trained rules, each named after the kind "
    "of rule and the family, such as lstm_gac_uniform. By default, no trained rule is compared.",
)
flags.DEFINE_list("families", sorted(FAMILIES), "Families of functions to compare rules on.")
flags.DEFINE_integer("num_functions", 128, "Number of functions in a task.", 1)

FLAGS = flags.FLAGS

_READ = {
    *("output_dir", "seed", "num_steps", "num_tasks", "threads_per_operation"),
    *("baselines", "num_tuning_tasks", "tuning", "tuned_rates"),
}
_UNTRAINED = {"ntm_bfgs, untrained": NTMBFGS, "ntm_lbfgs, untrained": NTMLBFGS}
SCIPY = "L-BFGS of SciPy"


def main(strategy: tf.distribute.Strategy) -> None:
    """Compares the rules, family by family."""
    del strategy  # One device does.
    modules = [module.__name__ for module in (common, tuned_rates)]
    common.check_all_read("appendix_d", modules, _READ, "rules are those of --rules_dir.")
    if not FLAGS.families or (unknown := sorted(set(FLAGS.families) - FAMILIES.keys())):
        raise ValueError(
            f"--families must be one or more of {sorted(FAMILIES)}. "
            f"Received: --families={','.join(unknown if FLAGS.families else [])}. Check the "
            "spelling, or leave the flag out for all."
        )
    folders = {family: _folders(family) for family in FLAGS.families}
    rows = {family: _rows(family, folders[family]) for family in FLAGS.families}
    output_dir = Path(FLAGS.output_dir)
    contents = {
        "experiment": "appendix_d",
        **{name: FLAGS[name].value for name in ("num_steps", "num_tasks", "num_functions", "seed")},
        "rows": rows,
        **common.origin("appendix_d"),
    }
    write_json(output_dir / "appendix_d.json", contents)
    common.write_flags(output_dir / "flags.txt")
    print(f"\n{table(rows)}\nWrote appendix_d.json to {output_dir}")


def table(rows: dict[str, list[dict[str, Any]]]) -> str:
    """Returns the rows of each family as one table of Markdown.

    For each family, it has the mean loss over steps, the mean final loss over functions, and its
    median.
    """
    names = list(dict.fromkeys(row["rule"] for of_family in rows.values() for row in of_family))
    header = ["rule"]
    for family in rows:
        header += [f"{family}: mean over steps", "final, mean", "final, median"]
    lines = []
    for name in names:
        line = [name]
        for of_family in rows.values():
            row = next((row for row in of_family if row["rule"] == name), None)
            numbers = ("mean_loss", "final_loss", "median")
            line += [f"{row[number]:.3g}" if row else "-" for number in numbers]
        lines.append(line)
    return format_markdown(header, lines)


def scipy_losses(
    matrix: np.ndarray, target: np.ndarray, start: np.ndarray, num_steps: int
) -> np.ndarray:
    """Returns the lowest loss that L-BFGS knows before each step and after the last, `[T + 1]`.

    A step is a gradient, also one that the line search takes. The first is taken at the start.

    Args:
        matrix: W, float64 `[D, D]`.
        target: y, float64 `[D]`.
        start: theta at step 0, float64 `[D]`.
        num_steps: T.
    """
    losses: list[float] = []

    def loss_and_gradient(theta: np.ndarray) -> tuple[float, np.ndarray]:
        residuals = matrix @ theta - target
        losses.append(float(residuals @ residuals))
        return losses[-1], 2 * matrix.T @ residuals

    limits = {"maxfun": num_steps + 1, "maxiter": num_steps + 1, "ftol": 0, "gtol": 0}
    optimize.minimize(
        loss_and_gradient, start, jac=True, method="L-BFGS-B", options={**limits, "maxcor": 10}
    )
    lowest = np.minimum.accumulate(losses)[: num_steps + 1]
    # Where it has ended early, at the precision of float64.
    return np.append(lowest, np.full(num_steps + 1 - len(lowest), lowest[-1]))


def _folders(family: str) -> dict[str, Path]:
    """Returns the folders of the rules that were trained on a family, by their kind."""
    if FLAGS.rules_dir is None:
        return {}
    found = sorted(Path(FLAGS.rules_dir).glob(f"*_{family}/rule"))
    return {path.parent.name.removesuffix(f"_{family}"): path for path in found}


def _rows(family: str, folders: dict[str, Path]) -> list[dict[str, Any]]:
    problem = Quadratic(family, FLAGS.num_functions)
    seeds = task_seeds(FLAGS.seed, "test", 0, FLAGS.num_tasks)
    tunings = tuned_rates.tune_baselines(problem)
    rows = []
    for name, evaluation in _evaluations(problem, seeds, folders):
        rows.append(result_row(name, evaluation, learned=name in folders))
    for name, tuning in tunings.items():
        evaluation = evaluate(make_baseline(name)(tuning.best), problem, seeds, FLAGS.num_steps)
        rows.append(result_row(name, evaluation, tuning))
    for row in rows:
        row["median"] = float(np.median(row["final_losses"]))
    return rows


def _evaluations(
    problem: Quadratic, seeds: tf.Tensor, folders: dict[str, Path]
) -> Iterator[tuple[str, Evaluation]]:
    rules = {name: load_rule(path) for name, path in folders.items()}
    rules |= {name: kind(seed=0) for name, kind in _UNTRAINED.items()}
    for name, rule in rules.items():
        yield name, evaluate(rule, problem, seeds, FLAGS.num_steps)
    losses = []
    for seed in seeds:
        (starts,) = problem.initial_parameters(seed)
        tensors = (*problem.batch(seed, tf.constant(0)), starts)
        matrices, targets, points = (one.numpy().astype(np.float64) for one in tensors)
        losses += [
            scipy_losses(*one, num_steps=FLAGS.num_steps)
            for one in zip(matrices, targets, points, strict=True)
        ]
    yield SCIPY, Evaluation(np.stack(losses, axis=1))


if __name__ == "__main__":
    common.run(main)
