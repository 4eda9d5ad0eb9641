"""Runs of `python -m experiments.choose_seed` on rules with made-up cards."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from l2l_tf.delivery.export import export_rule, load_card
from l2l_tf.delivery.pretrained import load_rule
from l2l_tf.rules.coordinatewise_lstm import CoordinatewiseLSTM
from tests.experiments.binaries import Refusal, refusals, run_as_users_do

pytestmark = pytest.mark.slow

VALIDATION_LOSSES = {0: 0.5, 3: 0.25, 7: 0.75}


def _export(folder: Path, seed: int, validation_loss: float, **training) -> Path:
    row = {"final_loss_stderr": 0.01, "mean_loss": 1.0 + seed, "diverged": 0}
    card = {
        "name": "mine",
        "training": {
            "rule": {"config": {"units": [2], "seed": seed}},
            "num_steps": 5,
            "seed": seed,
            "progress": {"best_validation_loss": validation_loss, "seconds": 60.0 + seed},
            "command": f"train --seed={seed}",
            "commit": "abc",
        }
        | training,
        "scores": [
            {
                "problem": "bowl",
                "part": "test images",
                "num_steps": 5,
                "num_tasks": 64,
                "rows": [
                    row | {"rule": "mine", "final_loss": 0.1 + seed},
                    row | {"rule": "sgd", "final_loss": 9.0},
                ],
            }
        ],
    }
    rule = CoordinatewiseLSTM(units=[2], output_stddev=0.1, seed=seed)
    return export_rule(rule, folder / f"seed{seed}", card)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """The folder of three rules of different seeds, one trained otherwise, one without a loss."""
    folder = tmp_path_factory.mktemp("exported")
    for seed, loss in VALIDATION_LOSSES.items():
        _export(folder, seed, loss)
    _export(folder, 9, 0.1, num_steps=6)
    _export(folder, 11, 0.1, progress={})
    return folder


@pytest.fixture(scope="module")
def chosen(exported, tmp_path_factory) -> tuple[Path, str]:
    """The folder of the chosen rule and what was printed."""
    folder = tmp_path_factory.mktemp("chosen") / "rule"
    rules = ",".join(str(exported / f"seed{seed}") for seed in VALIDATION_LOSSES)
    return folder, run_as_users_do("choose_seed", f"--rule={rules}", f"--output_dir={folder}")


def test_the_rule_with_the_lowest_validation_loss_is_copied(exported, chosen):
    before, after = (load_rule(path).get_weights() for path in (exported / "seed3", chosen[0]))
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    card = load_card(chosen[0])
    assert {key: value for key, value in card.items() if key != "meta_seeds"} == load_card(
        exported / "seed3"
    )


def test_the_card_has_the_losses_of_all_seeds(chosen):
    assert load_card(chosen[0])["meta_seeds"] == [
        {
            "seed": seed,
            "validation_loss": loss,
            "seconds": 60.0 + seed,
            "commit": "abc",
            "command": f"train --seed={seed}",
            "scores": [
                {
                    "problem": "bowl",
                    "part": "test images",
                    "num_steps": 5,
                    "num_tasks": 64,
                    "final_loss": 0.1 + seed,
                    "final_loss_stderr": 0.01,
                    "mean_loss": 1.0 + seed,
                    "diverged": 0,
                }
            ],
        }
        for seed, loss in VALIDATION_LOSSES.items()
    ]


def test_it_prints_what_it_chose_from(chosen):
    assert chosen[1].splitlines() == [
        "| seed | validation loss | final / mean loss of scores |",
        "| --- | --- | --- |",
        "| 0 | 0.5 | 0.1 / 1 |",
        "| 3 | 0.25 | 3.1 / 4 |",
        "| 7 | 0.75 | 7.1 / 8 |",
        "",
        f"Copied the rule of seed 3 to {chosen[0]}",
    ]


ALIKE = (
    "error: --rule must name two or more rules that were trained alike but for the seed. Received: "
)
ADVICE = "Train each with the same flags but for --seed and --output_dir."
# What --rule names in the case's folder, and what is said of it.
CASES = {
    "one": (["seed0"], f"{ALIKE}--rule=@/seed0, of the seeds [0]. {ADVICE}"),
    "one_twice": (
        ["seed0", "seed0"],
        f"{ALIKE}--rule=@/seed0,@/seed0, of the seeds [0, 0]. {ADVICE}",
    ),
    "trained_otherwise": (
        ["seed0", "seed9"],
        f"{ALIKE}--rule=@/seed0,@/seed9, of the seeds [0, 9]. {ADVICE}",
    ),
    "without_a_loss": (
        ["seed0", "seed11"],
        "error: --rule must name rules whose cards say how they were trained and how they did. "
        "Received: --rule=@/seed0,@/seed11, where KeyError('best_validation_loss'). Name rules "
        "that experiments have written.",
    ),
    "damaged": (
        ["seed0", "seed3"],
        "error: A saved rule must be whole. Received: path='@/seed3', where weights.npz does not "
        "have the checksum in card.json. Export or copy the rule again.",
    ),
}


@pytest.fixture(scope="module")
def refused(exported, tmp_path_factory) -> dict[str, Refusal]:
    root = tmp_path_factory.mktemp("refused")
    folders = {name: shutil.copytree(exported, root / name) for name in CASES}
    (folders["damaged"] / "seed3" / "weights.npz").write_bytes(b"")
    arguments = {
        name: [f"--rule={','.join(f'@/{rule}' for rule in rules)}", "--output_dir=@/out"]
        for name, (rules, _) in CASES.items()
    }
    return refusals("choose_seed", folders, arguments)


@pytest.mark.parametrize("case", CASES)
def test_rules_that_are_no_choice_are_refused_and_nothing_is_written(refused, case):
    folder, status, errors, unchanged = refused[case]
    assert errors == CASES[case][1].replace("@", str(folder))
    assert status == 1
    assert unchanged
