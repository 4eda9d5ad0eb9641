"""The whole program on its smallest workload, and workers that fail."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import measurement
from benchmarks.contenders import CONTENDERS
from benchmarks.measurement import extrapolate, measure
from benchmarks.plan import PLANS
from benchmarks.processes import Worker, WorkerError

ROOT = Path(__file__).resolve().parents[2]
WORKLOAD = "inner_1e4"


def _run(*flags):
    command = [sys.executable, "-m", "benchmarks.engine", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    output = tmp_path_factory.mktemp("benchmark") / "results.json"
    process = _run("--quick", f"--workloads={WORKLOAD}", f"--output={output}")
    assert process.returncode == 0, process.stderr
    return process.stdout, json.loads(output.read_text())


@pytest.mark.slow
def test_all_that_are_installed_are_measured(run):
    _, results = run
    found = {one["contender"]: one for one in results["measurements"]}
    assert list(found) == list(PLANS[WORKLOAD].contenders)
    for name, one in found.items():
        if CONTENDERS[name].is_installed:
            assert one["status"] == "measured", one
            assert 0 < one["quartiles"][0] <= one["median"] <= one["quartiles"][1]
            assert one["first_step"] > 0
            assert one["bytes"] == one["peak_bytes"] - one["baseline_bytes"] > 0
        else:
            assert one["status"] == "not installed"


@pytest.mark.slow
def test_results_say_where_and_with_what_they_were_made(run):
    _, results = run
    assert results["command"].startswith("python -m benchmarks.engine --quick")
    assert results["machine"]["num_cores"] >= 1
    assert results["versions"]["tensorflow"]
    assert results["floors"][WORKLOAD]["flops"] == 9960 * 10**4
    assert results["bars"][0]["is_met"] is None


@pytest.mark.slow
def test_tables_end_the_output(run):
    stdout, _ = run
    assert f"{WORKLOAD} ours: measured" in stdout
    assert "mnist: ours / JAX" in stdout.rsplit("\n\n", 1)[1]


@pytest.mark.slow
def test_an_unknown_workload_is_refused_before_anything_runs():
    process = _run("--workloads=mnist,imagenet")
    assert process.returncode != 0
    assert "must be among mnist, cifar" in process.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ["mnist"],
            "error: Arguments must be flags. Received: ['mnist']. Write --name=value.",
        ),
        (
            [f"--output={ROOT}"],
            "error: --output must be a path where a file can be written. "
            f"Received: --output={ROOT}, where Is a directory. Choose another path.",
        ),
        (
            [f"--output={ROOT}/README.md/results.json"],
            "error: --output must be a path where a file can be written. "
            f"Received: --output={ROOT}/README.md/results.json, where File exists. Choose another "
            "path.",
        ),
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(flags, sentence):
    process = _run(*flags)
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1] == sentence
    assert process.stdout == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("time_limit", "memory_limit", "reason"),
    [
        (0.1, 10**12, "more than 0 s until the end of its first step"),
        (60.0, 10**6, "more than 0.0 GB of memory"),
    ],
)
def test_a_worker_beyond_its_limits_is_given_up(time_limit, memory_limit, reason, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(WorkerError, match=reason):
        Worker("ours", WORKLOAD, time_limit, memory_limit)


@pytest.mark.slow
def test_a_worker_says_what_went_wrong(monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(WorkerError, match=r"AttributeError: module .*one_device' has no attribute"):
        Worker("one_device", WORKLOAD, 60.0, 10**12)


class FakeWorker:
    """Takes 3 s a step of the unroll and 2 bytes beside 5 of its own; fails beyond a limit."""

    def __init__(self, contender, workload, time_limit, memory_limit, num_steps=20):
        if contender == "pytorch":
            raise WorkerError("out of order")
        self.num_steps = num_steps
        self.first = {"first_step": 1.0, "baseline_bytes": 100, "peak_bytes": 0} | self._peak()

    def _peak(self):
        return {"peak_bytes": 105 + 2 * self.num_steps}

    def measure(self, **request):
        return {"times": [3.0 * self.num_steps]} | self._peak()

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.fixture
def measured(monkeypatch):
    """Measurements by contender of `mlp_1m`, within 144 bytes."""
    monkeypatch.setattr(measurement, "Worker", FakeWorker)
    installed = {
        name: dataclasses.replace(one, framework="numpy") for name, one in CONTENDERS.items()
    }
    installed["jax_scan"] = dataclasses.replace(installed["jax_scan"], framework="no_such_package")
    monkeypatch.setattr(measurement, "CONTENDERS", installed)
    lines = []
    found = measure("mlp_1m", PLANS["mlp_1m"], 144, lines.append)
    assert len(lines) == len(found)
    return {one["contender"]: one for one in found}


def test_what_fits_is_measured(measured):
    assert measured["ours"]["status"] == "measured"
    assert (measured["ours"]["median"], measured["ours"]["bytes"]) == (60.0, 45)


def test_what_does_not_fit_is_extrapolated(measured):
    one = measured["plain_tensorflow"]
    assert one["status"] == "extrapolated"
    assert [trial["unroll_length"] for trial in one["trials"]] == [2, 4]
    assert (one["median"], one["bytes"]) == (60.0, 45)


def test_what_is_missing_or_fails_does_not_stop_the_rest(measured):
    assert measured["jax_scan"]["status"] == "not installed"
    assert measured["jax_scan"]["reason"].startswith("needs no_such_package")
    assert measured["pytorch"] == {
        "workload": "mlp_1m",
        "contender": "pytorch",
        "status": "failed",
        "reason": "out of order",
    }


def test_trials_are_continued_on_a_line():
    trials = [
        {"unroll_length": 2, "median": 3.0, "bytes": 10},
        {"unroll_length": 4, "median": 5.0, "bytes": 30},
    ]
    assert extrapolate(trials, 20) == {"median": 21.0, "bytes": 190}


@pytest.mark.parametrize("module", ["engine", "keras_optimizers"])
def test_what_starts_the_measurements_brings_no_framework(module):
    # A process that it starts would begin with its memory.
    program = (
        f"import sys, benchmarks.{module}\n"
        "print({'tensorflow', 'keras', 'jax', 'torch'} & sys.modules.keys())"
    )
    command = [sys.executable, "-c", program]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert process.stdout == "set()\n"
