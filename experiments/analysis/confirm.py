"""Does a rule fail because of the sizes of gradients that it meets, or of the steps that it takes?

    python -m experiments.analysis.confirm --rule=mnist_lstm --problem=mnist_relu \
        --gradient_factors=1,0.1 --delta_factors=1,0.3 --data_dir=FOLDER \
        --output_dir=results/confirm

Trains fresh tasks by the rule with its gradients multiplied by each factor before it sees them, and
its deltas by each factor afterwards. With -1 for both, it is the rule's mirror image.

    python -m experiments.analysis.confirm --rule=cifar_lstm --problem=cifar \
        --untrained_parts=conv,other --data_dir=FOLDER --output_dir=results/confirm

For a rule with parts, does each part need what it has learned? It is run as it is, and with the
weights of each named part as they were before training.

`--beside=adam,nag` adds hand-designed rules, whose rates are tuned on two other tasks of each
problem by successive halving.

Writes `confirm.json` with the final losses.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from absl import flags

from experiments.analysis.problems import PROBLEMS
from experiments.harness import common, images
from experiments.harness.saved_rules import load_rules
from l2l_tf.delivery import find_rule
from l2l_tf.evaluation import evaluate, tune_by_halving
from l2l_tf.files import write_json
from l2l_tf.problems import task_seeds
from l2l_tf.reporting import format_markdown
from l2l_tf.rules import BASELINES, CoordinatewiseRule, RoutedRule

flags.DEFINE_list("gradient_factors", ["1"], "Factors of the gradients that the rule sees.")
flags.DEFINE_list(
    "untrained_parts", [], "Parts of a rule that lose their weights, one at a time. See the module."
)
flags.DEFINE_list("beside", [], "Hand-designed rules to tune and to compare with.")

FLAGS = flags.FLAGS

_NUM_TUNING_TASKS = 2

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
    if unknown := sorted(set(FLAGS.beside) - set(BASELINES)):
        raise ValueError(
            f"--beside must be among {sorted(BASELINES)}. Received: {', '.join(unknown)}. Name one "
            "of them."
        )
    rules = load_rules([find_rule(rule) for rule in FLAGS.rule])
    kind = RoutedRule if FLAGS.untrained_parts else CoordinatewiseRule
    if not rules or not all(isinstance(rule, kind) for rule in rules.values()):
        needed, advice = "update all coordinates alike", "mnist_lstm"
        if FLAGS.untrained_parts:
            needed, advice = "have parts, for --untrained_parts", "cifar_lstm"
        raise ValueError(
            f"--rule must name one or more rules that {needed}. "
            f"Received: --rule={','.join(FLAGS.rule)}. Name, say, {advice}."
        )
    if FLAGS.untrained_parts and (gradient_factors, delta_factors) != ([1], [1]):
        raise ValueError(
            "--gradient_factors and --delta_factors must be left out with --untrained_parts. "
            f"Received: --gradient_factors={','.join(FLAGS.gradient_factors)} "
            f"--delta_factors={','.join(FLAGS.delta_factors)}. Run them apart."
        )
    seeds = task_seeds(FLAGS.seed, "test", 0, FLAGS.num_tasks)
    changes = [
        (name, *change)
        for name, rule in rules.items()
        for change in _changes(rule, gradient_factors, delta_factors)
    ]
    untouched = {key: 1.0 if "factor" in key else "none" for key in changes[0][-1]}
    beside = [(name, None, untouched) for name in FLAGS.beside]
    cases = list(itertools.product(FLAGS.problem, [*changes, *beside]))
    tuning_seeds = task_seeds(FLAGS.seed, "tuning", 0, _NUM_TUNING_TASKS)
    progress = keras.utils.Progbar(len(cases), unit_name="case")
    rows: list[dict[str, Any]] = []
    problems = {name: PROBLEMS[name]() for name in FLAGS.problem}
    for problem, (name, rule, change) in cases:
        if rule is None:
            tuning = tune_by_halving(
                BASELINES[name], problems[problem], tuning_seeds, FLAGS.num_steps
            )
            rule = BASELINES[name](tuning.best)
            name = f"{name}, rate {tuning.best:.3g}"
        evaluation = evaluate(rule, problems[problem], seeds, FLAGS.num_steps)
        rows.append(
            {
                "problem": problem,
                "rule": name,
                **change,
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
    if FLAGS.untrained_parts:
        header[2:4] = ["untrained part"]
    lines = [
        [
            *(f"{value:g}" if isinstance(value, float) else str(value) for value in values[:-3]),
            *("" if value is None else f"{value:.3g}" for value in values[-3:-1]),
        ]
        for values in map(list, map(dict.values, rows))
    ]
    print(f"\n{format_markdown(header, lines)}\nWrote confirm.json to {FLAGS.output_dir}")


def _changes(
    rule: Any, gradient_factors: Sequence[float], delta_factors: Sequence[float]
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yields rules that differ from the given one, and what tells of it in a row of results."""
    if not FLAGS.untrained_parts:
        for factors in itertools.product(gradient_factors, delta_factors):
            names = ("gradient_factor", "delta_factor")
            yield Changed(rule, *factors), dict(zip(names, factors, strict=True))
        return
    yield rule, {"untrained_part": "none"}
    for name in FLAGS.untrained_parts:
        if name not in rule.parts:
            raise ValueError(
                f"--untrained_parts must name parts of the rule, {', '.join(rule.parts)}. "
                f"Received: {name}. Name one of these."
            )
        yield with_untrained_part(rule, name), {"untrained_part": name}


def with_untrained_part(rule: RoutedRule, name: str) -> RoutedRule:
    """Returns a rule with the same parts, except that the weights of one are as before training."""
    chosen = rule.parts[name]

    def part(own: Any) -> Any:
        return type(own).from_config(own.get_config()) if own is chosen else own

    return rule.of_each_part(part)


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
