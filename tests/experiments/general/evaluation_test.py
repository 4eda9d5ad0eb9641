import numpy as np
import pytest

from experiments.general import evaluation
from experiments.general.runs import Runs
from experiments.general.training import Outcome
from tests.experiments.general.made_up import linear_task


@pytest.fixture
def done(monkeypatch):
    """The runs that were done, (task's horizon, rate, seed), in place of training."""
    runs = []

    def train(task, data, optimizer, seed):
        rate = float(optimizer.learning_rate)
        runs.append((task.num_steps, round(rate, 6), seed))
        # The best rate is .01.
        losses = np.full(task.num_steps, 1 + abs(np.log(rate / 0.01)) + seed)
        return Outcome(losses, 2.0, None, 4, 0.1)

    monkeypatch.setattr(evaluation, "train", train)
    return runs


def _evaluate(runs, tasks=None, rules=(), num_seeds=3):
    evaluation.evaluate(tasks or [linear_task()], ["adam"], rules, num_seeds, runs)


def test_rates_are_chosen_on_the_first_seed_and_the_best_gets_the_others(tmp_path, done, capsys):
    _evaluate(Runs(tmp_path / "runs.jsonl"))
    grid = [0.000316, 0.001, 0.003162, 0.01, 0.03162]
    assert done == [(4, rate, 0) for rate in grid] + [(4, 0.01, 1), (4, 0.01, 2)]
    assert "linear: adam, rate 0.01, seed 2: 3, test 2 (0.1 s)" in capsys.readouterr().out


def test_rules_are_not_tuned(tmp_path, done):
    runs = Runs(tmp_path / "runs.jsonl")
    evaluation.evaluate([linear_task()], [], ["quadratic_lstm"], 2, runs)
    assert done == [(4, 1.0, 0), (4, 1.0, 1)]
    assert {run.key.learning_rate for run in runs} == {None}


def test_runs_that_are_kept_are_not_repeated(tmp_path, done):
    path = tmp_path / "runs.jsonl"
    _evaluate(Runs(path), num_seeds=1)
    done.clear()
    _evaluate(Runs(path), num_seeds=2)
    assert done == [(4, 0.01, 1)]
    done.clear()
    _evaluate(Runs(tmp_path / "others.jsonl", [str(path)]), num_seeds=2)
    assert done == []


def test_runs_of_a_task_that_has_changed_are_not_taken(tmp_path, done):
    path = tmp_path / "runs.jsonl"
    _evaluate(Runs(path), num_seeds=1)
    done.clear()
    _evaluate(Runs(path), [linear_task(num_steps=6)], num_seeds=1)
    assert [num_steps for num_steps, _, _ in done] == [6] * 5
