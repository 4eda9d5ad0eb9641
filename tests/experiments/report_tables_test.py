"""What both reports of evaluations refuse."""

import pytest

from experiments import cifar_variants, mnist_variants
from tests.experiments.binaries import refusals

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("experiment", "variants"),
    [("cifar", cifar_variants.VARIANTS), ("mnist", mnist_variants.VARIANTS)],
    ids=["cifar", "mnist"],
)
def test_a_folder_without_evaluations_is_refused(experiment, variants, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    report = f"{experiment}_report"
    refused = refusals(report, {"empty": empty}, {"empty": ["--output_dir=@"]})["empty"]
    assert refused.errors == (
        f"error: --output_dir must hold evaluations of experiments.{experiment}, in folders named "
        f"after their variants. Received: --output_dir={empty}, where there is no results.json in "
        f"any of {list(variants)}. Evaluate a variant with --output_dir=FOLDER/VARIANT."
    )
    assert (refused.status, refused.unchanged) == (1, True)
