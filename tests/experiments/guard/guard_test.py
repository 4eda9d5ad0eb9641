import json

import numpy as np
import pytest
import tensorflow as tf

from experiments.guard import certificate as certificates
from experiments.guard.cases import CASES
from experiments.guard.choice import numbers_of, share_kept
from experiments.guard.wild import RULES, Exact, Wavy
from l2l_tf.delivery import list_rules
from tests.experiments.binaries import refusals, run, strict_json

SEED = tf.constant([0, 1])


def _case(kind, fallback, alone, **guarded):
    of_thetas = {name.removeprefix("theta_"): loss for name, loss in guarded.items()}
    return {"kind": kind, "fallback": fallback, "alone": alone, "guarded": of_thetas}


# The choice


def test_a_guard_that_ends_halfway_keeps_half_of_the_gain():
    assert share_kept(fallback=3.0, rule=1.0, guarded=2.0) == 0.5


def test_each_theta_is_judged_by_its_worst_case():
    cases = {
        "one": _case("cost", 2.0, 1.0, theta_1=1.5, theta_2=1.0),
        "another": _case("cost", 2.0, 1.0, theta_1=1.25, theta_2=1.05),
        "third": _case("rescue", 2.0, None, theta_1=2.2, theta_2=2.04),
        "fourth": _case("rescue", 2.0, None, theta_2=1.0),
    }
    one, two = numbers_of(cases)
    assert (one.theta, one.share, one.ratio, one.num_missing) == (1, 0.5, 1.1, 1)
    assert not one.is_enough
    assert (two.share, two.ratio, two.num_missing) == (0.95, 1.02, 0)
    assert two.is_enough


def test_a_loss_that_is_not_finite_saves_nothing():
    (numbers,) = numbers_of({"one": _case("rescue", 2.0, 9.0, theta_5=None)})
    assert numbers.ratio == np.inf
    assert not numbers.is_enough


def test_cases_are_of_shipped_rules():
    assert {case.rule for case in CASES.values()} <= set(list_rules())


# The functions and the checks


@pytest.mark.parametrize("amplitude", [0.0, 2.0])
def test_exact_functions_are_those_of_the_problem(amplitude):
    problem = Wavy(3, amplitude=amplitude, num_dimensions=4)
    exact = Exact(problem, SEED)
    points = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    with tf.GradientTape() as tape:
        theta = tf.constant(points)
        tape.watch(theta)
        losses = problem.loss([theta], problem.batch(SEED, tf.constant(0)))
    np.testing.assert_allclose(exact.losses(points), losses, rtol=1e-5)
    np.testing.assert_allclose(exact.gradients(points), tape.gradient(losses, theta), rtol=1e-4)
    assert (exact.losses(points) >= exact.least).all()
    # No two gradients differ by more than beta times the distance of their points.
    others = points + 0.01 * np.random.default_rng(1).standard_normal((3, 4))
    change = np.linalg.norm(exact.gradients(others) - exact.gradients(points), axis=-1)
    assert (change <= exact.beta * np.linalg.norm(others - points, axis=-1)).all()


@pytest.fixture(scope="module")
def rows():
    with pytest.MonkeyPatch.context() as patch:
        chosen = {name: RULES[name] for name in ("uphill", "NaN")}
        patch.setattr(certificates, "RULES", chosen)
        waves = {"waves": lambda num_functions: Wavy(num_functions, amplitude=1.0)}
        patch.setattr(certificates, "PROBLEMS", waves)
        return certificates.certificate(2, 25, SEED, lambda: None)


def test_what_is_promised_holds_and_without_a_guard_it_does_not(rows):
    assert [(row["rule"], row["guard"]) for row in rows] == [
        (rule, guard)
        for rule in ("uphill", "NaN")
        for guard in ("relative", "budget", "backtracking")
    ]
    for row in rows:
        assert [row[f"num_fails_{one}"] for one in ("a", "b", "radius", "descent")] == [0] * 4
        assert row["guarded_diverged"] == 0
        assert row["alone_diverged"] == 1
        assert row["num_alone_fails_radius"] > 0
        assert row["num_alone_fails_descent"] > 0
        assert 0 < row["largest_share_of_b"] <= 1
    assert all(row["num_checked"] == 50 for row in rows if row["guard"] != "backtracking")
    assert all(row["num_taken_back"] > 0 for row in rows if row["guard"] == "backtracking")
    assert 0.9 < rows[1]["largest_share_of_budget"] <= 1 + 1e-5


def _run_of(exact, factor, rates):
    """Returns runs of one step from zero, that of gradient descent times a factor.

    Args:
        exact: the functions.
        factor: what eta is multiplied by in the step.
        rates: what it is multiplied by in what is claimed.
    """
    eta = 1 / exact.beta
    points = np.zeros((2, 2, 10))
    points[1] = -factor * eta * exact.gradients(points[0])
    gradients = np.stack([exact.gradients(one) for one in points])
    return certificates.Run(
        points, gradients, np.full((1, 2), rates * eta), np.zeros((1, 2), bool), np.zeros(2)
    )


def _failures(exact, run, mode="relative", budget=1.0):
    checks = certificates._checks(exact, run, mode, budget)
    return [checks[f"num_fails_{one}"] for one in ("a", "b", "radius", "descent")]


def test_the_checks_find_nothing_in_gradient_descent():
    exact = Exact(Wavy(2), SEED)
    assert _failures(exact, _run_of(exact, 1, 1)) == [0, 0, 0, 0]
    assert _failures(exact, _run_of(exact, 1, 1), "budget") == [0, 0, 0, 0]


def test_the_checks_of_the_guard_find_what_it_should_have_cut():
    exact = Exact(Wavy(2), SEED)
    assert _failures(exact, _run_of(exact, 1.95, 1))[:3] == [0, 0, 2]
    # A step uphill is far beyond the radius, and the loss rises; (A) and (B) hold of any v.
    assert _failures(exact, _run_of(exact, -1, 1)) == [0, 0, 2, 2]
    # Far from the minima, the sum of squared gradients is more than its bound.
    far = _run_of(exact, -30, 1)
    points = np.concatenate([far.points, far.points[1:]])
    longer = far._replace(
        points=points,
        gradients=np.stack([exact.gradients(one) for one in points]),
        rates=np.repeat(far.rates, 2, 0),
        took_back=np.repeat(far.took_back, 2, 0),
    )
    assert _failures(exact, longer, "budget", 1e-6) == [0, 0, 2, 2]


def test_with_an_eta_that_is_too_large_a_and_b_do_not_hold():
    exact = Exact(Wavy(2), SEED)
    run = _run_of(exact, 20, 20)
    assert _failures(exact, run)[:2] == [2, 2]


# The binary


@pytest.mark.slow
def test_it_runs_a_case_and_adds_to_what_is_there(tmp_path):
    arguments = [
        f"--output_dir={tmp_path}",
        "--parts=cost",
        "--cases=quadratic_lstm",
        "--num_tasks=1",
        "--num_tuning_tasks=1",
        "--share_of_steps=0.03",
    ]
    (tmp_path / "results.json").write_text(
        json.dumps({"experiment": "guard", "seed": 0, "scope": "all", "adapts": True})
    )
    (tmp_path / "flags.txt").write_text("--thetas=7\n")
    printed = run("guard", *arguments, "--thetas=0,1e30")
    results = strict_json(tmp_path / "results.json")
    case = results["cases"]["quadratic_lstm"]
    assert case["num_steps"] == 3
    assert case["guarded"]["0"] == case["fallback"]
    assert case["guarded"]["1e+30"] == case["alone"]
    assert "| quadratic_lstm | 3 | 1 |" in printed
    # Runs that share a folder leave each other's flags.
    assert (tmp_path / "flags.txt").read_text() == "--thetas=7\n"
    assert "--thetas=0,1e30" in (tmp_path / "flags_2.txt").read_text()
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_wrong_flags_are_refused(tmp_path):
    cases = {
        "parts": (
            ["--parts=all"],
            "error: --parts must be among ['certificate', 'cost', 'rescue']. Received: ['all']. "
            "Leave it out for all.",
        ),
        "thetas": (
            ["--thetas=1,-1"],
            "error: --thetas must be numbers that are not negative. Received: --thetas=1,-1. "
            "Give, say, --thetas=1,2,inf.",
        ),
        "results": (
            ["--parts=cost"],
            "error: --output_dir must be new, or hold results of this experiment. Received: "
            "--output_dir=@, whose results.json holds something else. Choose another folder.",
        ),
    }
    folders = {name: tmp_path / name for name in cases}
    for folder in folders.values():
        folder.mkdir()
    (folders["results"] / "results.json").write_text("{}")
    given = {name: ["--output_dir=@", *arguments] for name, (arguments, _) in cases.items()}
    for name, refused in refusals("guard", folders, given).items():
        assert refused.errors == cases[name][1].replace("@", str(folders[name]))
        assert refused.status == 1
        assert refused.unchanged
