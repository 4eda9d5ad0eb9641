import numpy as np
import pytest

from experiments.analysis.confirm import Changed
from l2l_tf.rules import SGD
from tests.experiments.binaries import refusals, run, strict_json
from tests.rules.run_rule import run_rule


def test_gradients_are_changed_before_the_rule_and_deltas_after_it():
    gradients = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    rule = SGD(0.1, momentum=0.9)
    changed = run_rule(Changed(rule, 10.0, 0.5), gradients)
    np.testing.assert_allclose(changed, 5 * run_rule(rule, gradients), rtol=1e-5)


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
    )
    same, blind = strict_json(tmp_path / "confirm.json")["rows"]
    assert (same["gradient_factor"], blind["gradient_factor"]) == (1, 1e-6)
    assert same["final_loss"] < blind["final_loss"] / 2
    assert "| quadratic | quadratic_lstm | 1 | 1 |" in printed
    folders = {name: tmp_path for name in ("factor", "rule")}
    wrong = {
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
