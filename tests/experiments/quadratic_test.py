"""Runs of `python -m experiments.quadratic`.

TensorFlow takes seconds to start, so tests share runs: a fixture makes one, and many tests check
it.
"""

import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import tensorflow as tf

from experiments.harness.places import locked
from l2l_tf.delivery.export import export_rule, load_card, update_card
from l2l_tf.delivery.pretrained import list_rules, load_rule
from l2l_tf.evaluation.tuning import DEFAULT_LEARNING_RATES, tune
from l2l_tf.problems.quadratic import Quadratic
from l2l_tf.problems.seeds import task_seeds
from l2l_tf.reporting.results import COMPARED
from l2l_tf.rules.coordinatewise_lstm import CoordinatewiseLSTM
from l2l_tf.rules.hand_designed import BASELINES
from tests.experiments.binaries import (
    ROOT,
    Fork,
    Refusal,
    own_lines,
    refusals,
    run,
    run_as_users_do,
    run_fork,
    start_fork,
    strict_json,
)
from tests.reference import quadratic as reference

pytestmark = pytest.mark.slow

NUM_STEPS, NUM_FUNCTIONS, NUM_TASKS, SEED = 4, 3, 2, 5
SETTINGS = (
    f"--num_steps={NUM_STEPS}",
    f"--num_functions={NUM_FUNCTIONS}",
    f"--num_tasks={NUM_TASKS}",
    f"--seed={SEED}",
    "--num_dimensions=2",
    "--initial_stddev=1",
    "--num_tuning_tasks=2",
    "--num_validation_tasks=1",
    "--unroll_length=2",
    "--units=3",
    "--baselines=sgd,adam",
)
TRAINING = (*SETTINGS, "--num_meta_epochs=2", "--trajectories_per_meta_epoch=3")
# A second or two within one meta-epoch, and several checkpoints a second, most of them in the
# middle of a trajectory.
LONG_TRAJECTORIES = 30
LONG_TRAINING = (
    *SETTINGS,
    "--mode=train",
    "--num_steps=20",
    "--num_meta_epochs=1",
    f"--trajectories_per_meta_epoch={LONG_TRAJECTORIES}",
    "--checkpoint_seconds=0.2",
)
LONG_META_STEPS = LONG_TRAJECTORIES * 10
PROBLEM_CONFIG = {
    "family": "uniform",
    "num_functions": NUM_FUNCTIONS,
    "num_dimensions": 2,
    "initial_stddev": 1.0,
    "dtype": "float32",
}


def _run(*arguments: str, **environment: str) -> str:
    return run("quadratic", *arguments, **environment)


def _weights(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "rule" / "weights.npz") as archive:
        return dict(archive)


def _assert_same_weights(one: Path, other: Path) -> None:
    ours, theirs = _weights(one), _weights(other)
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        np.testing.assert_array_equal(weight, theirs[name], err_msg=name)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, str]:
    """The folder of a run that trained and evaluated, and what it printed."""
    folder = tmp_path_factory.mktemp("trained") / "made" / "run"
    return folder, run_as_users_do("quadratic", *TRAINING, f"--output_dir={folder}")


# Training and evaluating


def test_a_run_writes_a_rule_results_a_figure_flags_checkpoints_and_logs(trained):
    folder, _ = trained
    assert sorted(os.listdir(folder)) == [
        "checkpoints",
        "evaluate_flags.txt",
        "logs",
        "quadratic.png",
        "results.json",
        "rule",
        "train_flags.txt",
    ]


def test_a_run_shows_its_progress_the_table_and_where_things_are(trained):
    folder, output = trained
    lines = re.sub(r"\x1b\[[0-9;]*m", "", output).splitlines()
    results = strict_json(folder / "results.json")
    for epoch in (1, 2):
        assert f"Meta-epoch {epoch}/2" in lines
    # Three trajectories of two unrolls.
    assert sum("6/6" in line and "validation_loss: " in line for line in lines) == 2
    assert [line.split()[0] for line in lines[-6:-2]] == [
        "-" * len("quadratic_lstm (learned)"),
        *(row["rule"] for row in sorted(results["rows"], key=lambda row: row["final_loss"])),
    ]
    stderr = results["ratio_to_best_baseline_stderr"]
    assert lines[-2:] == [
        "Final loss of the best learned rule over that of the best baseline, "
        f"{results['best_baseline']}: {results['ratio_to_best_baseline']:.3f} "
        f"(std. error {stderr:.2g})",
        f"Wrote results.json and quadratic.png to {folder}",
    ]
    best = load_card(folder / "rule")["training"]["progress"]["best_meta_epoch"]
    assert f"Wrote the rule of meta-epoch {best} to {folder / 'rule'}" in lines


def test_the_results_say_what_was_run(trained):
    results = strict_json(trained[0] / "results.json")
    assert {name: value for name, value in results.items() if name != "rows"} == {
        "experiment": "quadratic",
        "problem": "quadratic_uniform",
        "problem_config": PROBLEM_CONFIG,
        "num_steps": NUM_STEPS,
        "num_tasks": NUM_TASKS,
        "seed": SEED,
        "best_baseline": results["best_baseline"],
        "ratio_to_best_baseline": results["ratio_to_best_baseline"],
        "ratio_to_best_baseline_stderr": results["ratio_to_best_baseline_stderr"],
        "steps_to_best_baseline": results["steps_to_best_baseline"],
    }
    rules = [(row["rule"], row["learned"]) for row in results["rows"]]
    assert rules == [("quadratic_lstm", True), ("sgd", False), ("adam", False)]


def test_each_row_of_the_results_is_whole_and_agrees_with_its_curve(trained):
    for row in strict_json(trained[0] / "results.json")["rows"]:
        curve = row["curve"]
        assert len(curve) == NUM_STEPS + 1
        # Curves and the losses of single runs have seven digits.
        assert row["final_loss"] == pytest.approx(curve[-1], rel=1e-6)
        assert row["final_loss"] == pytest.approx(np.mean(row["final_losses"]), rel=1e-6)
        assert row["mean_loss"] == pytest.approx(np.mean(curve[1:]), rel=1e-6)
        assert 0 < row["final_loss_stderr"] < np.inf
        assert row["diverged"] == 0
        assert row["num_runs"] == NUM_TASKS * NUM_FUNCTIONS
        if row["learned"]:
            assert row["learning_rate"] is None
            assert "tuning" not in row
        else:
            tuning = row["tuning"]
            losses = [np.inf if loss is None else loss for loss in tuning["final_losses"]]
            assert row["learning_rate"] == tuning["learning_rates"][np.argmin(losses)]
            assert tuning["is_at_edge"] is False


def test_all_rules_start_at_the_same_points_of_the_same_fresh_tasks(trained):
    problem = Quadratic("uniform", NUM_FUNCTIONS, 2, 1.0)
    losses = []
    for seed in task_seeds(SEED, "test", 0, NUM_TASKS):
        (theta,) = problem.initial_parameters(seed)
        for function in zip(*problem.batch(seed, tf.constant(0)), theta, strict=True):
            losses.append(reference.loss(*(part.numpy() for part in function)))
    # Float32 losses of two dimensions against float64 ones.
    expected = pytest.approx(np.mean(losses), rel=1e-6)
    rows = strict_json(trained[0] / "results.json")["rows"]
    assert [row["curve"][0] for row in rows] == [expected] * 3
    assert len({row["final_loss"] for row in rows}) == 3


def test_the_comparison_is_with_the_baseline_of_the_lowest_final_loss(trained):
    results = strict_json(trained[0] / "results.json")
    learned, *baselines = results["rows"]
    best = min(baselines, key=lambda row: row["final_loss"])
    assert results["best_baseline"] == best["rule"]
    assert results["ratio_to_best_baseline"] == learned["final_loss"] / best["final_loss"]
    reached = [step for step, loss in enumerate(learned["curve"]) if loss <= best["final_loss"]]
    assert results["steps_to_best_baseline"] == (reached[0] if reached else None)


def test_the_figure_is_a_picture(trained):
    assert matplotlib.image.imread(trained[0] / "quadratic.png").std() > 0.05


def test_the_rule_can_be_loaded_and_has_learned_something(trained):
    rule = load_rule(trained[0] / "rule")
    assert rule.units == (3,)
    # A new rule's output weights are zero.
    assert np.abs(_weights(trained[0])["output_kernel"]).min() > 0


def test_the_card_tells_how_the_rule_was_trained_and_how_it_did(trained):
    folder, _ = trained
    card = strict_json(folder / "rule" / "card.json")
    assert card["name"] == "quadratic_lstm"
    assert card["licence"] == "Apache-2.0"
    assert card["source"] == "Andrychowicz et al. 2016, arXiv 1606.04474"
    training = card["training"]
    assert training["command"] == shlex.join(
        ["python", "-m", "experiments.quadratic", *TRAINING, f"--output_dir={folder}"]
    )
    assert training["problem"] == "quadratic_uniform"
    assert training["problem_config"] == PROBLEM_CONFIG
    assert (training["num_steps"], training["unroll_length"], training["seed"]) == (4, 2, SEED)
    progress = training["progress"]
    assert (progress["num_trajectories"], progress["num_validations"]) == (6, 2)
    assert progress["best_meta_epoch"] in (1, 2)
    results = strict_json(folder / "results.json")
    (scores,) = card["scores"]
    assert (scores["problem"], scores["num_steps"]) == ("quadratic_uniform", 4)
    assert scores["problem_config"] == results["problem_config"]
    assert scores["command"] == training["command"]
    for key in COMPARED:
        assert scores[key] == results[key]
    for score, row in zip(scores["rows"], results["rows"], strict=True):
        assert score == {name: row[name] for name in score}
        assert {"rule", "learning_rate", "final_loss", "diverged"} <= score.keys()


def test_the_card_names_the_commit(trained):
    commit = load_card(trained[0] / "rule")["training"]["commit"]

    def revision(name: str) -> str:
        command = ["git", "rev-parse", f"{name}^{{commit}}"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    if shutil.which("git") and (ROOT / ".git").exists():
        assert revision(commit.removesuffix("-dirty")) == revision("HEAD")
    else:
        assert commit == "unknown"


@pytest.fixture(scope="module")
def repeated(trained, tmp_path_factory) -> Path:
    """The folder of a run with the flags that the first one wrote, on a machine without git."""
    folder = tmp_path_factory.mktemp("repeated")
    flags = trained[0] / "evaluate_flags.txt"
    _run(f"--flagfile={flags}", f"--output_dir={folder}", PATH="")
    return folder


def test_the_flags_that_a_run_wrote_repeat_it_number_for_number(trained, repeated):
    _assert_same_weights(trained[0], repeated)
    results = [strict_json(folder / "results.json") for folder in (trained[0], repeated)]
    assert results[0] == results[1]


@pytest.mark.parametrize("name", ["train_flags.txt", "evaluate_flags.txt"])
def test_the_flags_are_those_of_the_run_each_on_a_line(trained, repeated, name):
    lines, again = ((folder / name).read_text().splitlines() for folder in (trained[0], repeated))
    # As absl writes them: numbers in full.
    written = {f"{flag}.0" if "stddev" in flag else flag for flag in TRAINING}
    assert written | {f"--output_dir={trained[0]}", "--variant=uniform"} <= set(lines)
    assert [line for line in lines if "output_dir" not in line] == [
        line for line in again if "output_dir" not in line
    ]


def test_without_git_the_commit_is_unknown(repeated):
    assert load_card(repeated / "rule")["training"]["commit"] == "unknown"


def test_a_finished_run_is_not_trained_again(trained, tmp_path):
    folder = shutil.copytree(trained[0], tmp_path / "run")
    progress = load_card(folder / "rule")["training"]["progress"]
    output = _run(*TRAINING, "--mode=train", f"--output_dir={folder}")
    assert "Meta-epoch" not in output
    assert load_card(folder / "rule")["training"]["progress"] == progress
    _assert_same_weights(folder, trained[0])


def test_a_rule_whose_validations_all_diverge_is_not_exported(tmp_path):
    flags = ("--mode=train", "--meta_learning_rate=1e30", "--meta_clipnorm=0")
    status, _, errors = run_fork("quadratic", *TRAINING, *flags, f"--output_dir={tmp_path}")
    assert status == 1
    assert own_lines(errors) == (
        "error: A validation must end with a finite loss for a rule to be kept. Received: none of "
        "2 did. Lower --meta_learning_rate or --output_scale."
    )
    assert not (tmp_path / "rule").exists()


def test_what_stands_in_the_rules_place_is_seen_before_training(tmp_path):
    (tmp_path / "rule").mkdir()
    (tmp_path / "rule" / "notes.txt").write_text("mine")
    arguments = (*TRAINING, "--mode=train", f"--output_dir={tmp_path}")
    status, _, errors = run_fork("quadratic", *arguments)
    assert status == 1
    assert own_lines(errors) == (
        "error: path must be new, empty or a saved rule to replace. Received: "
        f"path={str(tmp_path / 'rule')!r}, which holds something else. Choose another path."
    )
    assert os.listdir(tmp_path) == ["rule"]


# Evaluating saved rules


@pytest.fixture(scope="module")
def evaluated(trained, tmp_path_factory) -> tuple[Path, Path]:
    """The folder of an evaluation of one rule and its copy on another problem, and the copy."""
    folder = tmp_path_factory.mktemp("evaluated")
    copy = shutil.copytree(trained[0] / "rule", folder / "copy")
    _run(
        *SETTINGS,
        "--mode=evaluate",
        "--variant=gaussian",
        "--num_steps=6",
        "--baselines=nag,sgd",
        "--momenta=0.5,0.9",
        "--first_rates=nag:0.1,sgd:0.2,adam:0.1",
        f"--tuned_rates={folder / 'rates.jsonl'}",
        "--update_card",
        f"--rule={copy},{trained[0] / 'rule'}",
        f"--output_dir={folder / 'results'}",
    )
    return folder / "results", copy


def test_a_search_that_begins_at_a_given_rate_ends_between_two_that_are_worse(evaluated):
    row = strict_json(evaluated[0] / "results.json")["rows"][-1]
    rates, losses = row["tuning"]["learning_rates"], row["tuning"]["final_losses"]
    # From the rate of the grid that is next to the first one.
    assert 0.1778 in rates
    assert len(rates) < len(DEFAULT_LEARNING_RATES)
    best = rates.index(row["learning_rate"])
    assert losses[best] < min(losses[best - 1], losses[best + 1])
    assert set(row["tuning"]["num_steps"]) == {6}


def test_a_baseline_is_run_with_the_momentum_that_was_best(evaluated):
    folder, _ = evaluated
    lines = (folder.parent / "rates.jsonl").read_text().splitlines()
    searches = {search["baseline"]: search for search in map(json.loads, lines)}
    assert list(searches) == ["nag, momentum 0.5", "nag", "sgd"]
    losses = {name: min(search["final_losses"]) for name, search in searches.items()}
    best = min(("nag, momentum 0.5", "nag"), key=losses.__getitem__)
    row = strict_json(folder / "results.json")["rows"][2]
    assert row["rule"] == best
    assert row["tuning"]["final_losses"] == searches[best]["final_losses"]


@pytest.fixture(scope="module")
def evaluated_alone(trained, tmp_path_factory) -> tuple[Path, bytes]:
    """The folder of an evaluation of a rule given by path, and the card that the rule had."""
    folder = tmp_path_factory.mktemp("evaluated_alone")
    card = (trained[0] / "rule" / "card.json").read_bytes()
    _run(
        *SETTINGS,
        "--mode=evaluate",
        "--variant=gaussian",
        "--baselines=",
        f"--rule={trained[0] / 'rule'}",
        f"--untrained={trained[0] / 'rule'}",
        f"--output_dir={folder}",
    )
    return folder, card


def test_a_saved_rule_is_evaluated_on_another_variant(evaluated_alone):
    folder, _ = evaluated_alone
    results = strict_json(folder / "results.json")
    assert results["problem"] == "quadratic_gaussian"
    assert results["rows"][0]["rule"] == "quadratic_lstm"
    assert not (folder / "rule").exists()
    assert not (folder / "checkpoints").exists()


def test_a_rule_is_compared_with_what_it_was_before_its_training(evaluated_alone):
    trained_row, untrained_row = strict_json(evaluated_alone[0] / "results.json")["rows"]
    assert untrained_row["rule"] == "quadratic_lstm, untrained"
    assert untrained_row["untrained"]
    assert "untrained" not in trained_row
    # The weights of an LSTM's outputs begin at zero, so nothing moves.
    assert len(set(untrained_row["curve"])) == 1
    assert untrained_row["curve"][0] == trained_row["curve"][0] != trained_row["curve"][-1]


@pytest.mark.slow
def test_a_rule_that_must_know_the_horizon_is_told_that_of_the_run(tmp_path):
    finals = []
    for num_steps in (10, 40):
        _run(
            "--mode=evaluate",
            "--rule=general",
            "--baselines=",
            "--num_tasks=2",
            f"--num_steps={num_steps}",
            f"--output_dir={tmp_path}",
        )
        (row,) = strict_json(tmp_path / "results.json")["rows"]
        # It moves to the end, where its cosine is nearly zero.
        changes = np.abs(np.diff(row["curve"]))
        assert (changes > 0).all()
        assert changes[-1] < changes.max() / 20
        finals.append(row["curve"][-1])
    assert finals[1] < finals[0]


def test_without_baselines_there_is_no_comparison(evaluated_alone):
    results = strict_json(evaluated_alone[0] / "results.json")
    assert results["best_baseline"] is results["ratio_to_best_baseline"] is None


def test_the_card_of_a_rule_given_by_path_is_left_alone(trained, evaluated_alone):
    assert (trained[0] / "rule" / "card.json").read_bytes() == evaluated_alone[1]


def test_rules_of_one_name_are_told_apart_by_their_paths(trained, evaluated):
    folder, copy = evaluated
    rows = strict_json(folder / "results.json")["rows"]
    assert [row["rule"] for row in rows if row["learned"]] == [
        f"quadratic_lstm ({copy})",
        f"quadratic_lstm ({trained[0] / 'rule'})",
    ]
    assert rows[0]["curve"] == rows[1]["curve"]


def test_update_card_adds_scores_beside_the_ones_that_are_there(evaluated):
    folder, copy = evaluated
    card = load_card(copy)
    names = [(scores["problem"], scores["num_steps"]) for scores in card["scores"]]
    assert names == [("quadratic_uniform", 4), ("quadratic_gaussian", 6)]
    rows = strict_json(folder / "results.json")["rows"]
    scores = card["scores"][1]["rows"]
    assert [row["final_loss"] for row in scores] == [row["final_loss"] for row in rows]
    load_rule(copy)


def test_rates_are_tuned_on_other_tasks_than_results_are_of(trained):
    problem = Quadratic(**PROBLEM_CONFIG)
    tuning, test = (task_seeds(SEED, split, 0, 2) for split in ("tuning", "test"))
    for row in strict_json(trained[0] / "results.json")["rows"]:
        if not row["learned"]:
            make_rule = BASELINES[row["rule"]]
            expected = tune(make_rule, problem, tuning, NUM_STEPS)
            searched = row["tuning"]["final_losses"]
            assert row["learning_rate"] == expected.best
            np.testing.assert_allclose(_finite(searched), _finite(expected.losses), 1e-5)
            # The same search on the reported tasks would have found other losses.
            other = tune(make_rule, problem, test, NUM_STEPS).losses
            assert not np.allclose(_finite(searched), _finite(other), 1e-2)


def _finite(losses) -> list[float]:
    """Returns the losses that are numbers: JSON has null for an infinite one."""
    return [loss for loss in losses if loss is not None and np.isfinite(loss)]


# Training that begins with the weights of another rule


@pytest.fixture(scope="module")
def diverged(tmp_path_factory) -> tuple[Path, str]:
    """A home folder with a rule and a run from its weights that made them worse; what it printed.

    The rule's card says no more than its name, and the run's folder has letters beyond ASCII.
    """
    home = tmp_path_factory.mktemp("home")
    initial = CoordinatewiseLSTM(units=(3,), output_scale=0.1, output_stddev=0.1, seed=3)
    export_rule(initial, home / "mine", {"name": "mine"})
    output = _run(
        *TRAINING,
        *("--mode=train", "--meta_learning_rate=1e30", "--meta_clipnorm=0"),
        *("--initial_rule=~/mine", "--output_dir=~/käte/日本"),
        HOME=str(home),
    )
    return home, output


def test_an_initial_rule_that_training_made_worse_is_the_best(diverged):
    home, output = diverged
    before, after = (load_rule(home / name).get_weights() for name in ("mine", "käte/日本/rule"))
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    progress = load_card(home / "käte/日本/rule")["training"]["progress"]
    assert (progress["best_meta_epoch"], progress["num_validations"]) == (0, 2)
    assert 0 < progress["best_validation_loss"] < np.inf
    assert output.splitlines()[-1] == (
        f"Wrote the initial rule, which is still the best, to {home / 'käte/日本/rule'}"
    )


def test_of_an_initial_rule_whose_card_does_not_say_how_it_was_learned_nothing_is_said(diverged):
    assert load_card(diverged[0] / "käte/日本/rule")["training"]["initial_rule"] is None


# Stopping and going on


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    _run(*LONG_TRAINING, f"--output_dir={folder}")
    return folder


def _wait_for(path: Path, process: Fork) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert not process.has_ended(), process.end()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)],
    ids=["sigint", "sigterm", "sigkill"],
)
def test_a_run_that_was_stopped_ends_with_the_weights_of_one_that_was_not(
    uninterrupted, tmp_path, number, status
):
    command = (*LONG_TRAINING, f"--output_dir={tmp_path}")
    process = start_fork("quadratic", *command)
    _wait_for(tmp_path / "checkpoints" / "checkpoint", process)
    time.sleep(0.3)  # Let it go on from the checkpoint, so that there is something to lose.
    os.kill(process.pid, number)
    ended, output, errors = process.end()
    assert ended == status
    assert "Traceback" not in errors
    assert not (tmp_path / "rule").exists()
    if number != signal.SIGKILL:
        said = re.fullmatch(
            r"Stopped after (\d+) trajectories; the same command goes on from here.",
            output.splitlines()[-1],
        )
        assert int(said[1]) < LONG_TRAJECTORIES
    resumed = re.sub(r"\x1b\[[0-9;]*m", "", _run(*command))
    assert resumed.startswith("Meta-epoch 1/1\n")
    # It goes on in the middle of the meta-epoch, not at its start.
    first_meta_step = int(re.search(rf"\b(\d+)/{LONG_META_STEPS}", resumed)[1])
    assert 1 < first_meta_step < LONG_META_STEPS
    _assert_same_weights(tmp_path, uninterrupted)
    ours, theirs = (
        load_card(folder / "rule")["training"]["progress"] for folder in (tmp_path, uninterrupted)
    )
    assert ours | {"seconds": 0} == theirs | {"seconds": 0}


# Wrong flags

REFERENCE_ADVICE = "Check the path, or leave the flag out."
REFERENCE_RULE = (
    "error: --reference_curves must be a JSON file with an entry 'fig4_quadratics' that holds "
    "'step' and 'loss' of each rule. Received: --reference_curves=@/curves.json, where "
)
FIRST_RATES_RULE = (
    "error: --first_rates must be different ones of ['adam', 'adamw_cosine', 'momentum', "
    "'muon_cosine', 'nag', 'nag_cosine', 'rmsprop', 'sgd'], each with a positive, finite rate. "
    "Received: "
)
# Arguments and what is said of them; @ is the case's folder, out/ in it the copy of a run.
CASES = {
    "baseline": (
        ["--baselines=adam,adagrad,lion"],
        "error: --baselines must be among ['adam', 'adamw_cosine', 'momentum', 'muon_cosine', "
        "'nag', 'nag_cosine', 'rmsprop', 'sgd']. Received: ['adagrad', 'lion']. Check the "
        "spelling, or leave the flag out.",
    ),
    "first_rate_of_nothing": (
        ["--first_rates=adam:0.1,lion:0.1"],
        FIRST_RATES_RULE + "--first_rates=adam:0.1,lion:0.1. Give, say, adam:0.1,nag:0.03.",
    ),
    "first_rate_of_no_number": (
        ["--first_rates=adam"],
        FIRST_RATES_RULE + "--first_rates=adam. Give, say, adam:0.1,nag:0.03.",
    ),
    "first_rate_twice": (
        ["--first_rates=adam:1,adam:0.1"],
        FIRST_RATES_RULE + "--first_rates=adam:1,adam:0.1. Give, say, adam:0.1,nag:0.03.",
    ),
    "first_rate_of_zero": (
        ["--first_rates=adam:0"],
        FIRST_RATES_RULE + "--first_rates=adam:0. Give, say, adam:0.1,nag:0.03.",
    ),
    "variant": (
        ["--variant=cubic"],
        "FATAL Flags parsing error: flag --variant=cubic: value should be one of "
        "<gaussian|ill_conditioned|uniform>\nPass --helpshort or --helpfull to see help on flags.",
    ),
    "nothing_trained": (
        ["--mode=evaluate", "--output_dir=@/new"],
        "error: --output_dir must hold a trained rule where --rule names none. Received: "
        "--output_dir=@/new, which has no folder 'rule'. Train one with --mode=train, or give "
        "--rule.",
    ),
    "rule": (
        ["--rule=@/out/rule,nobody"],
        f"error: A rule must be one of {sorted(list_rules())} or the folder of a saved rule. "
        "Received: 'nobody'. Check the spelling, or export a rule there.",
    ),
    "untrained_rule": (
        ["--untrained=nobody"],
        f"error: A rule must be one of {sorted(list_rules())} or the folder of a saved rule. "
        "Received: 'nobody'. Check the spelling, or export a rule there.",
    ),
    "damaged_rule": (
        ["--mode=evaluate"],
        "error: A saved rule must be whole. Received: path='@/out/rule', where weights.npz does "
        "not have the checksum in card.json. Export or copy the rule again.",
    ),
    "reference_missing": (
        ["--reference_curves=@/curves.json"],
        REFERENCE_RULE + f"FileNotFoundError(2, 'No such file or directory'). {REFERENCE_ADVICE}",
    ),
    "reference_no_json": (
        ["--reference_curves=@/curves.json"],
        REFERENCE_RULE
        + "JSONDecodeError('Expecting value: line 1 column 1 (char 0)'). "
        + REFERENCE_ADVICE,
    ),
    "reference_without_entry": (
        ["--reference_curves=@/curves.json"],
        REFERENCE_RULE + f"KeyError('fig4_quadratics'). {REFERENCE_ADVICE}",
    ),
    "reference_without_loss": (
        ["--reference_curves=@/curves.json"],
        REFERENCE_RULE + f"KeyError('loss'). {REFERENCE_ADVICE}",
    ),
    "reference_of_unknown_rule": (
        ["--reference_curves=@/curves.json"],
        REFERENCE_RULE + f"KeyError('Lion'). {REFERENCE_ADVICE}",
    ),
    "reference_of_two_lengths": (
        ["--reference_curves=@/curves.json"],
        REFERENCE_RULE
        + "ValueError('zip() argument 2 is shorter than argument 1'). "
        + REFERENCE_ADVICE,
    ),
    "reference_as_list": (
        ["--reference_curves=@/curves.json"],
        REFERENCE_RULE
        + "AttributeError(\"'list' object has no attribute 'items'\"). "
        + REFERENCE_ADVICE,
    ),
    "reference_with_gaussian": (
        ["--reference_curves=@/curves.json", "--variant=gaussian"],
        "error: --reference_curves must go with --variant=uniform, the family of the paper's "
        "figure. Received: --variant=gaussian. Leave one of the two out.",
    ),
    "other_settings": (
        ["--unroll_length=3"],
        "error: A run must be resumed with the settings it was started with. "
        "Received: checkpoint='@/out/checkpoints/ckpt-2' of a run with {'unroll_length': 2}, "
        "where this one has {'unroll_length': 3}. Repeat the command that started it, or choose "
        "another folder.",
    ),
    "positional": (
        ["train"],
        "error: Arguments must be flags. Received: ['train']. Write --name=value; --helpfull lists "
        "the names.",
    ),
    "units": (
        ["--units=20,many"],
        "error: --units must be integers, one for each LSTM layer. Received: --units=20,many. "
        "Give, say, --units=20,20.",
    ),
    "no_units": (
        ["--units=0"],
        "error: units must hold a positive number of units for each LSTM layer. "
        "Received: units=(0,). Give, say, (20, 20).",
    ),
    "learned_rule": (
        ["--learned_rule=gru"],
        "FATAL Flags parsing error: flag --learned_rule=gru: value should be one of "
        "<distilled|general|lstm|lstm_gac|ntm_bfgs|ntm_lbfgs|rnnprop>\n"
        "Pass --helpshort or --helpfull to see help on flags.",
    ),
    "flag_of_another_rule": (
        ["--learned_rule=rnnprop", "--preprocessing=log_and_sign"],
        "error: --preprocessing must be left out where --learned_rule is none of lstm, lstm_gac, "
        "ntm_bfgs, ntm_lbfgs, which alone have it. Received: --preprocessing=log_and_sign with "
        "--learned_rule=rnnprop. Leave one of the two out.",
    ),
    "output_is_a_file": (
        ["--output_dir=@/curves.json"],
        "error: --output_dir must be a folder that can be written to, or a path where one can be "
        "made. Received: --output_dir=@/curves.json, where File exists. Choose another path.",
    ),
    "no_output": (
        ["--output_dir="],
        "FATAL Flags parsing error: flag --output_dir=: A path must not be empty. Received: ''. "
        "Name a file or folder, '.' for the current folder, or leave the flag out.\n"
        "Pass --helpshort or --helpfull to see help on flags.",
    ),
    "output_of_other_letters": (
        ["--output_dir=@/\udcfc"],
        "FATAL Flags parsing error: flag --output_dir=@/\\udcfc: A path must be in UTF-8, since "
        "TensorFlow takes no other. Received: b'@/\\xfc'. Rename what is not, or choose another "
        "place.\nPass --helpshort or --helpfull to see help on flags.",
    ),
    "output_in_use": (
        [],
        "error: --output_dir must be a folder that no other run is using. Received: "
        "--output_dir=@/out, in which one is at work. Wait for its end, or choose another folder.",
    ),
    "seed": (
        ["--seed=4294967296"],
        "FATAL Flags parsing error: flag --seed=4294967296: 4294967296 is not an integer in the "
        "range [0, 2147483647]\nPass --helpshort or --helpfull to see help on flags.",
    ),
    "rates_below_a_file": (
        ["--variant=gaussian", "--mode=evaluate", "--tuned_rates=@/notes.txt/rates.jsonl"],
        "error: --tuned_rates must be a path where a file can be written. Received: "
        "--tuned_rates=@/notes.txt/rates.jsonl, where File exists. Choose another path.",
    ),
    "baselines_below_a_file": (
        ["--output_dir=@/new", "--evaluated_baselines=@/notes.txt/baselines.jsonl"],
        "error: --evaluated_baselines must be a path where a file can be written. Received: "
        "--evaluated_baselines=@/notes.txt/baselines.jsonl, where File exists. Choose another "
        "path.",
    ),
    "one_file_for_both": (
        ["--tuned_rates=@/one.jsonl", "--evaluated_baselines=@/out/../one.jsonl"],
        "error: --tuned_rates and --evaluated_baselines must be different files. Received: "
        "--tuned_rates=@/one.jsonl, --evaluated_baselines=@/out/../one.jsonl. Choose another for "
        "one.",
    ),
    "card_of_other_scores": (
        ["--mode=evaluate", "--rule=@/scored", "--update_card"],
        "error: The scores of a card that --update_card adds to must be entries with problem, "
        "num_steps, problem_config. Received: path='@/scored', where they are not. Take them out, "
        "or leave --update_card out.",
    ),
    "interrupted": ([], ""),
}
CURVES = {
    "reference_no_json": "no JSON",
    "reference_without_entry": '{"fig5": {}}',
    "reference_without_loss": '{"fig4_quadratics": {"LSTM": {"step": [1]}}}',
    "reference_of_unknown_rule": '{"fig4_quadratics": {"Lion": {"step": [1], "loss": [1]}}}',
    "reference_of_two_lengths": '{"fig4_quadratics": {"LSTM": {"step": [1, 2], "loss": [1]}}}',
    "reference_as_list": '{"fig4_quadratics": []}',
    "output_is_a_file": "Three years of work.",
}
# Of these errors the middle is TensorFlow's. A single damaged checkpoint is no error.
DAMAGES = {"damaged_indices": "ckpt-*.index", "damaged_data": "ckpt-*.data-00000-of-00001"}


def _truncate(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


@pytest.fixture(scope="module")
def refused(trained, tmp_path_factory) -> dict[str, Refusal]:
    root = tmp_path_factory.mktemp("refused")
    folders = {name: root / name for name in itertools.chain(CASES, DAMAGES)}
    for name, folder in folders.items():
        shutil.copytree(trained[0], folder / "out")
        if name in CURVES:
            (folder / "curves.json").write_text(CURVES[name])
        if name in DAMAGES:
            for file in (folder / "out" / "checkpoints").glob(DAMAGES[name]):
                _truncate(file)
        if name == "damaged_rule":
            _truncate(folder / "out" / "rule" / "weights.npz")
        if name.endswith("below_a_file"):
            (folder / "notes.txt").write_text("mine")
        if name == "card_of_other_scores":
            copied = shutil.copytree(folder / "out" / "rule", folder / "scored")
            update_card(copied, scores=[{"loss": 0.1}])
    arguments = {
        name: [*TRAINING, "--output_dir=@/out", *CASES.get(name, ([], ""))[0]] for name in folders
    }
    with locked(folders["output_in_use"] / "out" / ".run.lock"):
        return refusals("quadratic", folders, arguments)


@pytest.mark.parametrize("case", [name for name in CASES if name != "interrupted"])
def test_a_wrong_flag_is_answered_with_one_sentence_and_changes_nothing(refused, case):
    folder, status, errors, unchanged = refused[case]
    assert errors == CASES[case][1].replace("@", str(folder))
    assert status == 1
    assert unchanged


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_checkpoints_are_answered_with_one_sentence_and_changes_nothing(refused, case):
    folder, status, errors, unchanged = refused[case]
    assert errors.startswith(
        "error: The latest checkpoint must be whole. "
        f"Received: checkpoint='{folder / 'out' / 'checkpoints' / 'ckpt-2'}', "
    )
    assert errors.endswith(". Delete the folder to start anew, or choose another.")
    assert status == 1
    assert unchanged


def test_an_interrupt_outside_of_training_ends_the_run_without_a_traceback(refused):
    _, status, errors, unchanged = refused["interrupted"]
    assert (status, errors) == (130, "")
    assert unchanged
