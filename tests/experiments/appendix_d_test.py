import shutil

import numpy as np
import pytest

from experiments import appendix_d
from l2l_tf.delivery import export_rule
from l2l_tf.parameter_spec import ParameterSpec
from l2l_tf.rules import GlobalAveragingLSTM
from tests.experiments.binaries import refusals, run, strict_json

SMALL = ("--num_steps=5", "--num_tasks=2", "--num_functions=3", "--num_tuning_tasks=1")


def test_l_bfgs_reaches_the_minimum_and_counts_gradients():
    draw = np.random.default_rng(0)
    matrix, target = draw.standard_normal((4, 4)), draw.standard_normal(4)
    losses = appendix_d.scipy_losses(matrix, target, np.zeros(4), 60)
    assert losses.shape == (61,)
    assert losses[0] == pytest.approx(target @ target, rel=1e-12)
    assert losses[-1] < 1e-12
    assert (np.diff(losses) <= 0).all()
    # Shorter runs are the beginnings of longer ones.
    np.testing.assert_array_equal(
        appendix_d.scipy_losses(matrix, target, np.zeros(4), 7)[:8], losses[:8]
    )


def test_a_table_has_a_line_for_each_rule_and_a_gap_where_it_was_not_run():
    row = {"mean_loss": 0.5, "final_loss": 0.25, "median": 1e-12}
    rows = {"uniform": [{"rule": "lstm", **row}, {"rule": "sgd", **row}], "gaussian": []}
    rows["gaussian"].append({"rule": "sgd", **row, "median": 0.125})
    lines = appendix_d.table(rows).splitlines()
    assert lines[0].startswith("| rule | uniform: mean over steps | final, mean | final, median |")
    assert lines[2] == "| lstm | 0.5 | 0.25 | 1e-12 | - | - | - |"
    assert lines[3] == "| sgd | 0.5 | 0.25 | 1e-12 | 0.5 | 0.25 | 0.125 |"


@pytest.mark.slow
def test_a_run_compares_the_rules_of_each_family_with_baselines_and_l_bfgs(tmp_path):
    rule = GlobalAveragingLSTM((3,), 1, seed=0)
    export_rule(
        rule,
        tmp_path / "rules" / "lstm_gac_uniform" / "rule",
        {"name": "x"},
        [ParameterSpec("x", (10,))],
    )
    printed = run(
        "appendix_d",
        *SMALL,
        f"--rules_dir={tmp_path}/rules",
        f"--output_dir={tmp_path}/out",
        "--families=uniform",
        "--baselines=sgd",
    )
    rows = strict_json(tmp_path / "out" / "appendix_d.json")["rows"]
    others = ["ntm_bfgs, untrained", "ntm_lbfgs, untrained", appendix_d.SCIPY, "sgd"]
    names = {family: [row["rule"] for row in of_family] for family, of_family in rows.items()}
    assert names == {"uniform": ["lstm_gac", *others]}
    by_name = {row["rule"]: row for row in rows["uniform"]}
    assert all(row["num_runs"] == 6 for row in by_name.values())
    # All start from the same losses; an untrained rule of zero outputs stays there.
    starts = [row["curve"][0] for row in by_name.values()]
    np.testing.assert_allclose(starts, starts[0], rtol=1e-5)
    assert by_name["lstm_gac"]["final_loss"] == pytest.approx(starts[0], rel=1e-5)
    assert by_name[appendix_d.SCIPY]["final_loss"] < by_name["sgd"]["final_loss"]
    assert f"| {appendix_d.SCIPY} |" in printed
    shutil.rmtree(tmp_path / "out")
    wrong = {"families": ["--families=cubic"], "rule": ["--rule=mnist_lstm"]}
    given = {name: [f"--output_dir={tmp_path}/out", *own] for name, own in wrong.items()}
    told = refusals("appendix_d", dict.fromkeys(wrong, tmp_path), given)
    assert told["families"].errors == (
        "error: --families must be one or more of ['gaussian', 'ill_conditioned', 'uniform']. "
        "Received: --families=cubic. Check the spelling, or leave the flag out for all."
    )
    assert "--rule, which it does not" in told["rule"].errors
