import json

import numpy as np
import pytest

from experiments.general.runs import Key, Runs, latest
from experiments.general.training import Outcome
from tests.experiments.general.made_up import made_up_run

KEY = Key("linear", "adam", 0.1, 0, "task", "contender")


def _outcome(losses=(3.0, 2.0, 1.0), test_loss=4.0):
    return Outcome(np.array(losses), test_loss, 0.5, 7, 1.234)


def test_a_run_is_kept_and_found_again(tmp_path):
    path = tmp_path / "runs.jsonl"
    added = Runs(path).add(KEY, _outcome())
    assert (added.final_loss, added.test_loss, added.test_metric) == (2.0, 4.0, 0.5)
    assert (added.steps, added.losses) == ([1, 2, 3], [3.0, 2.5, 2.0])
    assert (added.num_parameters, added.seconds) == (7, 1.23)
    assert list(Runs(path)) == [added]
    assert Runs(path).find(KEY) == Runs(tmp_path / "none", [str(path)]).find(KEY) == added
    entry = json.loads(path.read_text())
    assert entry["num_steps"] == 3
    assert entry["commit"]


@pytest.mark.parametrize("change", [*({name: "other"} for name in KEY._fields)])
def test_a_run_of_something_else_is_not_found(tmp_path, change):
    runs = Runs(tmp_path / "runs.jsonl")
    runs.add(KEY, _outcome())
    assert runs.find(KEY._replace(**change)) is None


def test_a_run_that_diverged_is_kept_as_infinite(tmp_path):
    path = tmp_path / "runs.jsonl"
    Runs(path).add(KEY, Outcome(np.array([3.0, np.nan]), np.inf, None, 7, 1.0))
    assert "null" in path.read_text()
    (run,) = Runs(path)
    assert run.has_diverged
    assert (run.final_loss, run.test_loss, run.losses) == (np.inf, np.inf, [3.0, np.inf])


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_text('{"task": "linear"}\n')
    with pytest.raises(ValueError) as error:
        Runs(path)
    assert str(error.value) == (
        "--output_dir must be a file of runs that an evaluation has written, or be yet to be "
        f"written. Received: --output_dir={path}, where KeyError('contender'). Check the path, or "
        "choose another."
    )


def test_of_several_definitions_the_latest_counts():
    old_task = made_up_run("one", "adam", 0.1, 0, [1.0], fingerprints=("old", "a"))
    old_adam = made_up_run("one", "adam", 0.1, 0, [1.0], fingerprints=("new", "a"))
    nag = made_up_run("one", "nag", 0.1, 0, [1.0], fingerprints=("new", "c"))
    new_adam = made_up_run("one", "adam", 0.1, 0, [1.0], fingerprints=("new", "b"))
    assert latest([old_task, old_adam, nag, new_adam]) == [nag, new_adam]
