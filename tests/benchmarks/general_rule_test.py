import json

import pytest

from tests.forks import run_module


@pytest.mark.slow
def test_the_rule_is_timed_beside_adam_and_muon_alone_and_in_training(tmp_path):
    output = tmp_path / "results.json"
    brief = ("--networks=mlp_10k,cifar_conv", "--compilers=graph", "--rounds=2")
    printed = run_module("benchmarks.general_rule", f"--output={output}", *brief)
    results = json.loads(output.read_text())
    assert results["threads"] == 1
    alone, whole = results["measurements"]
    assert (alone["num_parameters"], whole["num_parameters"]) == (10_000, 89_834)
    for row in (alone, whole):
        assert list(row["optimizers"]) == ["adam", "muon", "general"]
        assert all(one["median"] > 0 for one in row["optimizers"].values())
        # Far off, one of them would not have done its step.
        assert all(0.2 < one["ratio"] < 20 for one in row["ratios"].values())
        assert f"{row['network']}, graph: adam" in printed
    floats = {name: one["state_floats_per_parameter"] for name, one in alone["optimizers"].items()}
    # Muon has a second average for the two biases alone; the rule has two numbers for each tensor.
    assert floats == {"adam": 2.0, "muon": 1.01, "general": pytest.approx(3 + 8 / 10_000)}
    assert [(bar["network"], bar["other"]) for bar in results["bars"]] == [("cifar_conv", "adam")]
