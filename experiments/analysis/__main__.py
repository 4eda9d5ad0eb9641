"""What has a rule learned? The probes of `l2l_tf.analysis`, on a real trajectory.

    python -m experiments.analysis --rule=mnist_rnnprop,mnist_lstm --data_dir=FOLDER \
        --output_dir=results/analysis

Each rule trains one task of its own problem, or of each that `--problem` names, and is recorded on
some coordinates. Writes `analysis.json`, a figure for each probe, and `report.md`, which states
what the figures show.
"""

from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from absl import flags

from experiments.analysis.figures import draw_all
from experiments.analysis.findings import Findings, numbers, probe
from experiments.analysis.problems import PROBLEMS, own_problem
from experiments.analysis.report import report
from experiments.harness import common, images
from experiments.harness.saved_rules import load_rules
from experiments.style import problems as style
from l2l_tf.analysis import record_trajectory
from l2l_tf.delivery import find_rule, load_card
from l2l_tf.files import write_json, write_text
from l2l_tf.problems import task_seeds
from l2l_tf.rules.routed import parts_of

FLAGS = flags.FLAGS

_READ = {
    *("output_dir", "rule", "seed", "num_steps", "threads_per_operation"),
    *("dataset", "data_dir", "downsampling", "batch_size"),
}
_OWN = "own"


def main(strategy: tf.distribute.Strategy) -> None:
    """Runs the probes, and writes what they find."""
    del strategy  # One device does.
    modules = [module.__name__ for module in (common, images)]
    advice = "one task is recorded, for --num_steps."
    common.check_all_read("analysis", modules, _READ, advice)
    for name in FLAGS.rule:
        # A picture is analysed as its rule was trained.
        style.set_defaults_as_trained(_problem_config(name))
    chosen = _chosen()
    output_dir = Path(FLAGS.output_dir)
    progress = keras.utils.Progbar(len(chosen), unit_name="rule and problem")
    found: list[Findings] = []
    for index, (name, rule, problem) in enumerate(chosen):
        found += _probe(name, rule, problem)
        progress.update(index + 1)
    contents = {
        "experiment": "analysis",
        "num_steps": FLAGS.num_steps,
        "seed": FLAGS.seed,
        "findings": {one.label: numbers(one) for one in found},
        **common.origin("analysis"),
    }
    write_json(output_dir / "analysis.json", contents)
    figures = draw_all(output_dir, found)
    text = report(contents)
    write_text(output_dir / "report.md", text)
    common.write_flags(output_dir / "flags.txt")
    print(f"\n{text}\nWrote analysis.json, report.md and {len(figures)} figures to {output_dir}")


def _chosen() -> list[tuple[str, Any, str]]:
    """Returns the rules with their names, each with the problems that it is analysed on."""
    if not FLAGS.rule:
        raise ValueError(
            "--rule must name one or more rules to analyse. Received: --rule=. Name, say, "
            "mnist_rnnprop."
        )
    wanted = FLAGS.problem or [_OWN]
    if unknown := sorted(set(wanted) - {*PROBLEMS, _OWN}):
        raise ValueError(
            f"--problem must be among {sorted([*PROBLEMS, _OWN])}. Received: {', '.join(unknown)}. "
            "Name one of them, or leave it out for each rule's own."
        )
    paths = [find_rule(rule) for rule in FLAGS.rule]
    rules = load_rules(paths)
    chosen = []
    for (name, rule), path in zip(rules.items(), paths, strict=True):
        names = [own_problem(load_card(path)) if one == _OWN else one for one in wanted]
        chosen += [(name, rule, one) for one in dict.fromkeys(names)]
    return chosen


def _problem_config(name: str) -> dict[str, Any]:
    return load_card(find_rule(name)).get("training", {}).get("problem_config") or {}


def _probe(name: str, rule: Any, problem: str) -> list[Findings]:
    """Returns the findings on a rule, or on each of its parts."""
    (seed,) = task_seeds(FLAGS.seed, "test", 0, 1)
    record = record_trajectory(
        rule, PROBLEMS[problem](), seed, FLAGS.num_steps, FLAGS.num_coordinates
    )
    parts = parts_of(rule)
    if not parts:
        return [probe(f"{name} on {problem}", name, problem, rule, record)]
    return [
        probe(
            f"{name} ({part}) on {problem}",
            f"{name} ({part})",
            problem,
            parts[part],
            record.of_part(part),
        )
        for part in record.parts
    ]


if __name__ == "__main__":
    common.run(main)
