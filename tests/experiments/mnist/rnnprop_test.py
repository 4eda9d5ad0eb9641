"""A run of `python -m experiments.quadratic` that trains RNNprop with every option in use."""

import json
from pathlib import Path

import pytest

from l2l_tf.delivery.export import load_card
from l2l_tf.delivery.pretrained import load_rule
from l2l_tf.rules.rnnprop import RNNprop
from tests.experiments.binaries import run

pytestmark = pytest.mark.slow

COMMAND = (
    *("--num_functions=3", "--num_dimensions=2", "--num_steps=5", "--unroll_length=2"),
    *("--num_tasks=2", "--num_tuning_tasks=2", "--num_validation_tasks=1", "--baselines=sgd"),
    *("--num_meta_epochs=2", "--trajectories_per_meta_epoch=2", "--units=3,4"),
    *("--learned_rule=rnnprop", "--step_weights=last"),
    *("--random_scale_range=3", "--num_convex_dimensions=4", "--weight_average=0.9"),
)


def _run(*arguments: str) -> None:
    run("quadratic", *COMMAND, *arguments)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder of a run that trained and evaluated."""
    folder = tmp_path_factory.mktemp("rnnprop")
    _run(f"--output_dir={folder}")
    return folder


def test_the_rule_is_an_rnnprop_of_the_flags(trained):
    rule = load_rule(trained / "rule")
    assert type(rule) is RNNprop
    assert rule.units == (3, 4)
    assert rule.output_scale == 0.1


def test_the_card_names_the_rule_its_source_and_what_was_learned_from(trained):
    card = load_card(trained / "rule")
    assert card["name"] == "quadratic_rnnprop"
    assert card["source"] == "Lv, Jiang and Li 2017, arXiv 1703.03633"
    assert card["training"]["step_weights"] == [0.0, 1.0]
    optimizer = card["training"]["optimizer"]["config"]
    assert (optimizer["use_ema"], optimizer["ema_momentum"]) == (True, 0.9)


def test_the_rule_is_trained_with_scales_and_a_convex_term_and_chosen_and_compared_without(trained):
    training = load_card(trained / "rule")["training"]
    results = json.loads((trained / "results.json").read_text())
    assert results["problem"] == "quadratic_uniform"
    assert training["validation_problem_config"] == results["problem_config"]
    assert training["problem"] == "quadratic_uniform_scaled_with_convex_term"
    assert training["problem_config"] == {
        "problem": {"problem": results["problem_config"], "log_range": 3.0},
        "num_dimensions": 4,
        "log_range": 1.0,
    }


def test_the_rule_is_compared_under_its_name(trained):
    results = json.loads((trained / "results.json").read_text())
    assert [row["rule"] for row in results["rows"]] == ["quadratic_rnnprop", "sgd"]


def test_the_flags_that_a_run_wrote_repeat_it(trained, tmp_path):
    _run(f"--flagfile={trained / 'evaluate_flags.txt'}", f"--output_dir={tmp_path}")
    results = [(folder / "results.json").read_bytes() for folder in (trained, tmp_path)]
    assert results[0] == results[1]
