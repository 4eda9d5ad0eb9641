import json

import pytest

from experiments.general import scores, wall_clock
from tests.experiments.general.made_up import made_up_run, tuned_runs


def _results(**curves):
    runs = [
        *tuned_runs("cifar_conv", "adam", [8.0, 6.0, 5.0, 4.0]),
        *tuned_runs("cifar_conv", "nag_cosine", [8.0, 4.0, 3.0, 2.0]),
        *(made_up_run("cifar_conv", name, None, 0, losses) for name, losses in curves.items()),
    ]
    return scores.results_of(runs, ["cifar_conv"], num_seeds=1)[0]


def _written(path, median=0.3, **changes):
    times = {"adam": 0.1, "muon": 0.2, "general": median}
    row = {
        "network": "cifar_conv",
        "compiler": "graph",
        "optimizers": {name: {"median": seconds} for name, seconds in times.items()},
    }
    path.write_text(json.dumps({"measurements": [row | changes]}))
    return path


def test_times_are_those_of_the_compiler_that_runs_have(tmp_path):
    times = wall_clock.read_step_times(_written(tmp_path / "times.json"))
    assert times == {
        "cifar_conv": {"adam": 0.1, "muon_cosine": 0.2, "general": 0.3, "general_untrained": 0.3}
    }
    assert wall_clock.read_step_times(_written(tmp_path / "xla.json", compiler="xla")) == {}
    assert wall_clock.read_step_times(_written(tmp_path / "failed.json", error="exit 1")) == {}


def test_a_slower_contender_is_looked_at_before_its_end(tmp_path):
    table = _results(general=[8.0, 3.0, 2.0, 1.0], general_untrained=[7.0, 5.0, 4.0, 2.0])
    times = {"adam": 1.0, "general": 1.5, "general_untrained": 1.0}
    found = wall_clock.at_equal_time(table["cifar_conv"], times | {"nag_cosine": 9.0})
    # Adam takes 4 seconds, in which a step of 1.5 is taken twice, and one of 9 never.
    assert found["general"] == (pytest.approx(1.5), 2, pytest.approx(3 / 4))
    assert found["general_untrained"] == (pytest.approx(1), 4, pytest.approx(2 / 4))
    assert found["nag_cosine"].loss_ratio == float("inf")


def test_what_is_not_timed_is_left_out():
    table = _results(general=[8.0, 1.0, 1.0, 1.0], mine=[8.0, 1.0, 1.0, 1.0])
    kept = wall_clock.timed(table, {"cifar_conv": {"adam": 1.0, "general": 2.0}})
    assert list(kept["cifar_conv"]) == ["general", "adam"]
    assert wall_clock.timed(table, {"mnist_vae": {"adam": 1.0}}) == {}


@pytest.mark.parametrize("text", ["{", "[]", '{"measurements": [{"compiler": "graph"}]}'])
def test_a_file_of_something_else_is_refused(tmp_path, text):
    path = tmp_path / "times.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="--step_times must name a file"):
        wall_clock.read_step_times(path)
