"""What does a general rule decide while it trains a network?

    python -m experiments.general.explain --rule=general_untrained --tasks=cifar16_conv \
        --data_dir=FOLDER --output_dir=results/explain

Trains one task once, with seed 0. At some fifty steps it records what is decided on each tensor:
the shares of directions, the shares of what is orthogonalised, the logarithm of the rate over the
one before anything is learned, the decay, and the pace, which the controller does not choose.
Writes `decisions_<task>.json` and a figure beside it.
"""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from absl import flags

from experiments.general.contenders import check_rule, untuned_optimizer
from experiments.general.data import Data
from experiments.general.figures import draw_decisions
from experiments.general.tasks import Task, chosen_tasks
from experiments.general.training import NUM_CURVE_POINTS
from experiments.harness import common, images
from l2l_tf.files import write_json
from l2l_tf.parameter_spec import ParameterSpec
from l2l_tf.rules import GeneralRule, StepInfo
from l2l_tf.rules.general import DIRECTIONS, ORTHOGONALIZED, Decisions

FLAGS = flags.FLAGS

_READ = {"output_dir", "rule", "threads_per_operation", "data_dir"}
_SEED = 0


def main(strategy: tf.distribute.Strategy) -> None:
    """Trains, and writes what was decided."""
    del strategy  # One device trains.
    modules = [module.__name__ for module in (common, images)]
    common.check_all_read("general.explain", modules, _READ, "a task has its own horizon.")
    if len(FLAGS.tasks) != 1 or len(FLAGS.rule) != 1:
        raise ValueError(
            "--tasks and --rule must each name one. Received: "
            f"--tasks={','.join(FLAGS.tasks)} --rule={','.join(FLAGS.rule)}. Run once for each."
        )
    (task,), (name,) = chosen_tasks(), FLAGS.rule
    check_rule(name)
    output_dir = Path(FLAGS.output_dir)
    found = explain(task, task.load(FLAGS.data_dir), general_rule(name))
    contents = {"experiment": "general.explain", "task": task.name, "rule": name, "seed": _SEED}
    path = output_dir / f"decisions_{task.name}.json"
    write_json(path, {**contents, **found, **common.origin("general.explain")})
    figure = output_dir / f"decisions_{task.name}.png"
    draw_decisions(figure, found, f"What {name} decides on {task.name}")
    print(f"Wrote {path.name} and {figure.name} to {output_dir}")


def general_rule(name: str) -> GeneralRule:
    """Returns a rule that evaluations know by a name.

    Raises:
        ValueError: it is not a `GeneralRule`.
    """
    rule = untuned_optimizer(name, 1).rule_for(tf.Variable(0.0))
    if not isinstance(rule, GeneralRule):
        raise ValueError(
            "--rule must be a GeneralRule, whose controller decides on tensors. "
            f"Received: {name!r}, a {type(rule).__name__}. Name another, such as general_untrained."
        )
    return rule


def explain(task: Task, data: Data, rule: GeneralRule) -> dict[str, Any]:
    """Returns what a rule decides while it trains a task.

    Args:
        task: the task.
        data: its data.
        rule: the rule.

    Returns:
        `steps`, the recorded ones, counted from 1, and for each step the `losses` of its minibatch.
        `tensors`, for each tensor by its path: `shape`; `mix` and `orthogonalized`, for each
        direction or term its share of the sum of absolute shares; `log_rate`, `decay` and `pace`.
        They have a number for each step. For vectors, which are not orthogonalised, and for tensors
        without coordinates, what is not decided is left out.
    """
    num_points = min(NUM_CURVE_POINTS, task.num_steps)
    steps = [task.num_steps * (point + 1) // num_points for point in range(num_points)]
    losses, decisions, paths, shapes = _train(task, data, rule, steps)
    tensors = {
        path: {"shape": list(shape), **_series([one[index] for one in decisions], len(shape) > 1)}
        for index, (path, shape) in enumerate(zip(paths, shapes, strict=True))
    }
    return {"steps": steps, "losses": losses, "tensors": tensors}


def _train(
    task: Task, data: Data, rule: GeneralRule, steps: list[int]
) -> tuple[list[float], list[list[Decisions | None]], list[str], list[tuple[int, ...]]]:
    """Returns losses and decisions at some steps, and the tensors' paths and shapes."""
    model = task.model(_SEED)
    variables = model.trainable_variables
    shapes = [tuple(variable.shape) for variable in variables]
    bound = rule.bind([ParameterSpec(one.path, tuple(one.shape)) for one in variables])
    state = tf.nest.map_structure(tf.Variable, bound.initial_state())
    inputs, targets = (tf.constant(array) for array in data.train)
    loss = task.loss()

    @tf.function(autograph=False)
    def take_step(number: tf.Tensor, chosen: tf.Tensor) -> tuple[tf.Tensor, list[Any]]:
        with tf.GradientTape() as tape:
            outputs = model(tf.gather(inputs, chosen), training=True)
            value = loss(tf.gather(targets, chosen), outputs) + sum(model.losses)
        gradients = tape.gradient(value, variables)
        before = tf.nest.map_structure(tf.convert_to_tensor, state)
        parameters = [tf.convert_to_tensor(variable.value) for variable in variables]
        info = StepInfo(number, None, parameters, task.num_steps)
        decided = bound.decisions(gradients, before, info)
        deltas, after = bound.update(gradients, before, info)
        for variable, delta in zip(variables, deltas, strict=True):
            variable.assign_add(delta)
        tf.nest.map_structure(lambda old, new: old.assign(new), state, after)
        return value, decided

    losses, decisions = [], []
    for index, chosen in enumerate(task.minibatches(len(data.train.inputs), _SEED)):
        value, decided = take_step(tf.constant(index), tf.constant(chosen))
        if index + 1 in steps:
            losses.append(float(value))
            decisions.append(tf.nest.map_structure(lambda one: one.numpy(), decided))
    return losses, decisions, [variable.path for variable in variables], shapes


def _series(decisions: list[Decisions | None], is_matrix: bool) -> dict[str, Any]:
    """Returns the numbers of one tensor over the recorded steps."""
    present = [one for one in decisions if one is not None]
    if not present:
        return {}
    series: dict[str, Any] = {"mix": _shares(DIRECTIONS, [one.mix for one in present])}
    if is_matrix:
        terms = [one.orthogonalized for one in present]
        series["orthogonalized"] = _shares(ORTHOGONALIZED, terms)
    series["log_rate"] = [float(one.log_rate) for one in present]
    series["decay"] = [float(one.decay) for one in present]
    series["pace"] = [float(one.pace) for one in present]
    return series


def _shares(names: tuple[str, ...], values: Any) -> dict[str, list[float]]:
    """Returns the share of each column in the sum of absolute values of its row."""
    table = np.array(values, float)
    shares = table / np.maximum(np.abs(table).sum(axis=1, keepdims=True), 1e-12)
    return {name: shares[:, column].tolist() for column, name in enumerate(names)}


if __name__ == "__main__":
    common.run(main)
