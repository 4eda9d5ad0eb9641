"""Runs of `python -m experiments.mnist` that train a rule on several networks."""

import pytest

from l2l_tf.delivery.export import load_card
from tests.experiments.binaries import refusals, run

pytestmark = pytest.mark.slow

COMMAND = (
    *("--dataset=digits", "--mode=train", "--also_variants=relu", "--learned_rule=distilled"),
    *("--estimator=evolution", "--num_steps=2", "--unroll_length=2", "--num_meta_epochs=1"),
    *("--trajectories_per_meta_epoch=1", "--tasks_per_meta_step=1", "--num_validation_tasks=1"),
)
REFUSED = {
    "horizon": (
        ["--also_variants=steps200"],
        "error: --also_variants must be other networks of the same horizon, among ['units40', "
        "'layers2', 'relu']. Received: --also_variants=steps200 with --variant=base. Name each "
        "once.",
    ),
    "itself": (
        ["--also_variants=base"],
        "error: --also_variants must be other networks of the same horizon, among ['units40', "
        "'layers2', 'relu']. Received: --also_variants=base with --variant=base. Name each once.",
    ),
    "evaluation": (
        ["--mode=evaluate", "--rule=mnist_lstm"],
        "error: --also_variants must go with --mode=train, and with losses as they are. Received: "
        "--also_variants=relu with --mode=evaluate. Leave one or the other out.",
    ),
    "scales": (
        ["--random_scale_range=2"],
        "error: --also_variants must go with --mode=train, and with losses as they are. Received: "
        "--also_variants=relu with --mode=train and --random_scale_range=2.0. Leave one or the "
        "other out.",
    ),
}


def test_a_rule_is_trained_and_validated_on_each_network(tmp_path):
    run("mnist", *COMMAND, f"--output_dir={tmp_path}/out")
    training = load_card(tmp_path / "out" / "rule")["training"]
    for part in ("problem", "validation_problem"):
        assert training[part] == "digits_mlp20_sigmoid_and_relu"
        names = [one["name"] for one in training[f"{part}_config"]["problems"]]
        assert names == ["digits_mlp20_sigmoid", "digits_mlp20_relu"]


def test_what_does_not_go_with_several_networks_is_refused(tmp_path):
    arguments = {name: [*COMMAND, "--output_dir=@/out", *own] for name, (own, _) in REFUSED.items()}
    refused = refusals("mnist", dict.fromkeys(REFUSED, tmp_path), arguments)
    assert {name: one.errors for name, one in refused.items()} == {
        name: message for name, (_, message) in REFUSED.items()
    }
