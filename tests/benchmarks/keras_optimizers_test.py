import json

import pytest

from benchmarks import keras_optimizers
from tests.forks import run_module


@pytest.mark.slow
def test_the_benchmark_measures_each_optimizer_and_says_how_it_stands_to_its_bars(tmp_path):
    output = tmp_path / "results.json"
    brief = ("--networks=mlp_10k", "--seconds=0", "--turns_seconds=0", "--num_traces=2")
    run_module("benchmarks.keras_optimizers", f"--output={output}", *brief)
    results = json.loads(output.read_text())
    rows = {
        (one["network"], one["optimizer"], one["compiler"]): one for one in results["measurements"]
    }
    assert not any("error" in row for row in rows.values())
    assert len(rows) == 10
    for compiler in ("graph", "xla"):
        # 80 floats of 4 or 2 bytes, and Adam's 2 of 4, for 10,000 coordinates.
        for optimizer, wanted in (("learned", 320), ("learned_bfloat16", 160), ("adam", 8)):
            row = rows["mlp_10k", optimizer, compiler]
            assert row["num_coordinates"] == 10_000
            assert row["state_bytes_per_coordinate"] == wanted
            assert row["median"] > 0
    ratios = {
        "joint update / rule": rows["mlp_10k", "learned_and_rule", "graph"],
        "guarded / learned": rows["mlp_10k", "guarded_and_learned", "graph"],
        "tracing: learned / adam": rows["cifar", "learned_and_adam", "graph"],
    }
    assert [row["rounds"] for row in ratios.values()] == [11, 11, 2]
    assert {bar["bar"]: bar["ratio"] for bar in results["bars"]} == {
        name: row["ratio"] for name, row in ratios.items()
    }
    # Far off, one of the two would not have done its step.
    assert all(0.2 < row["ratio"] < 5 for row in ratios.values())


def test_a_ratio_is_of_what_was_measured_at_the_same_time_whoever_came_first():
    order = []

    def seconds(name):
        order.append(name)
        return float(len(order))

    found = keras_optimizers._ratios(lambda: seconds("ours"), lambda: seconds("others"), 3)
    assert order == ["ours", "others", "others", "ours", "ours", "others"]
    # 1 / 2, 4 / 3 and 5 / 6.
    assert found["ratio"] == 5 / 6
    assert found["rounds"] == 3


def test_a_measurement_that_failed_meets_no_bar():
    failed = {"network": "mlp_10m", "optimizer": "learned_and_rule", "error": "exit code 137"}
    (bar,) = keras_optimizers._bars([failed])
    assert (bar["network"], bar["ratio"]) == ("mlp_10m", None)
