import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_benchmark_measures_each_optimizer_and_says_how_it_stands_to_its_bars(tmp_path):
    output = tmp_path / "results.json"
    command = [sys.executable, "-m", "benchmarks.keras_optimizers", f"--output={output}"]
    command += ["--networks=mlp_10k", "--seconds=0", "--num_traces=1"]
    subprocess.run(command, cwd=ROOT, check=True)
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
    turns = rows["mlp_10k", "learned_and_rule", "graph"]
    assert turns["ratio_quartiles"][0] <= turns["ratio"] <= turns["ratio_quartiles"][1]
    assert {bar["bar"] for bar in results["bars"]} == {
        "joint update / rule",
        "tracing: learned / adam",
    }
