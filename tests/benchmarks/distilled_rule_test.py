import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.experiments.binaries import own_lines
from tests.forks import run_program

ROOT = Path(__file__).resolve().parents[2]


# With measurements that fail at once: they must not begin, or fail.
FAILING = """
import sys
import types

from absl import app
from benchmarks import distilled_rule, in_turns

failed = types.SimpleNamespace(returncode=137, stdout="")
in_turns.subprocess = types.SimpleNamespace(run=lambda *_, **__: failed, PIPE=None)
app.run(distilled_rule.main)
"""
REFUSED = {
    ("--networks=foo", "--compilers=jax"): (
        "--networks must be among ['mlp_10k', 'mlp_1m', 'mlp_10m']. Received: --networks=foo. "
        "Leave it out for all."
    ),
    ("--networks=mlp_10k", "--compilers=jax"): (
        "--compilers must be among ['graph', 'xla']. Received: --compilers=jax. Leave it out for "
        "all."
    ),
    ("--networks=mlp_10k",): (
        "--output must be given where only some networks or compilers are measured. Received: "
        "--networks=mlp_10k --compilers=graph,xla. Give, say, --output=results/times.json."
    ),
}


def test_wrong_names_are_refused_and_a_failure_is_an_error(tmp_path):
    for arguments, message in REFUSED.items():
        ended = run_program(FAILING, *arguments)
        assert (ended.status, ended.output) == (1, "")
        assert own_lines(ended.errors) == f"error: {message}"
    output = tmp_path / "times.json"
    ended = run_program(FAILING, "--networks=mlp_1m", "--compilers=graph", f"--output={output}")
    assert ended.status == 1
    assert "mlp_1m, graph: exit code 137" in ended.output
    assert own_lines(ended.errors) == (
        "error: All measurements must succeed. Received: failures of mlp_1m, graph. See what they "
        "printed above."
    )
    assert json.loads(output.read_text())["measurements"][0]["error"] == "exit code 137"


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
