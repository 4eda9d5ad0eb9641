"""Runs of `python -m experiments.general`."""

import json

import matplotlib.image
import pytest

from tests.experiments.binaries import refusals, run
from tests.experiments.binaries import strict_json as read_strict_json

pytestmark = pytest.mark.slow

COMMAND = (
    "--mode=evaluate",
    "--tasks=friedman_regression",
    "--rule=mnist_rnnprop",
    "--baselines=",
    "--num_seeds=1",
)


def test_a_rule_is_run_and_its_files_are_written(tmp_path):
    printed = run("general", *COMMAND, f"--output_dir={tmp_path}")
    assert "friedman_regression: mnist_rnnprop, untuned, seed 0: " in printed
    assert "validation tasks, looked at while rules are made" in printed
    entry = json.loads((tmp_path / "runs.jsonl").read_text())
    assert (entry["task"], entry["contender"], entry["num_steps"]) == (
        "friedman_regression",
        "mnist_rnnprop",
        1000,
    )
    assert len(entry["losses"]) == 50
    # Standardised targets.
    assert entry["final_loss"] < 0.1
    results = read_strict_json(tmp_path / "results_validation.json")
    assert list(results["tasks"]) == ["friedman_regression"]
    for figure in ("profile_validation.png", "losses_validation.png"):
        assert matplotlib.image.imread(tmp_path / figure).size


ARGUMENTS = {
    "task": ["--output_dir=@/out", "--split=test", "--tasks=mnist_conv,mnist14_gru"],
    "baseline": ["--output_dir=@/out", "--baselines=adam,nag"],
    "unread": ["--output_dir=@/out", "--num_steps=7", "--dataset=digits", "--first_rates=adam:1"],
    "kept": ["--output_dir=@/out", "--kept_runs=@/none"],
    "rule": ["--output_dir=@/out", "--rule=nothing"],
}


def test_wrong_flags_are_refused_in_one_sentence(tmp_path):
    folders = {case: tmp_path / case for case in ARGUMENTS}
    for folder in folders.values():
        folder.mkdir()
    refused = refusals("general", folders, ARGUMENTS)
    assert {one.status for one in refused.values()} == {1}
    assert refused["task"].errors == (
        "error: --tasks must be among ['mnist_mlp_sigmoid', 'text_classifier', "
        "'tabular_regression', 'mnist_mlp_relu', 'mnist_conv', 'mnist_autoencoder', 'mnist_vae', "
        "'char_gru', 'cifar_conv', 'char_transformer', 'cifar_resnet20'], which are those of "
        "--split=test. Received: ['mnist14_gru']. Check the spelling and the split, or leave the "
        "flag out for all."
    )
    assert refused["baseline"].errors == (
        "error: --baselines must be among ['adam', 'adam_cosine', 'adamw_cosine', 'lion_cosine', "
        "'muon_cosine', 'nag95_cosine', 'nag_cosine', 'schedule_free_adamw']. Received: ['nag']. "
        "Check the spelling, or leave the flag out."
    )
    assert refused["unread"].errors == (
        "error: Flags must be ones that experiments.general reads. Received: --dataset, "
        "--first_rates, --num_steps, which it does not. Leave them out; each task has its own "
        "data, network and horizon."
    )
    assert refused["kept"].errors == (
        "error: --kept_runs must be files of runs that evaluations have written. Received: "
        f"['{tmp_path}/kept/none'], which are none. Check the paths, or leave the flag out."
    )
    assert refused["rule"].errors.startswith("error: A rule must be one of ['cifar_lstm', ")
    assert refused["rule"].errors.endswith(
        "or the folder of a saved rule. Received: 'nothing'. Check the spelling, or export a rule "
        "there."
    )
