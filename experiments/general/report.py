"""Tables and figures of the runs of `experiments.general`.

Reads `<output_dir>/runs.jsonl` and the files that `--kept_runs` names. Writes `tables_<split>.md`,
`results_<split>.json` and figures beside it. With `--step_times`, losses are also compared at equal
wall-clock time.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import tensorflow as tf
from absl import flags

# Defines --num_seeds.
from experiments.general import evaluation  # noqa: F401
from experiments.general.figures import draw_losses, draw_profile
from experiments.general.runs import RUNS_FILE, Run, Runs
from experiments.general.scores import (
    Result,
    Table,
    contenders_of,
    results_of,
    score,
    share_of_steps,
)
from experiments.general.tasks import Task, chosen_tasks
from experiments.general.wall_clock import StepTimes, at_equal_time, given_step_times, timed
from experiments.harness import common
from experiments.harness.keras_optimizers import BASELINES
from experiments.harness.report_tables import Column, write_tables
from l2l_tf.files import write_json

FLAGS = flags.FLAGS

# What each split is for, in the titles of tables.
PURPOSES = {
    "validation": "validation tasks, looked at while rules are made",
    "test": "test tasks, for finished rules",
}


def main(strategy: tf.distribute.Strategy) -> None:
    """Writes the tables and figures of the runs that there are."""
    del strategy  # Nothing is computed.
    output_dir = Path(FLAGS.output_dir)
    runs = Runs(output_dir / RUNS_FILE, FLAGS.kept_runs)
    write_report(output_dir, FLAGS.split, chosen_tasks(), runs, FLAGS.num_seeds, given_step_times())


def write_report(
    output_dir: Path,
    split: str,
    tasks: Sequence[Task],
    runs: Iterable[Run],
    num_seeds: int,
    step_times: StepTimes,
) -> None:
    """Writes tables and figures, and prints the tables.

    Args:
        output_dir: where they go.
        split: the split that the tasks are of.
        tasks: the tasks to show.
        runs: all runs.
        num_seeds: the number of seeds that a contender's result on a task is the mean of.
        step_times: seconds of a step, by task and contender, of those that are timed.

    Raises:
        ValueError: no contender has ended its runs on any of the tasks.
    """
    table, unfinished = results_of(runs, [task.name for task in tasks], num_seeds)
    if not table:
        raise ValueError(
            "--output_dir and --kept_runs must hold the runs of a contender on a task of the "
            f"split. Received: --output_dir={output_dir} with --split={split} and "
            f"--num_seeds={num_seeds}, where none is complete. Evaluate first, or give the seeds "
            "that there are."
        )
    what = PURPOSES[split]
    of_time = timed(table, step_times)
    tables = {
        f"Summary: geometric means of ratios of losses; {what}": _summary(table),
        f"Final training loss; {what}": _column_of_each(table, _final_loss),
        f"Test loss; {what}": _column_of_each(table, _test_loss),
        f"Test accuracy; {what}": _column_of_each(table, _test_metric),
        f"When tuned Adam ends: time of a step / Adam's, step reached, loss / Adam's final loss; "
        f"{what}": _at_equal_time(of_time, step_times),
        "Learning rates": _column_of_each(table, _rate),
        "Not complete, and left out": {
            "contenders": {
                task: ", ".join(name for other, name in unfinished if other == task)
                for task, _ in unfinished
            }
        }
        if unfinished
        else {},
    }
    text = write_tables(output_dir / f"tables_{split}.md", tables)
    _write_results(output_dir / f"results_{split}.json", split, table, num_seeds)
    final_losses = {
        task: {name: result.final_loss for name, result in results.items()}
        for task, results in table.items()
    }
    draw_profile(output_dir / f"profile_{split}.png", final_losses, f"Final loss, {split} tasks")
    draw_losses(output_dir / f"losses_{split}.png", table, f"Training loss, {split} tasks")
    files = written(split)
    if of_time:
        files.append(f"losses_by_time_{split}.png")
        title = f"Training loss against time, {split} tasks"
        draw_losses(output_dir / files[-1], of_time, title, step_times)
    print(f"\n{text}\nWrote {', '.join(files)} to {output_dir}")


def written(split: str) -> list[str]:
    """Returns the names of the files that a report consists of, whether steps are timed or not."""
    return [
        f"tables_{split}.md",
        f"results_{split}.json",
        f"profile_{split}.png",
        f"losses_{split}.png",
    ]


def _summary(table: Table) -> dict[str, Column]:
    """Returns a column for each measure, with a row for each contender."""
    columns: dict[str, Column] = {}
    for name in contenders_of(table):
        trained = score(table, name, lambda result: result.final_loss)
        tested = score(table, name, lambda result: result.test_loss)
        share, num_reached, num_tasks = share_of_steps(table, name)
        cells = {
            "tasks": str(trained.num_tasks),
            "/ best of Adam, AdamW + cosine, NAG + cosine": _number(trained.to_first_three),
            "/ best tuned": _number(trained.to_best),
            "/ Muon + cosine": _number(trained.to_muon),
            "worst task / best of the three": f"{_number(trained.worst)} {trained.worst_task}",
            "test loss / the three's best": _number(tested.to_first_three),
            "test loss / best tuned": _number(tested.to_best),
            "test loss / Muon + cosine": _number(tested.to_muon),
            "steps to the three's final loss / horizon": f"{_number(share)} "
            f"({num_reached} of {num_tasks} tasks)",
        }
        for heading, cell in cells.items():
            columns.setdefault(heading, {})[_shown(name)] = cell.strip()
    return columns


def _column_of_each(
    table: Table, cell_of: Callable[[Result, Sequence[Result]], str]
) -> dict[str, Column]:
    """Returns a column for each contender, with a row for each task."""
    columns: dict[str, Column] = {}
    for name in contenders_of(table):
        for task, results in table.items():
            if name in results:
                cell = cell_of(results[name], list(results.values()))
                columns.setdefault(_shown(name), {})[task] = cell
    return columns


def _at_equal_time(of_time: Table, step_times: StepTimes) -> dict[str, Column]:
    """Returns a column for each contender but Adam, with a row for each task."""
    columns: dict[str, Column] = {}
    for task, results in of_time.items():
        for name, one in at_equal_time(results, step_times[task]).items():
            cell = f"{one.step_ratio:.2f}, step {one.step}, {one.loss_ratio:.3g}"
            columns.setdefault(_shown(name), {})[task] = cell
    return columns


def _shown(name: str) -> str:
    """Returns a contender's name, in bold if it is not tuned."""
    return name if name in BASELINES else f"**{name}**"


def _final_loss(result: Result, results: Sequence[Result]) -> str:
    return _loss(result, result.final_loss, [other.final_loss for other in results])


def _test_loss(result: Result, results: Sequence[Result]) -> str:
    return _loss(result, result.test_loss, [other.test_loss for other in results])


def _loss(result: Result, loss: float, losses: Sequence[float]) -> str:
    """Returns a loss, in bold if it is the lowest, or on how many seeds a contender diverged."""
    if math.isinf(loss):
        return f"diverged on {result.num_diverged} of {len(result.runs)}"
    return f"**{loss:.3g}**" if loss == min(losses) else f"{loss:.3g}"


def _test_metric(result: Result, results: Sequence[Result]) -> str:
    return "" if result.test_metric is None else f"{result.test_metric:.3f}"


def _rate(result: Result, results: Sequence[Result]) -> str:
    if result.tuning is None:
        return "untuned"
    tuning = result.tuning
    num_diverged = sum(math.isinf(loss) for loss in tuning.losses)
    return (
        f"{tuning.best:.3g} of {len(tuning.candidates)}"
        + (f", {num_diverged} diverged" if num_diverged else "")
        + (" (edge)" if tuning.is_at_edge else "")
    )


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3g}"


def _write_results(path: Path, split: str, table: Table, num_seeds: int) -> None:
    """Writes all numbers, with null for those that are not finite."""
    entries = {
        task: {
            name: {
                "final_loss": result.final_loss,
                "final_losses": [run.final_loss for run in result.runs],
                "test_loss": result.test_loss,
                "test_losses": [run.test_loss for run in result.runs],
                "test_metric": result.test_metric,
                "diverged": result.num_diverged,
                "num_parameters": result.runs[0].num_parameters,
                "seconds_under_any_load": [run.seconds for run in result.runs],
                "tuning": None
                if result.tuning is None
                else {
                    "learning_rate": result.tuning.best,
                    "learning_rates": result.tuning.candidates,
                    "final_losses": result.tuning.losses,
                    "is_at_edge": result.tuning.is_at_edge,
                },
            }
            for name, result in results.items()
        }
        for task, results in table.items()
    }
    scores = {
        name: {
            "final_loss": score(table, name, lambda result: result.final_loss)._asdict(),
            "test_loss": score(table, name, lambda result: result.test_loss)._asdict(),
            "share_of_steps": share_of_steps(table, name)[0],
        }
        for name in contenders_of(table)
    }
    contents = {
        "experiment": "general",
        "split": split,
        "num_seeds": num_seeds,
        "scores": scores,
        "tasks": entries,
        **common.origin("general.report"),
    }
    write_json(path, contents)


if __name__ == "__main__":
    common.run(main)
