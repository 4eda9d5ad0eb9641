"""Runs of the suite, one JSON line each: done once, kept, and found again."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from experiments.general.rates import finite_or_inf
from experiments.general.training import Outcome
from experiments.harness.json_lines import add_to_file, read_file
from experiments.harness.path_flags import define_paths
from experiments.harness.revision import find_commit

define_paths(
    "kept_runs",
    "Files of runs, such as runs.jsonl of other folders. Runs that they hold are not repeated.",
)

FLAGS = flags.FLAGS

RUNS_FILE = "runs.jsonl"


class Key(NamedTuple):
    """What identifies a run.

    Attributes:
        task: the task's name.
        contender: the optimizer's name.
        learning_rate: its rate; None if it is not tuned.
        seed: the run's seed.
        task_fingerprint: identifies the task's definition.
        contender_fingerprint: identifies the optimizer's definition.
    """

    task: str
    contender: str
    learning_rate: float | None
    seed: int
    task_fingerprint: str
    contender_fingerprint: str


class Run(NamedTuple):
    """A run and what came of it. Losses are infinite if it diverged.

    Attributes:
        key: what identifies it.
        final_loss: the mean of the last minibatches' losses.
        test_loss: the loss on test examples at the end.
        test_metric: the metric there, if the task has one and the run did not diverge.
        steps: some steps.
        losses: the mean losses of the minibatches before them.
        num_parameters: the number of trainable weights.
        seconds: the time that it took, under whatever load there was.
    """

    key: Key
    final_loss: float
    test_loss: float
    test_metric: float | None
    steps: list[int]
    losses: list[float]
    num_parameters: int
    seconds: float

    @property
    def has_diverged(self) -> bool:
        """Whether a loss was not finite."""
        return self.final_loss == float("inf")


class Runs:
    """Runs that are kept in files.

    Args:
        path: the file that new runs are added to, which need not exist.
        others: further files to read.

    Raises:
        FileNotFoundError: one of the further files does not exist.
        ValueError: a file holds something else.
    """

    def __init__(self, path: Path, others: Sequence[str] = ()):
        missing = [other for other in others if not Path(other).is_file()]
        if missing:
            raise FileNotFoundError(
                "--kept_runs must be files of runs that evaluations have written. "
                f"Received: {missing}, which are none. Check the paths, or leave the flag out."
            )
        self._path = path
        files = [(Path(other), "kept_runs") for other in others] + [(path, "output_dir")]
        entries = [
            entry for file, flag in files for entry in read_file(file, flag, "runs", _run_of)
        ]
        self._runs = {run.key: run for run in map(_run_of, entries)}

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs.values())

    def find(self, key: Key) -> Run | None:
        """Returns a run that is kept, or None."""
        return self._runs.get(key)

    def add(self, key: Key, outcome: Outcome) -> Run:
        """Returns a run that has ended, and keeps it."""
        steps, losses = outcome.curve
        entry = {
            **key._asdict(),
            "num_steps": len(outcome.losses),
            "num_parameters": outcome.num_parameters,
            "final_loss": _rounded(outcome.final_loss),
            "test_loss": _rounded(outcome.test_loss),
            "test_metric": outcome.test_metric,
            "steps": steps,
            "losses": [_rounded(loss) for loss in losses],
            "seconds_under_any_load": round(outcome.seconds, 2),
            "commit": find_commit() or "unknown",
        }
        add_to_file(self._path, entry)
        self._runs[key] = _run_of(entry)
        return self._runs[key]


def latest(runs: Iterable[Run]) -> list[Run]:
    """Returns the runs of the latest definition of each task, and of each contender on it."""
    tasks = {run.key.task: run.key.task_fingerprint for run in runs}
    of_tasks = [run for run in runs if run.key.task_fingerprint == tasks[run.key.task]]
    contenders = {_pair(run): run.key.contender_fingerprint for run in of_tasks}
    return [run for run in of_tasks if run.key.contender_fingerprint == contenders[_pair(run)]]


def _pair(run: Run) -> tuple[str, str]:
    return run.key.task, run.key.contender


def _rounded(loss: float) -> float:
    """Returns seven digits: losses are computed from float32 values."""
    return float(f"{loss:.7g}")


def _run_of(entry: dict[str, Any]) -> Run:
    return Run(
        Key(*(entry[name] for name in Key._fields)),
        finite_or_inf(entry["final_loss"]),
        finite_or_inf(entry["test_loss"]),
        entry["test_metric"],
        [int(step) for step in entry["steps"]],
        [finite_or_inf(loss) for loss in entry["losses"]],
        int(entry["num_parameters"]),
        float(entry["seconds_under_any_load"]),
    )
