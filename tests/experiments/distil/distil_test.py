import numpy as np
import pytest

import l2l_tf
from experiments.distil.__main__ import explained_by, tables
from experiments.distil.fitting import fit_recursive, fit_taps
from l2l_tf.rules import DistilledRule
from tests.analysis.made_up import made_record
from tests.experiments.binaries import refusals, run, strict_json


def _moved(form: str, **arguments) -> DistilledRule:
    """Returns a rule whose numbers are not those of an untrained one."""
    rule = DistilledRule(form, **arguments)
    if form == "taps":
        rule.set_weights([np.log(2.0), np.array([0.6, -0.3, 0.2])])
    else:
        logits = np.log([0.6 / 0.4, 0.97 / 0.03])
        direction, gate = np.array([1.0, 0.4]), np.log([0.05, 1.5])
        rule.set_weights([np.log(2.0), np.log(5.0), logits, direction, gate, np.array(0.4)])
    return rule


def test_taps_are_found_again():
    teacher = _moved("taps", num_taps=3)
    records = [made_record(teacher, seed=seed) for seed in (0, 1)]
    fit = fit_taps(records, 3)
    assert fit.numbers["input_gain"] == 2
    np.testing.assert_allclose(fit.numbers["taps"], [0.6, -0.3, 0.2], atol=1e-5)
    assert fit.explained == pytest.approx(1, abs=1e-6)
    assert explained_by(fit.rule, made_record(teacher, seed=2)) == pytest.approx(1, abs=1e-5)
    assert fit_taps(records, 1).explained < 0.95


def test_gains_decays_direction_and_gate_are_found_again():
    teacher = _moved("recursive")
    records = [made_record(teacher, num_steps=60, seed=seed) for seed in (0, 1)]
    fit = fit_recursive(records)
    names = ("input_gain", "reference_gain", "momentum", "memory", "threshold")
    assert [fit.numbers[name] for name in names] == [2, 5, 0.6, 0.97, 0.4]
    np.testing.assert_allclose(fit.numbers["direction"], [1, 0.4], atol=1e-2)
    assert fit.numbers["floor"] == pytest.approx(0.05, abs=1e-3)
    assert fit.numbers["slope"] == pytest.approx(1.5, abs=1e-2)
    assert explained_by(fit.rule, made_record(teacher, seed=2)) == pytest.approx(1, abs=1e-4)


def test_tables_have_a_line_for_each_rule():
    contents = {
        "explained": {"adam": {"mnist": 0.3}, "recursive": {"mnist": 0.62}},
        "final_losses": {
            "mnist": {
                "teacher": {"final_loss": 0.25, "stderr": 0.011},
                "distilled": {"final_loss": 0.2612, "stderr": 0.012},
            }
        },
        "num_tasks": 4,
    }
    assert "| recursive | 0.620 |" in tables(contents)
    assert "| distilled | 0.2612 ± 0.012 |" in tables(contents)
    assert "| ratio | 1.04 |" in tables(contents)


@pytest.mark.slow
def test_a_rule_is_distilled_and_trains_on(tmp_path):
    printed = run(
        "distil",
        f"--output_dir={tmp_path}/out",
        "--rule=quadratic_lstm",
        "--problem=quadratic",
        "--num_steps=6",
        "--num_tasks=1",
        "--num_coordinates=20",
        "--num_taps=2",
    )
    found = strict_json(tmp_path / "out" / "distil.json")
    assert list(found["explained"]) == ["adam", "momentum", "sgd", "2 taps", "recursive"]
    assert set(found["final_losses"]["quadratic"]) == {"quadratic_lstm", "distilled"}
    assert "| recursive |" in printed
    rule = l2l_tf.load_rule(tmp_path / "out" / "rule")
    assert rule.form == "recursive"
    numbers = found["numbers"]["recursive"]
    np.testing.assert_allclose(np.exp(rule.log_gate), [numbers["floor"], numbers["slope"]], 1e-4)
    folders = {name: tmp_path for name in ("tensors", "taps")}
    wrong = {
        "tensors": ["--rule=general"],
        "taps": ["--rule=mnist_lstm", "--num_taps=0"],
    }
    given = {name: ["--output_dir=@/new", *own] for name, own in wrong.items()}
    told = {name: one.errors for name, one in refusals("distil", folders, given).items()}
    assert told["tensors"] == (
        "error: --rule must be a rule that updates each coordinate by itself. Received: "
        "--rule=general, which looks at whole tensors. Name another."
    )
    assert told["taps"] == (
        "error: --num_taps must be positive integers, with commas between them. Received: "
        "--num_taps=0. Give, say, --num_taps=5,20."
    )
