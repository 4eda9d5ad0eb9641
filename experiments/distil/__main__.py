"""Can a learned rule be distilled to a few numbers?

    python -m experiments.distil --rule=mnist_rnnprop --data_dir=FOLDER --output_dir=results/distil

Records the rule on one task of each problem, fits a `DistilledRule` of each form to the records by
least squares, and reports how much of the deltas they explain on further tasks, beside Adam,
momentum and SGD of the best rates. Then it runs the rule and the better of the two forms on fresh
tasks. Writes `distil.json` and the distilled rule, which `--learned_rule=distilled
--initial_rule=FOLDER` of other experiments trains further by meta-gradients.
"""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from experiments.analysis.problems import PROBLEMS
from experiments.distil.fitting import Fit, fit_recursive, fit_taps
from experiments.harness import common, images
from experiments.harness.saved_rules import load_rules
from l2l_tf.analysis import Record, likeness, record_trajectory
from l2l_tf.analysis.stepping import Stepper
from l2l_tf.delivery import export_rule, find_rule
from l2l_tf.evaluation import evaluate
from l2l_tf.files import write_json
from l2l_tf.problems import Problem, task_seeds
from l2l_tf.reporting import format_markdown
from l2l_tf.rules.rule import Rule

flags.DEFINE_list(
    "num_taps", ["1", "2", "5", "10", "20"], "Numbers of taps of finite impulse responses."
)

FLAGS = flags.FLAGS

_READ = {
    *("output_dir", "rule", "rule_name", "seed", "num_steps", "num_tasks"),
    *("threads_per_operation", "dataset", "data_dir", "downsampling", "batch_size"),
}
_PROBLEMS = ["mnist", "mnist_relu", "mnist_layers2", "mnist_keras", "conv_keras"]
_COMPARED = ("adam", "momentum", "sgd")
_SOURCE = "our own, after Jacobs 1988 (delta-bar-delta) and Riedmiller and Braun 1993 (Rprop)"


def main(strategy: tf.distribute.Strategy) -> None:
    """Distils the rule, and writes what came of it."""
    del strategy  # One device does.
    modules = [module.__name__ for module in (common, images)]
    common.check_all_read("distil", modules, _READ, "records are of --num_steps.")
    FLAGS.set_default("num_tasks", 4)
    FLAGS.set_default("num_coordinates", 200)
    FLAGS.set_default("problem", _PROBLEMS)
    name, rule = _teacher()
    counts = _tap_counts()
    problems = {one: PROBLEMS[one]() for one in _problem_names()}
    seeds = task_seeds(FLAGS.seed, "train", 0, 2)
    progress = keras.utils.Progbar(3 * len(problems), unit_name="record or evaluation")
    fitted, held_out = (
        {
            one: _recorded(rule, problem, seed, progress, len(problems) * part + index)
            for index, (one, problem) in enumerate(problems.items())
        }
        for part, seed in enumerate(seeds)
    )
    fits = {f"{count} taps": fit_taps(list(fitted.values()), count) for count in counts}
    fits["recursive"] = fit_recursive(list(fitted.values()))
    explained: dict[str, dict[str, float]] = {
        one: {problem: likeness(record, one).explained for problem, record in held_out.items()}
        for one in _COMPARED
    }
    for form, fit in fits.items():
        explained[form] = {
            problem: explained_by(fit.rule, record) for problem, record in held_out.items()
        }
    distilled = fits["recursive"].rule
    losses = {}
    for index, (one, problem) in enumerate(problems.items()):
        losses[one] = _losses({name: rule, "distilled": distilled}, problem)
        progress.update(2 * len(problems) + index + 1)
    output_dir = Path(FLAGS.output_dir)
    contents = {
        "experiment": "distil",
        "rule": name,
        "num_steps": FLAGS.num_steps,
        "num_tasks": FLAGS.num_tasks,
        "seed": FLAGS.seed,
        "explained": explained,
        "numbers": {form: fit.numbers for form, fit in fits.items()},
        "final_losses": losses,
        **common.origin("distil"),
    }
    write_json(output_dir / "distil.json", contents)
    common.write_flags(output_dir / "flags.txt")
    path = export_rule(distilled, output_dir / "rule", _card(name, fits["recursive"], problems))
    print(f"\n{tables(contents)}\nWrote distil.json to {output_dir} and the rule to {path}")


def tables(contents: dict[str, Any]) -> str:
    """Returns the shares that are explained and the final losses, as tables of Markdown."""
    names = list(contents["final_losses"])
    shares = [
        [form, *(f"{of_form[problem]:.3f}" for problem in names)]
        for form, of_form in contents["explained"].items()
    ]
    rules = list(contents["final_losses"][names[0]])
    losses = [
        [one, *(_with_error(contents["final_losses"][problem][one]) for problem in names)]
        for one in rules
    ]
    ratios = [_ratio(contents["final_losses"][problem]) for problem in names]
    return (
        "Share of the mean square of deltas that is explained on further tasks\n\n"
        + format_markdown(["rule", *names], shares)
        + f"\nFinal loss and its standard error, {contents['num_tasks']} fresh tasks of training "
        + "images, and the distilled rule's loss over its teacher's on the same tasks\n\n"
        + format_markdown(["rule", *names], [*losses, ["ratio", *ratios]])
    )


def _with_error(found: dict[str, Any]) -> str:
    return f"{found['final_loss']:.4g} ± {found['stderr']:.2g}"


def _ratio(losses: dict[str, Any]) -> str:
    teacher, distilled = losses.values()
    return f"{distilled['final_loss'] / teacher['final_loss']:.3g}"


def explained_by(rule: Rule, record: Record) -> float:
    """Returns the share of the mean square of a record's deltas that a rule's explain."""
    stepper = Stepper(rule, {"rule": np.arange(record.num_coordinates)})
    answers, _ = stepper.replay(record.gradients)
    deltas = record.deltas.astype(np.float64)
    total = float(np.square(deltas).sum())
    return 1 - float(np.square(deltas - answers).sum()) / total if total else 0.0


def _teacher() -> tuple[str, Any]:
    if len(FLAGS.rule) != 1:
        raise ValueError(
            "--rule must name one rule to distil. "
            f"Received: --rule={','.join(FLAGS.rule)}. Name, say, mnist_rnnprop."
        )
    ((name, rule),) = load_rules([find_rule(FLAGS.rule[0])]).items()
    if not rule.is_coordinatewise:
        raise ValueError(
            "--rule must be a rule that updates each coordinate by itself. "
            f"Received: --rule={FLAGS.rule[0]}, which looks at whole tensors. Name another."
        )
    return name, rule


def _problem_names() -> list[str]:
    names = list(dict.fromkeys(FLAGS.problem))
    if not names or (unknown := sorted(set(names) - set(PROBLEMS))):
        raise ValueError(
            f"--problem must be one or more of {sorted(PROBLEMS)}. "
            f"Received: --problem={','.join(unknown if names else [])}. Leave it out for five."
        )
    return names


def _tap_counts() -> list[int]:
    try:
        counts = [int(one) for one in FLAGS.num_taps]
    except ValueError:
        counts = [0]
    if min(counts, default=1) < 1:
        raise ValueError(
            "--num_taps must be positive integers, with commas between them. "
            f"Received: --num_taps={','.join(FLAGS.num_taps)}. Give, say, --num_taps=5,20."
        )
    return counts


def _recorded(
    rule: Rule, problem: Problem, seed: tf.Tensor, progress: keras.utils.Progbar, index: int
) -> Record:
    record = record_trajectory(
        rule, problem, seed, FLAGS.num_steps, FLAGS.num_coordinates, keep_states=False
    )
    progress.update(index + 1)
    return record


def _losses(rules: dict[str, Any], problem: Problem) -> dict[str, dict[str, float]]:
    """Returns the final loss of each rule on the same tasks, the teacher's first."""
    seeds = task_seeds(FLAGS.seed, "test", 0, FLAGS.num_tasks)
    found = {}
    for name, rule in rules.items():
        evaluation = evaluate(rule, problem, seeds, FLAGS.num_steps)
        found[name] = {
            "final_loss": evaluation.final_loss,
            "stderr": evaluation.final_loss_stderr,
        }
    return found


def _card(name: str, fit: Fit, problems: dict[str, Problem]) -> dict[str, Any]:
    return {
        "name": FLAGS.rule_name or f"{name}_distilled",
        "licence": "Apache-2.0",
        "source": _SOURCE,
        "training": {
            "teacher": name,
            "problem": next(iter(problems.values())).name,
            "problems": [problem.name for problem in problems.values()],
            "seed": FLAGS.seed,
            "num_steps": FLAGS.num_steps,
            "numbers": fit.numbers,
            "explained": fit.explained,
            **common.origin("distil"),
        },
    }


if __name__ == "__main__":
    common.run(main)
