"""Runs of `python -m experiments.cifar`, on digits except where CIFAR-10 is needed.

TensorFlow takes seconds to start, so tests share runs: a fixture makes one, and many tests check
it.
"""

import json
import shutil
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from experiments.cifar.variants import HELD_OUT, VARIANTS
from l2l_tf.data.datasets import load
from l2l_tf.delivery.export import load_card
from l2l_tf.delivery.pretrained import load_rule
from l2l_tf.rules.rnnprop import RNNprop
from l2l_tf.rules.routed import RoutedRule
from tests.experiments.binaries import Refusal, refusals, run, run_as_users_do, strict_json
from tests.real_data import needs_data

pytestmark = pytest.mark.slow

SETTINGS = (
    "--dataset=digits",
    "--variant=cifar5",
    "--num_steps=4",
    "--num_tasks=1",
    "--num_tuning_tasks=1",
    "--batch_size=16",
    "--initial_stddev=0.1",
    "--baselines=sgd",
    "--tuning=halving",
)
TRAINING = (
    "--flagfile=experiments/configs/cifar_lstm_sub.flags",
    *SETTINGS,
    "--unroll_length=2",
    "--horizons=2,4",
    "--num_meta_epochs=2",
    "--trajectories_per_meta_epoch=1",
    "--num_validation_tasks=1",
    "--units=3",
    "--delta_factors=2",
)
TABLES = ("results.json", "results_training_half.json")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder of a run that trained on held-out labels and evaluated."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    run_as_users_do(
        "cifar",
        *TRAINING,
        f"--tuned_rates={folder.with_name('rates.jsonl')}",
        f"--evaluated_baselines={folder.with_name('baselines.jsonl')}",
        f"--output_dir={folder}",
    )
    return folder


def test_the_rule_has_two_parts_and_is_saved_as_one(trained):
    rule = load_rule(trained / "rule")
    assert isinstance(rule, RoutedRule)
    assert list(rule.parts) == ["conv", "other"]
    for part in rule.parts.values():
        assert type(part) is RNNprop
        assert (part.units, part.output_scale) == ((3,), 0.2)
    # They begin with different weights, and both have learned.
    weights = [{v.name: v.numpy() for v in part.weights} for part in rule.parts.values()]
    assert (weights[0]["input_kernel"] != weights[1]["input_kernel"]).all()
    assert all(np.abs(one["output_kernel"]).max() > 0 for one in weights)
    assert load_card(trained / "rule")["name"] == "cifar_lstm_sub"


def test_it_was_trained_on_other_classes_than_it_is_compared_on(trained):
    digits = load("digits")
    training = load_card(trained / "rule")["training"]
    for key, part in (("", digits.train), ("validation_", digits.validation)):
        assert training[f"{key}problem"] == "digits_classes_5_6_7_8_9_conv_net_scaled_0"
        num_images = int(np.isin(part.labels, HELD_OUT).sum())
        assert training[f"{key}problem_config"]["examples"]["shape"] == [num_images, 8, 8, 1]
    for table, part in zip(TABLES, (digits.test, digits.train), strict=True):
        results = strict_json(trained / table)
        assert results["problem"] == "digits_classes_0_1_2_3_4_conv_net_scaled_0"
        num_images = int((part.labels < 5).sum())
        assert results["problem_config"]["examples"]["shape"] == [num_images, 8, 8, 1]


def test_rates_are_searched_by_halving_on_the_classes_of_the_variant(trained):
    (line,) = trained.with_name("rates.jsonl").read_text().splitlines()
    search = json.loads(line)
    assert search["problem"] == "digits_classes_0_1_2_3_4_conv_net_scaled_0"
    num_images = int((load("digits").validation.labels < 5).sum())
    assert search["problem_config"]["examples"]["shape"] == [num_images, 8, 8, 1]
    row = strict_json(trained / TABLES[0])["rows"][1]
    steps = search["num_steps_of_rates"]
    assert row["tuning"]["num_steps"] == steps
    assert set(steps) == {1, 2, 4}
    best = search["learning_rates"].index(row["learning_rate"])
    assert set(steps[max(0, best - 1) : best + 2]) == {4}


def test_the_accuracy_on_test_images_is_that_of_tasks_that_have_not_seen_them(trained):
    on_test_images, on_training_half = (strict_json(trained / name)["rows"] for name in TABLES)
    assert all("test_accuracy" not in row for row in on_test_images)
    assert [row["rule"] for row in on_training_half] == ["cifar_lstm_sub", "sgd"]
    for row in on_training_half:
        assert 0.05 < row["test_accuracy"] < 1


def test_horizons_grow_as_the_flags_say(trained):
    training = load_card(trained / "rule")["training"]
    assert training["horizons"] == [2, 4]
    # Two trajectories of 2 steps, one of 4.
    assert training["progress"]["num_trajectories"] == 3
    assert training["progress"]["stage"] == 1


def test_the_deltas_are_scaled_by_the_best_of_the_factors_that_the_flags_name(trained):
    tried = load_card(trained / "rule")["training"]["delta_factors"]
    assert list(tried) == ["2"]
    assert 0 < tried["2"] < 10
    assert {part.output_scale for part in load_rule(trained / "rule").parts.values()} == {0.2}


def test_a_rescaled_rule_is_trained_on_with_its_scale(trained, tmp_path):
    run(
        "cifar",
        *(*TRAINING, "--mode=train", "--horizons=", "--delta_factors=", "--output_scale=0.2"),
        *(f"--initial_rule={trained / 'rule'}", f"--output_dir={tmp_path}"),
    )
    rule, initial = (load_rule(folder / "rule") for folder in (tmp_path, trained))
    for part in rule.parts.values():
        assert part.output_scale == 0.2
    changes = [
        np.abs(one - other).max()
        for one, other in zip(rule.get_weights(), initial.get_weights(), strict=True)
    ]
    # Four meta-steps of Adam, at rates of at most 0.002.
    assert 0 < max(changes) < 0.02


# Other rules and CIFAR-10 itself


@pytest.fixture(scope="module")
def evaluated(trained, tmp_path_factory) -> Path:
    """The folder of an evaluation with a search in which another rate was made the best.

    Of the baseline at the rate before, the file of earlier runs has the losses.
    """
    folder = tmp_path_factory.mktemp("evaluated")
    shutil.copy(trained.with_name("baselines.jsonl"), folder)
    search = json.loads(trained.with_name("rates.jsonl").read_text())
    steps = search["num_steps_of_rates"]
    # A low loss of a rate that was not run to the end counts for nothing.
    search["final_losses"][steps.index(1)] = -2.0
    search["final_losses"][steps.index(4)] = -1.0
    (folder / "rates.jsonl").write_text(json.dumps(search) + "\n")
    run(
        "cifar",
        *SETTINGS,
        "--mode=evaluate",
        f"--rule={trained / 'rule'}",
        f"--tuned_rates={folder / 'rates.jsonl'}",
        f"--evaluated_baselines={folder / 'baselines.jsonl'}",
        f"--output_dir={folder / 'out'}",
    )
    return folder


@pytest.fixture(scope="module")
def evaluated_again(trained, tmp_path_factory) -> Path:
    """The folder of an evaluation with a file of earlier runs in which a loss was changed."""
    folder = tmp_path_factory.mktemp("evaluated_again")
    of_tables = trained.with_name("baselines.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in of_tables]
    for entry in entries:
        # As of a run that has diverged.
        entry["row"]["final_loss"] = entry["row"]["curve"][-1] = None
        if "test_accuracy" in entry["row"]:
            entry["row"]["test_accuracy"] = 0.125
    (folder / "baselines.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in entries))
    run(
        "cifar",
        *SETTINGS,
        "--mode=evaluate",
        f"--rule={trained / 'rule'}",
        f"--tuned_rates={trained.with_name('rates.jsonl')}",
        f"--evaluated_baselines={folder / 'baselines.jsonl'}",
        f"--output_dir={folder / 'out'}",
    )
    return folder


def test_runs_of_baselines_that_the_file_holds_are_not_done_again(trained, evaluated_again):
    for table in TABLES:
        before, after = (
            strict_json(folder / table) for folder in (trained, evaluated_again / "out")
        )
        assert after["rows"][1]["final_loss"] is after["rows"][1]["curve"][-1] is None
        assert after["rows"][1].get("test_accuracy") == (0.125 if table == TABLES[1] else None)
        assert after["rows"][1]["curve"][:-1] == before["rows"][1]["curve"][:-1]
        assert after["rows"][1]["tuning"] == before["rows"][1]["tuning"]
        assert after["rows"][0] == before["rows"][0]
        assert after["ratio_to_best_baseline"] is None
    lines = (evaluated_again / "baselines.jsonl").read_text().splitlines()
    assert len(lines) == len(TABLES)


def test_a_baseline_at_another_rate_is_run_and_added_to_the_file(trained, evaluated):
    lines = (evaluated / "baselines.jsonl").read_text().splitlines()
    assert len(lines) == 2 * len(TABLES)
    assert lines[:2] == trained.with_name("baselines.jsonl").read_text().splitlines()
    rates = [json.loads(line)["row"]["learning_rate"] for line in lines]
    assert rates[0] == rates[1] != rates[2] == rates[3]
    rows = [strict_json(evaluated / "out" / table)["rows"][1] for table in TABLES]
    assert [row["learning_rate"] for row in rows] == rates[2:]


def test_of_a_search_that_the_file_holds_only_rates_that_ran_to_the_end_count(trained, evaluated):
    before, after = (
        strict_json(folder / TABLES[0])["rows"] for folder in (trained, evaluated / "out")
    )
    tuning = after[1]["tuning"]
    assert after[1]["learning_rate"] == tuning["learning_rates"][tuning["num_steps"].index(4)]
    assert after[0] == before[0]


@needs_data("cifar10")
def test_on_cifar10_a_variant_is_of_the_papers_classes_with_its_curves(trained, tmp_path):
    curve = {"step": [9.9, 19.9], "loss": [0.69, 0.5]}
    file = tmp_path / "curves.json"
    file.write_text(json.dumps({"fig7_cifar2": {"LSTM": curve, "LSTM-sub": curve, "ADAM": curve}}))
    run(
        "cifar",
        "--mode=evaluate",
        "--variant=cifar2",
        "--num_steps=2",
        "--num_tasks=1",
        "--baselines=",
        f"--rule={trained / 'rule'}",
        f"--reference_curves={file}",
        f"--output_dir={tmp_path / 'out'}",
    )
    for table in TABLES:
        results = strict_json(tmp_path / "out" / table)
        assert results["problem"] == "cifar10_classes_0_1_conv_net_scaled_0"
        assert results["problem_config"]["batch_size"] == 128
        # Two classes, from parameters near zero.
        assert results["rows"][0]["curve"][0] == pytest.approx(np.log(2), abs=0.02)
    assert strict_json(tmp_path / "out" / TABLES[0])["problem_config"]["examples"]["shape"] == [
        *(2000, 32, 32, 3)
    ]
    assert matplotlib.image.imread(tmp_path / "out" / "cifar.png").std() > 0.05


def test_a_residual_network_is_learned_from_in_chunks(tmp_path):
    run(
        "cifar",
        *TRAINING,
        "--mode=train",
        "--variant=resnet20",
        "--noheld_out_labels",
        "--num_steps=2",
        "--horizons=",
        "--delta_factors=",
        "--num_meta_epochs=1",
        "--trajectories_per_meta_epoch=1",
        "--rule_name=",
        "--chunk_size=65536",
        f"--output_dir={tmp_path}",
    )
    card = load_card(tmp_path / "rule")
    assert card["name"] == "cifar_rnnprop"
    assert card["training"]["problem"] == "digits_resnet20"
    assert card["training"]["chunk_size"] == 65536
    assert np.isfinite(card["training"]["progress"]["best_validation_loss"])


def test_the_variants_are_those_of_the_paper_and_a_residual_network():
    assert {name: (len(one.classes), one.num_steps) for name, one in VARIANTS.items()} == {
        "cifar10": (10, 1000),
        "cifar5": (5, 1000),
        "cifar2": (2, 1000),
        "cifar10_shifts": (10, 1000),
        "cifar5_shifts": (5, 1000),
        "cifar2_shifts": (2, 1000),
        "resnet20": (10, 500),
    }
    assert set(VARIANTS["cifar2"].classes) < set(VARIANTS["cifar5"].classes)
    assert not set(VARIANTS["cifar5"].classes) & set(HELD_OUT)


# Wrong flags

# Arguments and what is said of them; @ is the case's folder, rule/ in it a copy of the rule.
CASES = {
    "held_out_of_all": (
        ["--variant=cifar10", "--held_out_labels"],
        "error: --held_out_labels must go with a variant that leaves classes out. Received: "
        "--variant=cifar10, which has all. Choose cifar5 or cifar2, with _shifts or without.",
    ),
    "curves_of_other_images": (
        ["--reference_curves=@/curves.json"],
        "error: --reference_curves must go with CIFAR-10 and a network that the paper's figure 7 "
        "shows. Received: --reference_curves=@/curves.json with --variant=cifar5, "
        "--dataset=digits, --downsampling=1. Leave out the one or the other.",
    ),
    "unknown_part": (
        ["--parts=conv,kernel"],
        "error: --parts must be different ones of ['conv', 'dense', 'vector']. Received: "
        "--parts=conv,kernel. Leave it out for one rule for all variables.",
    ),
    "the_same_part_twice": (
        ["--parts=conv,conv"],
        "error: --parts must be different ones of ['conv', 'dense', 'vector']. Received: "
        "--parts=conv,conv. Leave it out for one rule for all variables.",
    ),
    "factor_of_zero": (
        ["--delta_factors=1,0"],
        "error: --delta_factors must be positive, finite numbers. Received: --delta_factors=1,0. "
        "Give, say, --delta_factors=1,2,4.",
    ),
    "horizons_in_words": (
        ["--horizons=two,4"],
        "error: --horizons must be integers, of which --num_steps is the largest. Received: "
        "--horizons=two,4. Give, say, --horizons=100,200,500,1000 with --num_steps=1000.",
    ),
    "horizons_of_another_end": (
        ["--horizons=2,3"],
        "error: horizons must be counts of steps that ascend to num_steps. Received: "
        "horizons=[2, 3] with num_steps=4. Give, say, [100, 200, 500, 1000] with num_steps=1000.",
    ),
    "initial_rule_of_other_parts": (
        ["--parts=", "--units=3", "--learned_rule=rnnprop", "--initial_rule=@/rule"],
        "error: --initial_rule must be a rule of the kind that is trained. Received: "
        "--initial_rule=@/rule, which is RoutedRule(conv: RNNprop(units=[3], "
        "output_scale=0.2, input_units=20, beta_1=0.95, beta_2=0.95, epsilon=1e-08), "
        "other: RNNprop(units=[3], "
        "output_scale=0.2, input_units=20, beta_1=0.95, beta_2=0.95, epsilon=1e-08)), "
        "to train RNNprop(units=[3], output_scale=0.1, input_units=20, "
        "beta_1=0.95, beta_2=0.95, epsilon=1e-08). Give its settings as flags.",
    ),
}


@pytest.fixture(scope="module")
def refused(trained, tmp_path_factory) -> dict[str, Refusal]:
    root = tmp_path_factory.mktemp("refused")
    folders = {name: root / name for name in CASES}
    for folder in folders.values():
        shutil.copytree(trained / "rule", folder / "rule")
    arguments = {name: [*SETTINGS, "--output_dir=@/out", *own] for name, (own, _) in CASES.items()}
    return refusals("cifar", folders, arguments)


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_flag_is_answered_with_one_sentence(refused, case):
    folder, status, errors, _ = refused[case]
    assert errors == CASES[case][1].replace("@", str(folder))
    assert status == 1
