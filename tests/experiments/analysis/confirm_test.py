import numpy as np
import pytest

from experiments.analysis.confirm import Changed, with_untrained_part
from l2l_tf import load_rule
from l2l_tf.rules import SGD
from tests.experiments.binaries import refusals, run, strict_json
from tests.rules.run_rule import run_rule


def test_gradients_are_changed_before_the_rule_and_deltas_after_it():
    gradients = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    rule = SGD(0.1, momentum=0.9)
    changed = run_rule(Changed(rule, 10.0, 0.5), gradients)
    np.testing.assert_allclose(changed, 5 * run_rule(rule, gradients), rtol=1e-5)


def test_a_part_loses_what_it_has_learned_and_the_others_keep_it():
    gradients = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    rule = load_rule("cifar_lstm")
    changed = with_untrained_part(rule, "conv")
    assert changed.parts["other"] is rule.parts["other"]
    # An untrained RNNprop moves nothing.
    np.testing.assert_array_equal(run_rule(changed.parts["conv"], gradients), 0)
    assert np.abs(run_rule(rule.parts["conv"], gradients)).max() > 1e-5


@pytest.mark.slow
def test_losses_with_each_change_are_written(tmp_path):
    printed = run(
        "analysis.confirm",
        f"--output_dir={tmp_path}",
        "--rule=quadratic_lstm",
        "--problem=quadratic",
        "--gradient_factors=1,1e-6",
        "--num_steps=10",
        "--num_tasks=1",
        "--beside=momentum",
    )
    same, blind, beside = strict_json(tmp_path / "confirm.json")["rows"]
    assert (same["gradient_factor"], blind["gradient_factor"]) == (1, 1e-6)
    assert same["final_loss"] < blind["final_loss"] / 2
    assert "| quadratic | quadratic_lstm | 1 | 1 |" in printed
    assert beside["rule"].startswith("momentum, rate ")
    # The rule knows its own problem better.
    assert same["final_loss"] < beside["final_loss"] < blind["final_loss"]
    folders = {name: tmp_path for name in ("factor", "rule", "parts", "part", "both", "beside")}
    wrong = {
        "parts": ["--rule=quadratic_lstm", "--untrained_parts=conv"],
        "part": ["--rule=cifar_lstm", "--untrained_parts=bias"],
        "both": ["--rule=cifar_lstm", "--untrained_parts=conv", "--delta_factors=2"],
        "beside": ["--rule=quadratic_lstm", "--beside=newton"],
        "factor": ["--rule=quadratic_lstm", "--gradient_factors=0"],
        "rule": ["--rule=cifar_lstm"],
    }
    given = {name: ["--output_dir=@/new", *own] for name, own in wrong.items()}
    told = {name: one.errors for name, one in refusals("analysis.confirm", folders, given).items()}
    assert told["factor"] == (
        "error: --gradient_factors must be finite numbers other than zero, with commas between "
        "them. Received: --gradient_factors=0. Give, say, --gradient_factors=1,0.1."
    )
    assert told["rule"] == (
        "error: --rule must name one or more rules that update all coordinates alike. Received: "
        "--rule=cifar_lstm. Name, say, mnist_lstm."
    )
    assert told["parts"] == (
        "error: --rule must name one or more rules that have parts, for --untrained_parts. "
        "Received: --rule=quadratic_lstm. Name, say, cifar_lstm."
    )
    assert told["part"] == (
        "error: --untrained_parts must name parts of the rule, conv, other. Received: bias. "
        "Name one of these."
    )
    assert told["both"] == (
        "error: --gradient_factors and --delta_factors must be left out with --untrained_parts. "
        "Received: --gradient_factors=1 --delta_factors=2. Run them apart."
    )
    assert told["beside"] == (
        "error: --beside must be among ['adam', 'momentum', 'nag', 'rmsprop', 'sgd']. Received: "
        "newton. Name one of them."
    )
