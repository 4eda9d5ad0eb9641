"""Runs of `python -m experiments.general`."""

import json

import matplotlib.image
import pytest

import l2l_tf
from l2l_tf.rules import GeneralRule
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


NETWORKS = ("--kinds=labels,teacher", "--networks_of_each_kind=1")
TRAINING = (
    "--mode=train",
    *NETWORKS,
    # Networks of few layers.
    "--seed=1",
    "--num_steps=12",
    "--num_meta_epochs=1",
    "--trajectories_per_meta_epoch=2",
    "--num_validation_tasks=1",
)


def test_a_rule_is_trained_in_two_stages_and_ready_for_any_model(tmp_path):
    run(
        "general",
        *TRAINING,
        "--trained_weights=mix_",
        "--second_derivatives=1",
        "--rematerialize",
        "--unroll_length=12",
        "--counted_share=0.5",
        f"--output_dir={tmp_path}/mix",
    )
    first = l2l_tf.delivery.load_rule(tmp_path / "mix" / "rule")
    untrained = GeneralRule(seed=1)
    assert _moved(untrained, first) == {"mix_kernel", "mix_bias"}
    printed = run(
        "general",
        *TRAINING,
        "--estimator=evolution",
        "--trained_weights=rate_",
        "--unroll_length=6",
        "--reuse_noise",
        f"--initial_rule={tmp_path}/mix/rule",
        f"--output_dir={tmp_path}/rates",
    )
    assert "Wrote the " in printed
    card = read_strict_json(tmp_path / "rates" / "rule" / "card.json")
    assert card["name"] == "general"
    assert card["training"]["estimator"]["config"]["weights"] == "rate_"
    assert card["training"]["initial_rule"]["weights"] == "mix_"
    assert [one["name"] for one in card["training"]["problem_config"]["problems"]] == [
        "teacher_0_gains",
        "labels_0",
    ]
    progress = card["training"]["progress"]
    # Whole unrolls of 6 steps, two to a trajectory, and no gradient that is not finite.
    assert (progress["num_trajectories"], progress["num_skipped"]) == (2, 0)
    second = l2l_tf.delivery.load_rule(tmp_path / "rates" / "rule")
    # The initial rule is kept unless a meta-epoch is better.
    assert _moved(first, second) <= {"rate_kernel", "rate_bias"}
    assert l2l_tf.load(tmp_path / "rates" / "rule", num_steps=5).num_steps == 5


def _moved(before, after) -> set[str]:
    pairs = zip(before.trainable_variables, after.trainable_variables, strict=True)
    return {old.name for old, new in pairs if (old.numpy() != new.numpy()).any()}


ARGUMENTS = {
    "train": ["--output_dir=@/out", "--mode=train", "--rule=mnist_lstm", "--data_dir=@/none"],
    "kinds": ["--output_dir=@/out", "--mode=train", "--kinds=labels,nothing"],
    "kind": [
        *("--output_dir=@/out", "--mode=train", "--kinds=labels"),
        "--networks_of_each_kind=1",
    ],
    "estimator": ["--output_dir=@/out", "--mode=train", *NETWORKS, "--reuse_noise"],
    "units": ["--output_dir=@/out", "--mode=train", *NETWORKS, "--units=3"],
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
    assert refused["train"].errors == (
        "error: Flags must be ones that experiments.general reads. Received: --data_dir, --rule, "
        "which it does not. Leave them out; they are for evaluations, or for other rules."
    )
    assert refused["kinds"].errors == (
        "error: --kinds must be among ['autoencoder', 'characters', 'convolutions', 'labels', "
        "'large_digits', 'residual', 'rows', 'small_digits', 'teacher', 'words']. "
        "Received: ['nothing']. Check the spelling, or leave the flag out for all."
    )
    assert refused["kind"].errors == (
        "error: --kinds must give two networks or more. "
        "Received: --kinds=labels with --networks_of_each_kind=1. Give more of either."
    )
    assert refused["estimator"].errors == (
        "error: --reuse_noise must be left out where --estimator is not evolution, which alone has "
        "it. Received: --reuse_noise=True with --estimator=backpropagation. Leave one of the two "
        "out."
    )
    assert refused["units"].errors == (
        "error: --units must be left out where --learned_rule is none of lstm, lstm_gac, "
        "ntm_bfgs, ntm_lbfgs, rnnprop, which alone have it. Received: "
        "--units=['3'] with --learned_rule=general. Leave one of the two out."
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
