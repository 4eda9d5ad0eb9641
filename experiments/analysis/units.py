"""Which hidden units has a rule's training put out of use?

    python -m experiments.analysis.units --rule=mnist_lstm,mnist_rnnprop \
        --problem=mnist_relu,mnist_keras --data_dir=FOLDER --output_dir=results/units

Trains fresh tasks by each rule, then looks at each hidden unit on a batch of 1000 training images:
whether it is dead, zero on all of them, or saturated, beyond .01 or .99 on all of them. Only units
of ReLU can be dead, and only sigmoid ones saturated. Writes `units.json`.
"""

import itertools
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from experiments.analysis.problems import PROBLEMS
from experiments.harness import common, images
from experiments.harness.saved_rules import load_rules
from l2l_tf.delivery import find_rule
from l2l_tf.evaluation import bind, start, unroll
from l2l_tf.files import write_json
from l2l_tf.problems import task_seeds
from l2l_tf.reporting import format_markdown
from l2l_tf.rules.rule import FlatLayout, Rule

FLAGS = flags.FLAGS

_READ = {
    *("output_dir", "rule", "seed", "num_steps", "num_tasks"),
    *("threads_per_operation", "dataset", "data_dir", "downsampling", "batch_size"),
}
_NUM_IMAGES = 1000
_SATURATED = 0.01


def main(strategy: tf.distribute.Strategy) -> None:
    """Trains the tasks, and writes the shares of units."""
    del strategy  # One device does.
    modules = [module.__name__ for module in (common, images)]
    common.check_all_read("analysis.units", modules, _READ, "rules are run for --num_steps.")
    FLAGS.set_default("problem", ["mnist"])
    problems = {name: PROBLEMS[name]() for name in _problem_names()}
    rules = load_rules([find_rule(rule) for rule in FLAGS.rule])
    if not rules:
        raise ValueError(
            "--rule must name one or more rules. Received: --rule=. Name, say, mnist_lstm."
        )
    seeds = task_seeds(FLAGS.seed, "test", 0, FLAGS.num_tasks)
    cases = list(itertools.product(problems.items(), rules.items()))
    progress = keras.utils.Progbar(len(cases), unit_name="rule and problem")
    rows: list[dict[str, Any]] = []
    for (problem_name, problem), (name, rule) in cases:
        shares: np.ndarray = np.array(_shares_after(rule, problem, seeds))
        errors = shares.std(axis=0, ddof=1) / len(seeds) ** 0.5 if len(seeds) > 1 else [None] * 2
        row: dict[str, Any] = {"problem": problem_name, "rule": name}
        for kind, mean, error in zip(
            ("dead", "saturated"), shares.mean(axis=0), errors, strict=True
        ):
            row[kind] = {"share": float(mean), "stderr": None if error is None else float(error)}
        rows.append(row)
        progress.update(len(rows))
    contents = {
        "experiment": "analysis.units",
        "num_steps": FLAGS.num_steps,
        "num_tasks": FLAGS.num_tasks,
        "seed": FLAGS.seed,
        "rows": rows,
        **common.origin("analysis.units"),
    }
    write_json(Path(FLAGS.output_dir) / "units.json", contents)
    header = ["problem", "rule", "dead units", "std. error", "saturated units", "std. error"]
    lines = [
        [
            row["problem"],
            row["rule"],
            *(_percent(row[kind][key]) for kind in ("dead", "saturated") for key in row[kind]),
        ]
        for row in rows
    ]
    print(f"\n{format_markdown(header, lines)}\nWrote units.json to {FLAGS.output_dir}")


def units_out_of_use(model: keras.Model, inputs: np.ndarray) -> tuple[float, float]:
    """Returns the shares of a model's hidden units that are dead, and that are saturated.

    Units are those of layers of which each has an activation, other than the last layer's.
    """
    hidden = [layer for layer in model.layers[:-1] if hasattr(layer, "activation")]
    outputs = keras.Model(model.inputs[0], [layer.output for layer in hidden])(inputs)
    dead, saturated = [], []
    for layer, output in zip(hidden, tf.nest.flatten(outputs), strict=True):
        values = np.asarray(output)
        over_images = tuple(range(values.ndim - 1))
        is_sigmoid = layer.activation is keras.activations.sigmoid
        is_relu = layer.activation is keras.activations.relu
        is_extreme = (values < _SATURATED) | (values > 1 - _SATURATED)
        dead.append(is_relu & (values == 0).all(axis=over_images))
        saturated.append(is_sigmoid & is_extreme.all(axis=over_images))
    return float(np.concatenate(dead).mean()), float(np.concatenate(saturated).mean())


def _shares_after(rule: Rule, problem: Any, seeds: tf.Tensor) -> list[tuple[float, float]]:
    """Returns the shares of units out of use after training each task."""
    bound = bind(rule, problem).for_steps()
    layout = FlatLayout(problem.parameter_shapes)

    @tf.function(autograph=False)
    def train(seed: tf.Tensor) -> tf.Tensor:
        first = start(bound, problem, seed)
        return unroll(bound, problem, seed, first, FLAGS.num_steps)[1].parameters

    inputs = images.load_dataset().train[0][:_NUM_IMAGES].astype(np.float32) / 255
    found = []
    for seed in seeds:
        values = layout.unflatten(train(seed))
        for variable, value in zip(problem.model.trainable_variables, values, strict=True):
            variable.assign(value)
        found.append(units_out_of_use(problem.model, inputs))
    return found


def _problem_names() -> list[str]:
    known = sorted(name for name in PROBLEMS if name.startswith(("mnist", "conv")))
    names = list(dict.fromkeys(FLAGS.problem))
    if not names or (unknown := sorted(set(names) - set(known))):
        raise ValueError(
            f"--problem must be one or more of {known}. "
            f"Received: --problem={','.join(unknown if names else [])}. Name networks for images."
        )
    return names


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


if __name__ == "__main__":
    common.run(main)
