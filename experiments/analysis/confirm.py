"""Does a rule fail because of the sizes of gradients that it meets, or of the steps that it takes?

    python -m experiments.analysis.confirm --rule=mnist_lstm --problem=mnist_relu \
        --gradient_factors=1,0.1 --delta_factors=1,0.3 --data_dir=FOLDER \
        --output_dir=results/confirm

Trains fresh tasks by the rule with its gradients multiplied by each factor before it sees them, and
its deltas by each factor afterwards. With -1 for both, it is the rule's mirror image. Writes
`confirm.json` with the final losses.
"""

import itertools
import math
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from absl import flags

from experiments.analysis.problems import PROBLEMS
from experiments.harness import common, images
from experiments.harness.comparison import load_rules
from l2l_tf.delivery import find_rule
from l2l_tf.evaluation import evaluate
from l2l_tf.files import write_json
from l2l_tf.problems import task_seeds
from l2l_tf.reporting import format_markdown
from l2l_tf.rules import CoordinatewiseRule

flags.DEFINE_list("gradient_factors", ["1"], "Factors of the gradients that the rule sees.")

FLAGS = flags.FLAGS

_READ = {
    *("output_dir", "rule", "seed", "num_steps", "num_tasks", "delta_factors"),
    *("threads_per_operation", "dataset", "data_dir", "downsampling", "batch_size"),
}


class Changed(CoordinatewiseRule):
    """A coordinatewise rule with other gradients and deltas.

    Args:
        rule: the rule.
        gradient_factor: what gradients are multiplied by before the rule sees them.
        delta_factor: what its deltas are multiplied by.
    """

    def __init__(self, rule: Any, gradient_factor: float, delta_factor: float):
        self.rule = rule
        self.gradient_factor = gradient_factor
        self.delta_factor = delta_factor

    def initial_state(self, num_coordinates: int | tf.Tensor) -> Any:
        """Returns the rule's."""
        return self.rule.initial_state(num_coordinates)

    def __call__(self, gradient: tf.Tensor, state: Any) -> tuple[tf.Tensor, Any]:
        delta, state = self.rule(self.gradient_factor * gradient, state)
        return self.delta_factor * delta, state


def main(strategy: tf.distribute.Strategy) -> None:
    """Runs the rules with each change, and writes their losses."""
    del strategy  # One device does.
    modules = [module.__name__ for module in (common, images)]
    common.check_all_read("analysis.confirm", modules, _READ, "rules are run for --num_steps.")
    FLAGS.set_default("delta_factors", ["1"])
    FLAGS.set_default("problem", ["mnist"])
    gradient_factors, delta_factors = _factors("gradient_factors"), _factors("delta_factors")
    if unknown := sorted(set(FLAGS.problem) - set(PROBLEMS)):
        raise ValueError(
            f"--problem must be among {sorted(PROBLEMS)}. Received: {', '.join(unknown)}. Name one "
            "of them."
        )
    rules = load_rules([find_rule(rule) for rule in FLAGS.rule])
    if not rules or not all(isinstance(rule, CoordinatewiseRule) for rule in rules.values()):
        raise ValueError(
            "--rule must name one or more rules that update all coordinates alike. "
            f"Received: --rule={','.join(FLAGS.rule)}. Name, say, mnist_lstm."
        )
    seeds = task_seeds(FLAGS.seed, "test", 0, FLAGS.num_tasks)
    cases = list(itertools.product(FLAGS.problem, rules.items(), gradient_factors, delta_factors))
    progress = keras.utils.Progbar(len(cases), unit_name="case")
    rows: list[dict[str, Any]] = []
    problems = {name: PROBLEMS[name]() for name in FLAGS.problem}
    for problem, (name, rule), gradient_factor, delta_factor in cases:
        changed = Changed(rule, gradient_factor, delta_factor)
        evaluation = evaluate(changed, problems[problem], seeds, FLAGS.num_steps)
        rows.append(
            {
                "problem": problem,
                "rule": name,
                "gradient_factor": gradient_factor,
                "delta_factor": delta_factor,
                "final_loss": evaluation.final_loss,
                "final_loss_stderr": evaluation.final_loss_stderr,
                "diverged": evaluation.num_diverged,
            }
        )
        progress.update(len(rows))
    contents = {
        "experiment": "analysis.confirm",
        "num_steps": FLAGS.num_steps,
        "num_tasks": FLAGS.num_tasks,
        "seed": FLAGS.seed,
        "rows": rows,
        **common.origin("analysis.confirm"),
    }
    write_json(Path(FLAGS.output_dir) / "confirm.json", contents)
    header = ["problem", "rule", "gradients times", "deltas times", "final loss", "std. error"]
    lines = [
        [
            *(str(row[key]) for key in ("problem", "rule")),
            *(f"{row[key]:g}" for key in ("gradient_factor", "delta_factor")),
            *(f"{row[key]:.3g}" for key in ("final_loss", "final_loss_stderr")),
        ]
        for row in rows
    ]
    print(f"\n{format_markdown(header, lines)}\nWrote confirm.json to {FLAGS.output_dir}")


def _factors(flag: str) -> list[float]:
    given: list[str] = FLAGS[flag].value or []
    try:
        factors = [float(one) for one in given]
    except ValueError:
        factors = []
    if not factors or not all(one and math.isfinite(one) for one in factors):
        raise ValueError(
            f"--{flag} must be finite numbers other than zero, with commas between them. "
            f"Received: --{flag}={','.join(given)}. Give, say, --{flag}=1,0.1."
        )
    return factors


if __name__ == "__main__":
    common.run(main)
