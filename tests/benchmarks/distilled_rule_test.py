import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_distilled_rule_is_timed_beside_adam_and_an_lstm(tmp_path):
    output = tmp_path / "results.json"
    command = [sys.executable, "-m", "benchmarks.distilled_rule", f"--output={output}"]
    command += ["--networks=mlp_10k", "--compilers=graph", "--rounds=2"]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    results = json.loads(output.read_text())
    (row,) = results["measurements"]
    found = row["optimizers"]
    assert list(found) == ["adam", "distilled", "rnnprop"]
    assert found["adam"]["ratio_to_adam"] == 1
    # Far off, it would not have done its step.
    assert 0.2 < found["distilled"]["ratio_to_adam"] < 20
    floats = {name: one["state_floats_per_parameter"] for name, one in found.items()}
    assert floats == {"adam": 2.0, "distilled": 3.0, "rnnprop": 82.0}
    assert "mlp_10k, graph: adam" in printed
    assert [bar["ratio"] for bar in results["bars"]] == [None, None]
