import math

import matplotlib.image
import numpy as np
import pytest

from experiments.general.explain import explain, general_rule
from experiments.general.figures import draw_decisions
from l2l_tf.rules import GeneralRule
from tests.experiments.binaries import refusals, run, strict_json
from tests.experiments.general.made_up import linear_data, linear_task


def test_what_a_rule_decides_is_recorded_and_drawn(tmp_path):
    found = explain(linear_task(num_steps=120), linear_data(), general_rule("general_untrained"))
    assert found["steps"] == [120 * (point + 1) // 50 for point in range(50)]
    assert found["losses"][-1] < found["losses"][0]
    kernel, bias = found["tensors"].values()
    assert list(found["tensors"]) == ["sequential/output/kernel", "sequential/output/bias"]
    assert (kernel["shape"], bias["shape"]) == ([3, 1], [1])
    nominal = {"gradient": 0.1, "mean": 0.45, "slow_mean": 0.45, "adam": 0.0}
    for name, share in nominal.items():
        np.testing.assert_allclose(kernel["orthogonalized"][name], [share] * 50, atol=1e-6)
    assert "orthogonalized" not in bias
    for one in (kernel, bias):
        assert {name: set(shares) for name, shares in one["mix"].items()} == {
            "gradient": {0.0},
            "adam": {0.0},
            "slow_adam": {0.0},
            "orthogonal": {1.0},
        }
        assert set(one["log_rate"]) == {0.0}
        # The first step, before any gradient persists.
        assert one["pace"][0] == pytest.approx(0.8)
        np.testing.assert_allclose(one["decay"], 3e-3 * math.log1p(math.exp(-5)), rtol=1e-5)
    draw_decisions(tmp_path / "decisions.png", found, "A linear model")
    height, width, _ = matplotlib.image.imread(tmp_path / "decisions.png").shape
    assert width > height


def test_shares_of_a_learned_rule_add_up_to_one_without_their_signs():
    rule, draw = GeneralRule(num_hidden=2, seed=0), np.random.default_rng(0)
    rule.set_weights([one + 0.3 * draw.standard_normal(one.shape) for one in rule.get_weights()])
    found = explain(linear_task(num_steps=3), linear_data(), rule)
    kernel, _ = found["tensors"].values()
    for kind in ("mix", "orthogonalized"):
        table = np.array(list(kernel[kind].values()))
        assert table.shape == (4, 3)
        np.testing.assert_allclose(np.abs(table).sum(axis=0), 1)
    assert len(set(kernel["log_rate"])) == 3


def test_a_rule_without_a_controller_of_tensors_is_refused():
    with pytest.raises(ValueError, match="mnist_rnnprop"):
        general_rule("mnist_rnnprop")


@pytest.mark.slow
def test_a_command_writes_numbers_and_a_figure(tmp_path):
    arguments = ("--rule=general_untrained", "--tasks=friedman_regression")
    printed = run("general.explain", *arguments, f"--output_dir={tmp_path}")
    names = ("decisions_friedman_regression.json", "decisions_friedman_regression.png")
    assert f"Wrote {names[0]} and {names[1]} to {tmp_path}" in printed
    results = strict_json(tmp_path / names[0])
    assert (results["task"], results["rule"]) == ("friedman_regression", "general_untrained")
    assert len(results["tensors"]) == 6
    assert matplotlib.image.imread(tmp_path / names[1]).size
    folders = {"two": tmp_path}
    wrong = {"two": ["--output_dir=@/out", "--rule=general_untrained"]}
    assert refusals("general.explain", folders, wrong)["two"].errors == (
        "error: --tasks and --rule must each name one. Received: --tasks= "
        "--rule=general_untrained. Run once for each."
    )
