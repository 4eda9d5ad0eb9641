"""Losses against seconds: runs count steps, and a benchmark has timed a step of each contender."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from absl import flags

from experiments.general.scores import Result, Table
from experiments.harness.path_flags import define_path

define_path(
    "step_times",
    None,
    "Results of benchmarks.general_rule, whose times of whole steps give losses against seconds.",
)

FLAGS = flags.FLAGS

# The benchmark's names of tuned optimizers. AdamW's step costs what Adam's does, within a few
# percent, but it is not timed.
_TIMED = {"adam": "adam", "muon_cosine": "muon"}
# Its name of the rule, trained or not: weights do not change what a step costs.
_RULES = {"general": "general", "general_untrained": "general"}
# Of the two compilers, the one that compiled the runs.
_COMPILER = "graph"
# Seconds of a step of each contender, by task.
StepTimes = dict[str, dict[str, float]]


class AtEqualTime(NamedTuple):
    """A contender when tuned Adam ends.

    Attributes:
        step_ratio: the seconds of a step over those of Adam's.
        step: the last recorded step that the contender has done by then.
        loss_ratio: its loss there over Adam's final loss.
    """

    step_ratio: float
    step: int
    loss_ratio: float


def given_step_times() -> StepTimes:
    """Returns the times in the file that `--step_times` names; none if it names none."""
    return {} if FLAGS.step_times is None else read_step_times(FLAGS.step_times)


def read_step_times(path: str | Path) -> StepTimes:
    """Returns the seconds of a whole training step, by task and contender.

    Args:
        path: a file that `benchmarks.general_rule` has written.

    Raises:
        ValueError: it is no such file.
    """
    try:
        measurements = json.loads(Path(path).read_text())["measurements"]
        timed = [row for row in measurements if row["compiler"] == _COMPILER and "error" not in row]
        return {
            row["network"]: {
                name: float(row["optimizers"][own]["median"])
                for name, own in (_TIMED | _RULES).items()
            }
            for row in timed
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            "--step_times must name a file that benchmarks.general_rule has written. "
            f"Received: {path}, where {error!r}. Run the benchmark again."
        ) from error


def timed(table: Table, times: StepTimes) -> Table:
    """Returns the results of contenders whose steps are timed, on tasks where Adam's is too."""
    own = {
        task: {name: result for name, result in results.items() if name in times.get(task, {})}
        for task, results in table.items()
    }
    return {task: results for task, results in own.items() if "adam" in results}


def at_equal_time(
    results: Mapping[str, Result], times: Mapping[str, float]
) -> dict[str, AtEqualTime]:
    """Returns where each other contender is when tuned Adam has done all its steps.

    A contender's schedule is that of the whole horizon. So one whose steps take longer than Adam's
    is looked at before its rate has fallen to zero, which favours Adam.

    Args:
        results: results on a task, of Adam among others.
        times: seconds of a step of each.
    """
    adam = results["adam"]
    found = {}
    for name, result in results.items():
        if name == "adam":
            continue
        ratio = times[name] / times["adam"]
        steps, losses = result.curve
        done = [
            (step, loss)
            for step, loss in zip(steps, losses, strict=True)
            if step * ratio <= steps[-1]
        ]
        # At the end, the final loss: the curve's last point is of fewer minibatches on short runs.
        step, loss = done[-1] if done else (0, math.inf)
        if step == steps[-1]:
            loss = result.final_loss
        found[name] = AtEqualTime(ratio, step, loss / adam.final_loss)
    return found
