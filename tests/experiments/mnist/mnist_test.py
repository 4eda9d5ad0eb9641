"""Runs of `python -m experiments.mnist`, on digits except where MNIST is needed.

TensorFlow takes seconds to start, so tests share runs: a fixture makes one, and many tests check
it.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import tensorflow as tf

from experiments.mnist.variants import VARIANTS
from l2l_tf.data.datasets import Examples, load
from l2l_tf.delivery.export import export_rule, load_card
from l2l_tf.delivery.pretrained import list_rules, load_rule
from l2l_tf.evaluation.tuning import tune
from l2l_tf.problems.classification import ClassificationProblem
from l2l_tf.problems.networks import mlp
from l2l_tf.problems.seeds import task_seeds
from l2l_tf.reporting.results import COMPARED
from l2l_tf.rules.hand_designed import BASELINES
from tests.experiments.binaries import Refusal, refusals, run, run_as_users_do, strict_json
from tests.real_data import needs_data
from tests.reference import mlp as reference

pytestmark = pytest.mark.slow

NUM_STEPS, NUM_TASKS, NUM_OTHER_TASKS, NUM_TUNING_TASKS, SEED = 10, 2, 1, 2, 3
SETTINGS = (
    "--dataset=digits",
    f"--num_steps={NUM_STEPS}",
    f"--num_tasks={NUM_TASKS}",
    f"--num_other_tasks={NUM_OTHER_TASKS}",
    f"--num_tuning_tasks={NUM_TUNING_TASKS}",
    f"--seed={SEED}",
    "--batch_size=16",
    "--initial_stddev=0.1",
    "--baselines=sgd,adam",
)
# Three units, so that figure 6 of three units is of the same network.
NETWORK = ("--num_hidden_units=3",)
TRAINING = (
    "--flagfile=experiments/configs/mnist_lstm.flags",
    *SETTINGS,
    *NETWORK,
    # Does not divide the horizon: the last unroll is shorter.
    "--unroll_length=4",
    "--num_meta_epochs=1",
    "--trajectories_per_meta_epoch=2",
    "--tasks_per_meta_step=1",
    "--num_validation_tasks=1",
    "--units=3",
)
TABLES = {"results.json": "test images", "results_training_half.json": "training half"}
TASKS_OF = {"results.json": NUM_TASKS, "results_training_half.json": NUM_OTHER_TASKS}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, str]:
    """The folder of a run that trained and evaluated, and what it printed."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    rates = f"--tuned_rates={folder.with_name('rates.jsonl')}"
    return folder, run_as_users_do("mnist", *TRAINING, rates, f"--output_dir={folder}")


@pytest.fixture(scope="module")
def digits() -> dict[str, Examples]:
    """The digits' parts by the table that is of them, and the half for choosing."""
    dataset = load("digits")
    return {
        "results.json": dataset.test,
        "results_training_half.json": dataset.train,
        "validation": dataset.validation,
    }


def _problem(examples: Examples) -> ClassificationProblem:
    return ClassificationProblem(mlp((8, 8, 1), units=3), *examples, 16, 0.1)


# Training and evaluating


def test_a_run_writes_a_table_and_a_figure_for_each_part_of_the_data(trained):
    folder, _ = trained
    assert sorted(os.listdir(folder)) == [
        "checkpoints",
        "evaluate_flags.txt",
        "logs",
        "mnist.png",
        "mnist_training_half.png",
        "results.json",
        "results_training_half.json",
        "rule",
        "train_flags.txt",
    ]
    for name in ("mnist.png", "mnist_training_half.png"):
        assert matplotlib.image.imread(folder / name).std() > 0.05


def test_a_run_prints_both_tables_each_under_what_it_is_of(trained):
    folder, output = trained
    lines = output.splitlines()
    first = lines.index("digits, mlp3_sigmoid, test images")
    second = lines.index("digits, mlp3_sigmoid, training half")
    for start, files in (
        (first, "results.json and mnist.png"),
        (second, "results_training_half.json and mnist_training_half.png"),
    ):
        assert lines[start + 1].startswith("rule ")
        assert sorted(line.split()[0] for line in lines[start + 3 : start + 6]) == [
            "adam",
            "mnist_lstm",
            "sgd",
        ]
        assert lines[start + 7] == f"Wrote {files} to {folder}"


@pytest.mark.parametrize("table", TABLES)
def test_the_results_say_what_they_are_of(trained, digits, table):
    results = strict_json(trained[0] / table)
    images, labels = digits[table]
    config = results.pop("problem_config")
    assert config["examples"] == {
        "shape": [len(images), 8, 8, 1],
        "sha256": hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest(),
    }
    assert (config["batch_size"], config["initial_stddev"]) == (16, 0.1)
    rows = results.pop("rows")
    assert [(row["rule"], row["learned"]) for row in rows] == [
        ("mnist_lstm", True),
        ("sgd", False),
        ("adam", False),
    ]
    assert {name: value for name, value in results.items() if "baseline" not in name} == {
        "experiment": "mnist",
        "problem": "digits_mlp3_sigmoid",
        "part": TABLES[table],
        "num_steps": NUM_STEPS,
        "num_tasks": TASKS_OF[table],
        "seed": SEED,
    }
    assert results["best_baseline"] in ("sgd", "adam")


@pytest.mark.parametrize("table", TABLES)
def test_all_rules_of_a_table_start_at_the_same_losses_of_tasks_of_its_images(
    trained, digits, table
):
    problem = _problem(digits[table])
    losses = []
    for seed in task_seeds(SEED, "test", 0, TASKS_OF[table]):
        images, labels = (part.numpy() for part in problem.batch(seed, tf.constant(0)))
        parameters = [parameter.numpy() for parameter in problem.initial_parameters(seed)]
        inputs = (images / 255).reshape(16, 64)
        losses.append(reference.loss_and_gradients(parameters, inputs, labels, "sigmoid")[0])
    rows = strict_json(trained[0] / table)["rows"]
    # Float32 losses against float64 ones.
    assert [row["curve"][0] for row in rows] == [pytest.approx(np.mean(losses), rel=1e-5)] * 3
    assert len({row["final_loss"] for row in rows}) == 3


def test_rates_are_tuned_once_and_on_the_half_for_choosing(trained, digits):
    tables = [strict_json(trained[0] / table)["rows"] for table in TABLES]
    problem = _problem(digits["validation"])
    seeds = task_seeds(SEED, "tuning", 0, NUM_TUNING_TASKS)
    for on_test_images, on_training_half in zip(*(rows[1:] for rows in tables), strict=True):
        assert on_test_images["tuning"] == on_training_half["tuning"]
        expected = tune(BASELINES[on_test_images["rule"]], problem, seeds, NUM_STEPS)
        searched = on_test_images["tuning"]["final_losses"]
        # One graph for all rates, here as there.
        np.testing.assert_allclose(searched, expected.losses, rtol=1e-5)
        assert on_test_images["learning_rate"] == expected.best


def test_the_rule_is_the_papers_and_its_card_has_scores_on_both_parts(trained):
    card = load_card(trained[0] / "rule")
    assert card["name"] == "mnist_lstm"
    assert (card["training"]["num_steps"], card["training"]["unroll_length"]) == (10, 4)
    assert card["training"]["progress"]["num_trajectories"] == 2
    assert [scores["part"] for scores in card["scores"]] == list(TABLES.values())
    # The name tells the network; how Keras writes it down is long, and of training alone.
    assert all("model" not in scores["problem_config"] for scores in card["scores"])
    rule = load_rule(trained[0] / "rule")
    assert (rule.preprocessing, rule.p, rule.output_scale) == ("log_and_sign", 10.0, 0.1)


def test_newer_scores_on_a_problem_take_the_place_of_older_ones(trained, tmp_path):
    folder, _ = trained
    rule = shutil.copytree(folder / "rule", tmp_path / "rule")
    faster = load_rule(rule).rescaled(3)
    other = export_rule(faster, tmp_path / "other", {"name": "faster"})
    run(
        "mnist",
        *SETTINGS,
        *NETWORK,
        "--mode=evaluate",
        "--update_card",
        "--baselines=sgd",
        "--num_tasks=1",
        f"--rule={rule},{other}",
        f"--tuned_rates={folder.with_name('rates.jsonl')}",
        f"--output_dir={tmp_path / 'run'}",
    )
    scores = [(one["part"], one["num_tasks"]) for one in load_card(rule)["scores"]]
    assert scores == [("test images", 1), ("training half", NUM_OTHER_TASKS)]
    # Each card says how its own rule stands beside the best baseline.
    ratios = []
    for path in (rule, other):
        card = load_card(path)
        losses = {row["rule"]: row["final_loss"] for row in card["scores"][0]["rows"]}
        best = losses[card["scores"][0]["best_baseline"]]
        ratios.append(card["scores"][0]["ratio_to_best_baseline"])
        assert ratios[-1] == pytest.approx(losses[card["name"]] / best)
    assert ratios[0] != ratios[1]


# Training that begins with another's weights, on smaller images


@pytest.fixture(scope="module")
def continued(trained, tmp_path_factory) -> Path:
    """The folder of a training run from the trained rule's weights that leaves them as they are."""
    folder = tmp_path_factory.mktemp("continued")
    run(
        "mnist",
        *TRAINING,
        "--mode=train",
        f"--initial_rule={trained[0] / 'rule'}",
        "--meta_learning_rate=0",
        # An average of equal weights is not they to the last bit.
        "--weight_average=0",
        "--seed=4",
        "--downsampling=2",
        f"--output_dir={folder}",
    )
    return folder


def test_training_begins_with_the_weights_of_the_initial_rule(trained, continued):
    before, after = (load_rule(folder / "rule").get_weights() for folder in (trained[0], continued))
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_card_says_how_the_initial_weights_were_learned(trained, continued):
    training = load_card(continued / "rule")["training"]
    assert training["initial_rule"] == load_card(trained[0] / "rule")["training"]
    assert "initial_rule" not in training["initial_rule"]


def test_smaller_images_are_what_it_learns_from(trained, continued):
    for folder, side in ((trained[0], 8), (continued, 4)):
        training = load_card(folder / "rule")["training"]
        for config in ("problem_config", "validation_problem_config"):
            assert training[config]["examples"]["shape"] == [600, side, side, 1]


# Rates of an earlier search


@pytest.fixture(scope="module")
def evaluated(trained, tmp_path_factory) -> Path:
    """The folder of an evaluation of the rule and a copy, with SGD's rate from a changed file."""
    folder = tmp_path_factory.mktemp("evaluated")
    copy = shutil.copytree(trained[0] / "rule", folder / "copy")
    searches = _searches(trained[0])
    searches["sgd"]["final_losses"][7] = -1.0
    (folder / "rates.jsonl").write_text(json.dumps(searches["sgd"]) + "\n")
    run(
        "mnist",
        *SETTINGS,
        *NETWORK,
        "--mode=evaluate",
        f"--rule={trained[0] / 'rule'},{copy}",
        f"--tuned_rates={folder / 'rates.jsonl'}",
        f"--output_dir={folder / 'out'}",
    )
    return folder


def _searches(folder: Path) -> dict[str, dict]:
    lines = folder.with_name("rates.jsonl").read_text().splitlines()
    return {search["baseline"]: search for search in map(json.loads, lines)}


def test_searches_are_kept_in_the_file_that_a_flag_names(trained):
    searches = _searches(trained[0])
    assert list(searches) == ["sgd", "adam"]
    for row in strict_json(trained[0] / "results.json")["rows"][1:]:
        search = searches[row["rule"]]
        assert search["final_losses"] == row["tuning"]["final_losses"]
        assert search["learning_rates"] == row["tuning"]["learning_rates"]
        assert (search["problem"], search["num_steps"]) == ("digits_mlp3_sigmoid", NUM_STEPS)
        assert (search["num_tasks"], search["seed"]) == (NUM_TUNING_TASKS, SEED)


def test_a_search_that_the_file_holds_is_not_done_again_and_others_are_added(trained, evaluated):
    sgd, adam = strict_json(evaluated / "out" / "results.json")["rows"][2:]
    assert sgd["learning_rate"] == sgd["tuning"]["learning_rates"][7]
    assert adam == strict_json(trained[0] / "results.json")["rows"][2]
    lines = (evaluated / "rates.jsonl").read_text().splitlines()
    assert [json.loads(line)["baseline"] for line in lines] == ["sgd", "adam"]
    assert json.loads(lines[1]) == _searches(trained[0])["adam"]


def test_several_rules_are_compared_on_the_same_tasks(trained, evaluated):
    rows = strict_json(evaluated / "out" / "results.json")["rows"]
    paths = (trained[0] / "rule", evaluated / "copy")
    assert [row["rule"] for row in rows[:2]] == [f"mnist_lstm ({path})" for path in paths]
    own = strict_json(trained[0] / "results.json")["rows"][0]
    assert rows[0]["curve"] == rows[1]["curve"] == own["curve"]


# Figure 6


@pytest.fixture(scope="module")
def figure6(trained, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("figure6")
    points = {"LSTM": {"units": [5, 10], "loss": [0.6, 0.3]}}
    reference_file = folder / "curves.json"
    reference_file.write_text(json.dumps({"fig6_1layer": points, "fig6_2layers": points}))
    run(
        "mnist",
        *SETTINGS,
        "--mode=evaluate",
        "--figure6",
        "--figure6_units=3,2",
        # The best one of the table.
        "--baselines=adam",
        f"--rule={trained[0] / 'rule'}",
        f"--tuned_rates={trained[0].with_name('rates.jsonl')}",
        f"--reference_curves={reference_file}",
        f"--output_dir={folder / 'out'}",
    )
    return folder / "out"


def test_figure_6_is_of_each_width_in_one_and_in_two_layers(figure6):
    assert sorted(os.listdir(figure6)) == ["evaluate_flags.txt", "figure6.json", "figure6.png"]
    assert matplotlib.image.imread(figure6 / "figure6.png").std() > 0.05
    results = strict_json(figure6 / "figure6.json")
    networks = results.pop("networks")
    assert results == {
        "experiment": "figure6",
        "num_steps": NUM_STEPS,
        "num_tasks": NUM_TASKS,
        "seed": SEED,
    }
    assert [(one["problem"], one["units"], one["num_layers"]) for one in networks] == [
        ("digits_mlp2_sigmoid", 2, 1),
        ("digits_mlp3_sigmoid", 3, 1),
        ("digits_mlp2x2_sigmoid", 2, 2),
        ("digits_mlp3x2_sigmoid", 3, 2),
    ]
    for network in networks:
        assert [row["rule"] for row in network["rows"]] == ["mnist_lstm", "adam"]


def test_figure_6_has_of_a_network_what_a_table_of_that_network_has(trained, figure6):
    network = strict_json(figure6 / "figure6.json")["networks"][1]
    table = strict_json(trained[0] / "results.json")
    learned, _, adam = table["rows"]
    for row, of_network in zip((learned, adam), network["rows"], strict=True):
        assert of_network.keys() == row.keys() - {"curve", "final_losses"}
        assert of_network == {key: row[key] for key in of_network}
    assert table["best_baseline"] == "adam"
    for key in COMPARED:
        assert network[key] == table[key]


# MNIST itself


@needs_data("mnist")
def test_on_mnist_a_variant_is_the_papers_network_with_its_curves(trained, tmp_path):
    curve = {"step": [1, 2, 3], "loss": [2.3, 2.0, 1.0]}
    file = tmp_path / "curves.json"
    file.write_text(
        json.dumps({"fig4_mnist": {"LSTM": curve}, "fig4_mnist_100_200": {"LSTM": curve}})
    )
    run(
        "mnist",
        "--mode=evaluate",
        "--variant=steps200",
        "--num_steps=2",
        "--num_tasks=1",
        "--baselines=",
        f"--rule={trained[0] / 'rule'}",
        f"--reference_curves={file}",
        f"--output_dir={tmp_path / 'out'}",
    )
    for table, num_images in zip(TABLES, (10_000, 30_000), strict=True):
        results = strict_json(tmp_path / "out" / table)
        assert results["problem"] == "mnist_mlp20_sigmoid"
        assert results["problem_config"]["examples"]["shape"] == [num_images, 28, 28, 1]
        assert results["problem_config"]["batch_size"] == 128
        # Ten classes, from parameters near zero.
        assert results["rows"][0]["curve"][0] == pytest.approx(np.log(10), abs=0.02)


def test_the_variants_are_those_of_the_paper_and_twenty_times_its_horizon():
    networks = {name: tuple(variant)[1:5] for name, variant in VARIANTS.items()}
    assert networks == {
        "base": (20, 1, "sigmoid", 100),
        "steps200": (20, 1, "sigmoid", 200),
        "units40": (40, 1, "sigmoid", 100),
        "layers2": (20, 2, "sigmoid", 100),
        "relu": (20, 1, "relu", 100),
        "steps2000": (20, 1, "sigmoid", 2000),
        "relu_steps2000": (20, 1, "relu", 2000),
    }


# Wrong flags

FIGURE6 = ["--figure6", "--mode=evaluate"]
NO_FIGURE6 = (
    "error: --figure6 must go with --mode=evaluate, and without --update_card: it compares "
    "trained rules, and no card shows it. Received: "
)
RATES_RULE = (
    "error: --tuned_rates must be a file of searches that an evaluation has written, or be yet to "
    "be written. Received: --tuned_rates=@/rates.jsonl, where "
)
# Arguments and what is said of them; @ is the case's folder, rule/ in it a copy of the rule.
CASES = {
    "no_data": (
        ["--dataset=mnist", "--data_dir=@/nowhere"],
        "error: data_dir must be a folder in which TensorFlow Datasets has prepared 'mnist'. "
        "Received: data_dir='@/nowhere', where there is no mnist/3.0.1. Either prepare it, where "
        'there is a network, with `python -c "import tensorflow_datasets; '
        "tensorflow_datasets.load('mnist:3.0.1', data_dir='@/nowhere')\"`, or name the folder that "
        "holds it (data_dir, or the variable TFDS_DATA_DIR); or take 'digits', which come with "
        "scikit-learn.",
    ),
    "folder_of_digits": (
        ["--data_dir=@/data"],
        "error: --data_dir must go with images that TensorFlow Datasets prepares: digits come with "
        "scikit-learn. Received: --data_dir=@/data. Leave one of the two out.",
    ),
    "curves_of_another_data_set": (
        ["--reference_curves=@/curves.json"],
        "error: --reference_curves must go with MNIST and a network that the paper's figures show. "
        "Received: --reference_curves=@/curves.json with other images or another network than "
        "--variant=base names. Leave out the one or the other.",
    ),
    "curves_of_another_network": (
        ["--dataset=mnist", "--num_hidden_layers=2", "--reference_curves=@/curves.json"],
        "error: --reference_curves must go with MNIST and a network that the paper's figures show. "
        "Received: --reference_curves=@/curves.json with other images or another network than "
        "--variant=base names. Leave out the one or the other.",
    ),
    "curves_of_larger_images": (
        ["--dataset=mnist", "--downsampling=2", "--reference_curves=@/curves.json"],
        "error: --reference_curves must go with MNIST and a network that the paper's figures show. "
        "Received: --reference_curves=@/curves.json with other images or another network than "
        "--variant=base names. Leave out the one or the other.",
    ),
    "squares_that_do_not_fit": (
        ["--downsampling=3"],
        "error: --downsampling must divide the sides of the images. Received: --downsampling=3 "
        "with images of 8 x 8 pixels. Leave it out, or choose a divisor.",
    ),
    "initial_rule_of_another_kind": (
        ["--mode=train", "--initial_rule=@/rule", "--units=3", "--output_scale=0.1"],
        "error: --initial_rule must be a rule of the kind that is trained. Received: "
        "--initial_rule=@/rule, which is CoordinatewiseLSTM(units=[3], output_scale=0.1, "
        "preprocessing='log_and_sign', p=10.0), to train CoordinatewiseLSTM(units=[3], "
        "output_scale=0.1, preprocessing='none', p=10.0). Give its settings as flags.",
    ),
    "initial_rule_that_is_not_there": (
        ["--mode=train", "--initial_rule=@/other"],
        "error: A rule must be one of @rules or the folder of a saved rule. Received: '@/other'. "
        "Check the spelling, or export a rule there.",
    ),
    "initial_rule_without_training": (
        ["--mode=evaluate", "--initial_rule=@/rule"],
        "error: --initial_rule must go with training. Received: --initial_rule=@/rule with "
        "--mode=evaluate. Leave it out, or give rules to evaluate by --rule.",
    ),
    "figure6_with_training": (
        ["--figure6"],
        f"{NO_FIGURE6}--mode=train_and_evaluate, --update_card=False. "
        "Train and score rules in another run.",
    ),
    "figure6_with_cards": (
        [*FIGURE6, "--update_card"],
        f"{NO_FIGURE6}--mode=evaluate, --update_card=True. Train and score rules in another run.",
    ),
    "figure6_with_a_network": (
        [*FIGURE6, "--variant=base", "--num_hidden_units=7"],
        "error: --figure6 must go without flags that choose a network: it compares twenty. "
        "Received: --variant=base, --num_hidden_units=7. Leave one or the other out.",
    ),
    "figure6_of_no_width": (
        [*FIGURE6, "--figure6_units=5,0"],
        "error: --figure6_units must be integers of at least 1. Received: --figure6_units=5,0. "
        "Give, say, --figure6_units=5,20,50.",
    ),
    "figure6_of_words": (
        [*FIGURE6, "--figure6_units=five"],
        "error: --figure6_units must be integers of at least 1. Received: --figure6_units=five. "
        "Give, say, --figure6_units=5,20,50.",
    ),
    "figure6_without_points": (
        [*FIGURE6, "--reference_curves=@/curves.json"],
        "error: --reference_curves must be a JSON file with an entry 'fig6_1layer' that holds "
        "'units' and 'loss' of each rule. Received: --reference_curves=@/curves.json, where "
        "KeyError('units'). Check the path, or leave the flag out.",
    ),
    "figure6_of_no_rule": (
        FIGURE6,
        "error: --output_dir must hold a trained rule where --rule names none. Received: "
        "--output_dir=@/out, which has no folder 'rule'. Train one with --mode=train, or give "
        "--rule.",
    ),
    "rates_no_json": (
        ["--tuned_rates=@/rates.jsonl"],
        f"{RATES_RULE}JSONDecodeError('Expecting value: line 1 column 1 (char 0)'). "
        "Check the path, or choose another.",
    ),
    "rates_of_something_else": (
        ["--tuned_rates=@/rates.jsonl"],
        f"{RATES_RULE}KeyError('final_losses'). Check the path, or choose another.",
    ),
    "rates_of_two_lengths": (
        ["--tuned_rates=@/rates.jsonl"],
        f"{RATES_RULE}ValueError('zip() argument 2 is longer than argument 1'). "
        "Check the path, or choose another.",
    ),
    "baselines_of_something_else": (
        ["--evaluated_baselines=@/rates.jsonl"],
        "error: --evaluated_baselines must be a file of baselines' losses that an evaluation has "
        "written, or be yet to be written. Received: --evaluated_baselines=@/rates.jsonl, where "
        "KeyError('row'). Check the path, or choose another.",
    ),
    "rule_of_another_input_size": (
        ["--mode=evaluate", "--rule=@/rule"],
        "error: A saved rule must hold a layer that this version can build. Received: "
        "path='@/rule', where kernel_0 has the shape (2, 12) in weights.npz and (1, 12) in the "
        "layer. Install the versions that its card names, or export the rule again.",
    ),
    "horizon": (
        ["--num_steps=0"],
        "FATAL Flags parsing error: flag --num_steps=0: 0 is not a positive integer\n"
        "Pass --helpshort or --helpfull to see help on flags.",
    ),
}
FILES = {
    "figure6_without_points": ("curves.json", '{"fig6_1layer": {"LSTM": {"loss": [1]}}}'),
    "rates_no_json": ("rates.jsonl", "no JSON"),
    "rates_of_something_else": ("rates.jsonl", '{"baseline": "sgd"}'),
    "baselines_of_something_else": ("rates.jsonl", '{"baseline": "sgd"}'),
    "rates_of_two_lengths": (
        "rates.jsonl",
        '{"baseline": "sgd", "learning_rates": [1, 2], "final_losses": [1]}',
    ),
}


@pytest.fixture(scope="module")
def refused(trained, tmp_path_factory) -> dict[str, Refusal]:
    root = tmp_path_factory.mktemp("refused")
    folders = {name: root / name for name in CASES}
    for name, folder in folders.items():
        rule = shutil.copytree(trained[0] / "rule", folder / "rule")
        if name in FILES:
            file, content = FILES[name]
            (folder / file).write_text(content)
        if name == "rule_of_another_input_size":
            _change_input_size(rule)
    arguments = {name: [*SETTINGS, "--output_dir=@/out", *own] for name, (own, _) in CASES.items()}
    return refusals("mnist", folders, arguments)


def _change_input_size(rule: Path) -> None:
    """Has a rule's layer see one number of each gradient, where its weights are for two."""
    config = json.loads((rule / "rule.json").read_text())
    config["config"]["preprocessing"] = "none"
    (rule / "rule.json").write_text(json.dumps(config))
    card = json.loads((rule / "card.json").read_text())
    card["sha256"]["rule.json"] = hashlib.sha256((rule / "rule.json").read_bytes()).hexdigest()
    (rule / "card.json").write_text(json.dumps(card))


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_flag_is_answered_with_one_sentence_and_changes_nothing(refused, case):
    folder, status, errors, unchanged = refused[case]
    message = CASES[case][1].replace("@rules", str(sorted(list_rules())))
    assert errors == message.replace("@", str(folder))
    assert status == 1
    assert unchanged
