"""The runs of contenders on tasks: searches for rates, and further seeds at the best one."""

import functools
from collections.abc import Callable, Sequence

import keras
from absl import flags

from experiments.general.contenders import fingerprint, untuned_optimizer
from experiments.general.data import Data
from experiments.general.rates import search
from experiments.general.runs import Key, Run, Runs
from experiments.general.tasks import Task
from experiments.general.training import train
from experiments.harness.keras_optimizers import BASELINES

flags.DEFINE_integer(
    "num_seeds",
    3,
    "Number of seeds of each contender. Rates are chosen on the first, which counts too.",
    1,
)

FLAGS = flags.FLAGS


def evaluate(
    tasks: Sequence[Task],
    baselines: Sequence[str],
    rules: Sequence[str],
    num_seeds: int,
    runs: Runs,
    data_dir: str | None = None,
) -> None:
    """Does all runs that are not kept yet, and keeps them.

    Args:
        tasks: the tasks.
        baselines: keys of `BASELINES`.
        rules: names or folders of saved rules.
        num_seeds: the number of seeds. Rates are chosen on seed 0.
        runs: where runs are kept.
        data_dir: the folder of TensorFlow Datasets.
    """
    for task in tasks:
        data = task.load(data_dir)
        runner = _Runner(task, data, task.fingerprint(data), runs)
        for rule in rules:
            make = functools.partial(untuned_optimizer, rule, task.num_steps)
            own = fingerprint(make())
            for seed in range(num_seeds):
                runner.run(rule, own, make, None, seed)
        for name in baselines:
            runner.tune(name, num_seeds)


class _Runner:
    """Does the runs of a task."""

    def __init__(self, task: Task, data: Data, task_fingerprint: str, runs: Runs):
        self._task = task
        self._data = data
        self._fingerprint = task_fingerprint
        self._runs = runs

    def tune(self, name: str, num_seeds: int) -> None:
        """Finds a baseline's best rate on seed 0, and runs it with the other seeds."""
        baseline, num_steps = BASELINES[name], self._task.num_steps
        own = fingerprint(baseline.make(1.0, num_steps))

        def run(rate: float, seed: int) -> Run:
            make = functools.partial(baseline.make, rate, num_steps)
            return self.run(name, own, make, rate, seed)

        best = search(lambda rate: run(rate, 0).final_loss, baseline.middle).best
        for seed in range(1, num_seeds):
            run(best, seed)

    def run(
        self,
        contender: str,
        contender_fingerprint: str,
        make: Callable[[], keras.optimizers.Optimizer],
        rate: float | None,
        seed: int,
    ) -> Run:
        """Returns a run, which is done unless it is kept."""
        key = Key(self._task.name, contender, rate, seed, self._fingerprint, contender_fingerprint)
        kept = self._runs.find(key)
        if kept is not None:
            return kept
        done = self._runs.add(key, train(self._task, self._data, make(), seed))
        shown = "untuned" if rate is None else f"rate {rate:g}"
        print(
            f"{self._task.name}: {contender}, {shown}, seed {seed}: {done.final_loss:.4g}, "
            f"test {done.test_loss:.4g} ({done.seconds:.1f} s)",
            flush=True,
        )
        return done
