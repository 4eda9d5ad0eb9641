"""How contenders compare: ratios of losses, and steps to a loss that others end with."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments.general.contenders import FIRST_THREE
from experiments.general.rates import search
from experiments.general.runs import Run, latest
from experiments.harness.keras_optimizers import BASELINES
from l2l_tf.evaluation import Tuning

MUON = "muon_cosine"


class Result(NamedTuple):
    """A contender on a task.

    Attributes:
        tuning: the search for its rate; None if it is not tuned.
        runs: its runs at the best rate, one for each seed.
    """

    tuning: Tuning | None
    runs: list[Run]

    @property
    def final_loss(self) -> float:
        """The mean over seeds, infinite if one diverged."""
        return float(np.mean([run.final_loss for run in self.runs]))

    @property
    def test_loss(self) -> float:
        """The mean over seeds, infinite if one diverged."""
        return float(np.mean([run.test_loss for run in self.runs]))

    @property
    def test_metric(self) -> float | None:
        """The mean over seeds; None if the task has no metric, or a run diverged."""
        metrics = [run.test_metric for run in self.runs if run.test_metric is not None]
        return float(np.mean(metrics)) if len(metrics) == len(self.runs) else None

    @property
    def num_diverged(self) -> int:
        """The number of seeds whose run diverged."""
        return sum(run.has_diverged for run in self.runs)

    @property
    def curve(self) -> tuple[list[int], list[float]]:
        """Some steps and the mean of the runs' losses there."""
        losses = np.array([run.losses for run in self.runs])
        return self.runs[0].steps, [float(loss) for loss in losses.mean(axis=0)]


# The results of contenders by task.
Table = dict[str, dict[str, Result]]


def results_of(runs: Iterable[Run], tasks: Sequence[str], num_seeds: int) -> tuple[Table, list]:
    """Returns the results of all contenders whose runs on a task are complete, and the others.

    Args:
        runs: all runs; of several definitions of a task or contender, the latest counts.
        tasks: the tasks' names, in order.
        num_seeds: the number of seeds that make a result complete.

    Returns:
        The results, and (task, contender) of those that are not complete.
    """
    grouped: dict[str, dict[str, list[Run]]] = {task: {} for task in tasks}
    for run in latest(list(runs)):
        if run.key.task in grouped:
            grouped[run.key.task].setdefault(run.key.contender, []).append(run)
    table: Table = {}
    unfinished = []
    for task, contenders in grouped.items():
        # In the order of the dictionary; rules come first.
        for contender in sorted(contenders, key=_place):
            result = _result(contender, contenders[contender], num_seeds)
            if result is None:
                unfinished.append((task, contender))
            else:
                table.setdefault(task, {})[contender] = result
    return table, unfinished


def _place(contender: str) -> tuple[int, str]:
    known = list(BASELINES)
    return (known.index(contender) if contender in known else -1), contender


def _result(contender: str, runs: Sequence[Run], num_seeds: int) -> Result | None:
    found = {(run.key.learning_rate, run.key.seed): run for run in runs}
    try:
        tuning = None
        if contender in BASELINES:
            middle = BASELINES[contender].middle
            tuning = search(lambda rate: found[rate, 0].final_loss, middle)
        best = None if tuning is None else tuning.best
        return Result(tuning, [found[best, seed] for seed in range(num_seeds)])
    except KeyError:
        return None


class Score(NamedTuple):
    """Ratios of a contender's losses to those of tuned optimizers, over tasks.

    Attributes:
        num_tasks: the number of tasks that the contender and the first three have ended.
        to_first_three: the geometric mean of its loss over the best of `FIRST_THREE` on each task.
        to_best: the same over the best of all tuned optimizers.
        to_muon: the same over `MUON`, on tasks that both have ended.
        worst: the largest ratio to the best of the first three.
        worst_task: the task of that ratio.
    """

    num_tasks: int
    to_first_three: float
    to_best: float
    to_muon: float
    worst: float
    worst_task: str


def score(table: Table, contender: str, loss_of: Callable[[Result], float]) -> Score:
    """Returns the ratios of a contender's losses.

    Args:
        table: the results.
        contender: its name.
        loss_of: returns the loss to compare, final or test. Each optimizer's rate is the one with
            the best final training loss either way.
    """
    own = {
        task: {name: loss_of(result) for name, result in results.items()}
        for task, results in table.items()
        if contender in results
    }
    compared = {task: losses for task, losses in own.items() if has_first_three(losses)}
    to_first_three = {
        task: ratio(losses[contender], best_of(losses, FIRST_THREE))
        for task, losses in compared.items()
    }
    worst_task = max(to_first_three, key=lambda task: to_first_three[task], default="")
    return Score(
        len(compared),
        geometric_mean(to_first_three.values()),
        geometric_mean(
            ratio(losses[contender], best_of(losses, BASELINES)) for losses in compared.values()
        ),
        geometric_mean(
            ratio(losses[contender], losses[MUON]) for losses in own.values() if MUON in losses
        ),
        to_first_three.get(worst_task, math.nan),
        worst_task,
    )


def share_of_steps(table: Table, contender: str) -> tuple[float, int, int]:
    """Returns how soon a contender reaches what the best of the first three ends with.

    Returns:
        The mean over tasks of the step at which its mean curve is first at or below that final
        loss, over the horizon, where a task on which it never is counts as 1; on how many tasks
        it is; and the number of tasks.
    """
    shares = []
    for results in table.values():
        if contender not in results or not has_first_three(results):
            continue
        losses = {name: result.final_loss for name, result in results.items()}
        steps, curve = results[contender].curve
        goal = best_of(losses, FIRST_THREE)
        reached = [step for step, loss in zip(steps, curve, strict=True) if loss <= goal]
        shares.append(reached[0] / steps[-1] if reached else None)
    found = [share for share in shares if share is not None]
    mean = (sum(found) + len(shares) - len(found)) / len(shares) if shares else math.nan
    return mean, len(found), len(shares)


def has_first_three(of_task: Mapping[str, object]) -> bool:
    """Returns whether a task has all of `FIRST_THREE`."""
    return of_task.keys() >= set(FIRST_THREE)


def best_of(losses: Mapping[str, float], names: Iterable[str]) -> float:
    """Returns the lowest loss of those that are there."""
    return min(losses[name] for name in names if name in losses)


def ratio(loss: float, reference: float) -> float:
    """Returns a loss over another; infinite if the loss is, NaN if only the other is."""
    if math.isinf(loss):
        return math.inf
    return loss / reference if math.isfinite(reference) else math.nan


def geometric_mean(ratios: Iterable[float]) -> float:
    """Returns the geometric mean of ratios, NaN if there are none."""
    values = np.array(list(ratios))
    return float(np.exp(np.log(values).mean())) if values.size else math.nan


def contenders_of(table: Table) -> list[str]:
    """Returns the names of all contenders of a table: rules, then tuned optimizers in order."""
    return sorted({name for results in table.values() for name in results}, key=_place)
