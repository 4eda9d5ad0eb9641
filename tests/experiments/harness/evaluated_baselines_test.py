import copy
import math

import pytest
from absl.testing import flagsaver

from experiments.harness import evaluated_baselines
from experiments.harness.common import FLAGS
from experiments.harness.evaluated_baselines import check_rows, find_row, known_rows
from experiments.harness.json_lines import identity
from l2l_tf.files import strict_json
from l2l_tf.problems import Quadratic

WHAT = {"problem": "style", "num_steps": 1, "num_tasks": 2, "seed": 0}
ROW = {
    "rule": "sgd",
    "learned": False,
    "learning_rate": 0.1,
    "final_loss": math.inf,
    "final_loss_stderr": math.nan,
    "mean_loss": math.inf,
    "diverged": 1,
    "num_runs": 2,
    "final_losses": [1.0, math.inf],
    "curve": [2.0, math.inf],
    "clipped_loss": math.inf,
}
ENTRY = {**WHAT, "commit": "abc", "row": ROW}


@pytest.fixture
def read(tmp_path, monkeypatch):
    """A function that writes entries to a file and has it read."""

    def read_entries(*entries: dict) -> list[dict]:
        path = tmp_path / "baselines.jsonl"
        path.write_text("".join(strict_json(entry, indent=None) for entry in entries))
        monkeypatch.setattr(FLAGS["evaluated_baselines"], "value", str(path))
        return known_rows()

    return read_entries


def test_a_row_comes_back_with_what_is_not_finite_and_its_commit(read):
    row = find_row(read(ENTRY), "sgd", 0.1, WHAT)
    assert math.isnan(row.pop("final_loss_stderr"))
    expected = {key: value for key, value in ROW.items() if key != "final_loss_stderr"}
    assert row == {**expected, "commit": "abc"}


@pytest.mark.parametrize(
    ("name", "rate", "change"),
    [
        ("adam", 0.1, {}),
        ("sgd", 0.2, {}),
        ("sgd", 0.1, {"seed": 1}),
        ("sgd", 0.1, {"num_steps": 2}),
    ],
)
def test_a_row_of_something_else_is_not_found(read, name, rate, change):
    assert find_row(read(ENTRY), name, rate, {**WHAT, **change}) is None


def test_a_complete_file_need_not_be_writable(read, monkeypatch):
    """Not even where the momentum of one of its baselines was chosen among several."""
    FLAGS.mark_as_parsed()
    problem = Quadratic()
    flags = {"num_steps": 3, "baselines": ["nag", "sgd"], "momenta": ["0.9", "0.95"]}
    with flagsaver.flagsaver(**flags):
        what = identity(problem, 2)
        rows = [{**ROW, "rule": name} for name in ("nag, momentum 0.95", "sgd")]
        read(*({**what, "commit": "abc", "row": row} for row in rows))

        def refuse(flag: str) -> None:
            raise ValueError(f"--{flag} can't be written")

        monkeypatch.setattr(evaluated_baselines, "check_lines_file", refuse)
        check_rows(problem, 2)
        check_rows(problem, 2, ["nag, momentum 0.95", "sgd"])
        with pytest.raises(ValueError, match="evaluated_baselines"):
            check_rows(problem, 2, ["nag", "sgd"])
        with pytest.raises(ValueError, match="evaluated_baselines"):
            check_rows(problem, 3)


@pytest.mark.parametrize("key", [key for key in ROW if key != "clipped_loss"])
def test_a_row_without_something_is_refused_when_it_is_read(read, key):
    entry = copy.deepcopy(ENTRY)
    del entry["row"][key]
    with pytest.raises(ValueError, match=f"KeyError\\('{key}'\\)"):
        read(entry)
