"""Errors common to both reports of evaluations."""

import json

import pytest

from experiments.cifar import variants as cifar_variants
from experiments.mnist import variants as mnist_variants
from tests.experiments.binaries import refusals
from tests.experiments.made_up_results import results, row

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("experiment", "variants"),
    [("cifar", cifar_variants.VARIANTS), ("mnist", mnist_variants.VARIANTS)],
    ids=["cifar", "mnist"],
)
def test_a_folder_without_evaluations_is_refused(experiment, variants, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    report = f"{experiment}.report"
    refused = refusals(report, {"empty": empty}, {"empty": ["--output_dir=@"]})["empty"]
    assert refused.errors == (
        f"error: --output_dir must hold evaluations of experiments.{experiment}, in folders named "
        f"after their variants. Received: --output_dir={empty}, where there is no results.json in "
        f"any of {list(variants)}. Evaluate a variant with --output_dir=FOLDER/VARIANT."
    )
    assert (refused.status, refused.unchanged) == (1, True)


def test_damaged_results_and_those_without_a_measure_are_refused(tmp_path):
    contents = {
        "cut_off": ("cifar10/results.json", '{"num_steps": 10', "JSONDecodeError("),
        "no_accuracy": (
            "cifar10/results_training_half.json",
            json.dumps(results(1, row("mine", [2.0, 1.0]))),
            "KeyError('test_accuracy'). Evaluate",
        ),
    }
    for name, (file, text, _) in contents.items():
        path = tmp_path / name / file
        path.parent.mkdir(parents=True)
        path.write_text(text)
    folders = {name: tmp_path / name for name in contents}
    refused = refusals("cifar.report", folders, {name: ["--output_dir=@"] for name in contents})
    for name, (file, _, reason) in contents.items():
        assert refused[name].errors.startswith(
            "error: --output_dir must hold results as evaluations have written them. Received: "
            f"{tmp_path / name / file}, where {reason}"
        )
        assert refused[name].errors.endswith(". Evaluate the variant again.")
        assert (refused[name].status, refused[name].unchanged) == (1, True)
