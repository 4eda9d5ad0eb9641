"""Runs of `python -m experiments.mnist.initial_stddev`, on digits."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from experiments.mnist.initial_stddev import log_error
from l2l_tf.reporting.figures import ReferenceCurve
from tests.experiments.binaries import Refusal, refusals, run, strict_json

SETTINGS = (
    "--dataset=digits",
    "--num_steps=10",
    "--num_tasks=2",
    "--num_tuning_tasks=2",
    "--batch_size=16",
)


def test_the_error_is_the_root_mean_square_of_the_logarithm_of_ratios_at_shared_steps():
    curve = np.array([2.0, 3.0, 4.0])
    # Of two steps that both have, one is off by a factor of e and one by e^-2; step 7 is not ours.
    references = [
        ReferenceCurve("nag", [0, 2, 7], [2 * math.e, 4 / math.e**2, 9.0]),
        ReferenceCurve("sgd", [0], [2.0]),
    ]
    assert log_error(curve, references, "nag") == pytest.approx(math.sqrt((1 + 4) / 2), rel=1e-12)
    assert log_error(curve, references, "sgd") == 0


# The commands


def _write_curves(folder: Path) -> None:
    curve = {"step": [1, 2], "loss": [2.3, 2.2]}
    figure = dict.fromkeys(["ADAM", "SGD", "NAG", "LSTM"], curve)
    contents = {"fig4_mnist": figure, "fig5_2layers": figure}
    (folder / "curves.json").write_text(json.dumps(contents))


@pytest.mark.slow
def test_a_run_writes_a_row_for_each_standard_deviation(tmp_path):
    _write_curves(tmp_path)
    output = run(
        "mnist.initial_stddev",
        *SETTINGS,
        "--initial_stddevs=0.3,0.1",
        "--baselines=adam",
        f"--reference_curves={tmp_path / 'curves.json'}",
        f"--output_dir={tmp_path / 'out'}",
    )
    files = ["evaluate_flags.txt", "initial_stddev.json", "initial_stddev.md"]
    assert sorted(os.listdir(tmp_path / "out")) == files
    rows = strict_json(tmp_path / "out" / "initial_stddev.json")["rows"]
    assert [row["initial_stddev"] for row in rows] == [0.1, 0.3]
    for row in rows:
        errors = [row["base, adam: error"], row["2 layers, adam: error"]]
        assert row["all: error"] == pytest.approx(math.hypot(*errors) / math.sqrt(2), rel=1e-12)
        assert 0 < row["base, adam: final"] < math.log(10) + 0.5
    table = (tmp_path / "out" / "initial_stddev.md").read_text()
    assert table in output
    header, _, first, second = table.splitlines()
    names = ["base, adam: error", "base, adam: final", "2 layers, adam: error"]
    names = ["initial_stddev", *names, "2 layers, adam: final", "all: error"]
    assert header == f"| {' | '.join(names)} |"
    for line, row in zip((first, second), rows, strict=True):
        assert line == f"| {' | '.join(f'{row[name]:.3g}' for name in names)} |"


CASES = {
    "no_curves": (
        [],
        "error: --reference_curves must be given: curves are compared with the paper's. Received: "
        "none. Give the path of a JSON file (--helpfull says in which form).",
    ),
    "words": (
        ["--reference_curves=@/curves.json", "--initial_stddevs=wide"],
        "error: --initial_stddevs must be finite numbers that are not negative. Received: "
        "--initial_stddevs=wide. Give, say, --initial_stddevs=0.01,0.1.",
    ),
    "negative": (
        ["--reference_curves=@/curves.json", "--initial_stddevs=-1,0.1"],
        "error: --initial_stddevs must be finite numbers that are not negative. Received: "
        "--initial_stddevs=-1,0.1. Give, say, --initial_stddevs=0.01,0.1.",
    ),
    "baseline_without_a_curve": (
        ["--reference_curves=@/curves.json", "--baselines=sgd,momentum"],
        "error: --baselines must be among ['adam', 'nag', 'sgd'], of which there are published "
        "curves. Received: --baselines=sgd,momentum. Leave it out for sgd and nag.",
    ),
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory) -> dict[str, Refusal]:
    root = tmp_path_factory.mktemp("refused")
    folders = {name: root / name for name in CASES}
    for folder in folders.values():
        folder.mkdir()
        _write_curves(folder)
    arguments = {name: [*SETTINGS, "--output_dir=@/out", *own] for name, (own, _) in CASES.items()}
    return refusals("mnist.initial_stddev", folders, arguments)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_wrong_flag_is_answered_with_one_sentence_and_changes_nothing(refused, case):
    folder, status, errors, unchanged = refused[case]
    assert errors == CASES[case][1].replace("@", str(folder))
    assert status == 1
    assert unchanged
