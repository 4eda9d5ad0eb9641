"""Runs of `python -m experiments.cifar.report` on made-up results."""

import json
import os
from pathlib import Path

import matplotlib.image
import pytest

from tests.experiments.binaries import run
from tests.experiments.made_up_results import results, row, write_results

pytestmark = pytest.mark.slow


def _falling(at_100: float, at_200: float, num_steps: int = 200) -> list[float]:
    """A curve whose last five losses are at these numbers after 100 and 200 steps, on average."""
    # On a straight line, the mean of five losses is the one in their middle.
    return [at_100 + (at_200 - at_100) * (step - 98) / 100 for step in range(num_steps + 1)]


DIVERGED = [None] * 201
RESULTS = {
    "cifar10/results.json": results(
        200,
        row("mine", _falling(1.0, 0.5), spread=0.05),
        row("other", _falling(1.5, 1.0)),
        # The best early; the best late of those with a constant rate; the best late of all.
        row("adam", _falling(1.25, 0.8), 0.00316227),
        row("nag, momentum 0.95", _falling(2.0, 0.625), 0.1, at_edge=True),
        row("muon_cosine", _falling(1.75, 0.4), 0.02),
    ),
    "cifar2/results.json": results(200, row("mine", DIVERGED), row("adam", _falling(1, 0.5), 0.1)),
    # No baseline of constant rate.
    "cifar5/results.json": results(
        200, row("mine", _falling(1.0, 0.5)), row("muon_cosine", _falling(1.25, 1), 0.01)
    ),
    # Too short for a loss at step 100, and no figure of the paper's.
    "resnet20/results.json": results(
        50,
        # Of one run, which has no standard error.
        row("mine", [2.0] * 51) | {"final_losses": [2.0]},
        row("adam", [4.0] * 51, 0.1) | {"final_losses": [4.0]},
    ),
    "cifar10/results_training_half.json": results(
        200,
        row("mine", _falling(1.0, 0.5)) | {"test_accuracy": 0.5},
        row("mine, untrained", _falling(1.5, 1.5)) | {"test_accuracy": 0.375, "untrained": True},
        row("nag", _falling(2.0, 1.0), 0.1) | {"test_accuracy": 0.625},
    ),
}
CURVES = {
    "fig7_cifar10": {
        "LSTM": {"step": [10, 98, 195], "loss": [2.0, 1.4, 0.8]},
        # Its curve ends before the last step.
        "ADAM": {"step": [10, 99], "loss": [2.2, 2.1]},
    },
    "fig7_cifar5": {"LSTM-sub": {"step": [199], "loss": [0.04]}},
    "fig7_cifar2": {},
}
TABLES = """\
## Loss at step 100, tasks of test images

|  | CIFAR-10 | CIFAR-5 | CIFAR-2 |
| --- | --- | --- | --- |
| **mine** | **1** | **1** | diverged on 3 of 64 |
| **other** | 1.5 |  |  |
| adam | 1.25 |  | **1** |
| nag | 2 |  |  |
| muon_cosine | 1.75 | 1.25 |  |
| mine over the best baseline | 0.800 (adam) | 0.800 (muon_cosine) |  |
| mine over the best baseline of constant rate | 0.800 (adam) |  |  |
| other over the best baseline | 1.200 (adam) |  |  |
| other over the best baseline of constant rate | 1.200 (adam) |  |  |
| *paper: lstm* | *1.4* |  |  |
| *paper: adam* | *2.1* |  |  |

## Final loss, tasks of test images

|  | CIFAR-10 | CIFAR-5 | CIFAR-2 | CIFAR-10, ResNet-20 |
| --- | --- | --- | --- | --- |
| **mine** | 0.5 | **0.5** | diverged on 3 of 64 | **2** |
| **other** | 1 |  |  |  |
| adam | 0.8 |  | **0.5** | 4 |
| nag | 0.625 |  |  |  |
| muon_cosine | **0.4** | 1 |  |  |
| mine over the best baseline | 1.250 ± 0.125 (muon_cosine) | 0.500 ± 0.000 (muon_cosine) |  \
| 0.500 (adam) |
| mine over the best baseline of constant rate | 0.800 ± 0.080 (nag, momentum 0.95) |  |  |  |
| other over the best baseline | 2.500 ± 0.000 (muon_cosine) |  |  |  |
| other over the best baseline of constant rate | 1.600 ± 0.000 (nag, momentum 0.95) |  |  |  |
| *paper: lstm* | *0.8* |  |  |  |
| *paper: lstm-sub* |  | *0.04* |  |  |

## Loss at step 100, fresh tasks of the training half

|  | CIFAR-10 |
| --- | --- |
| **mine** | **1** |
| mine, untrained | 1.5 |
| nag | 2 |
| mine over the best baseline | 0.500 (nag) |
| mine, untrained over the best baseline | 0.750 (nag) |
| *paper: lstm* | *1.4* |
| *paper: adam* | *2.1* |

## Final loss, fresh tasks of the training half

|  | CIFAR-10 |
| --- | --- |
| **mine** | **0.5** |
| mine, untrained | 1.5 |
| nag | 1 |
| mine over the best baseline | 0.500 ± 0.000 (nag) |
| mine, untrained over the best baseline | 1.500 ± 0.000 (nag) |
| *paper: lstm* | *0.8* |

## Accuracy on test images, after training on the training half

|  | CIFAR-10 |
| --- | --- |
| **mine** | 0.5 |
| mine, untrained | 0.375 |
| nag | **0.625** |

## Learning rates of the baselines

|  | CIFAR-10 | CIFAR-5 | CIFAR-2 | CIFAR-10, ResNet-20 |
| --- | --- | --- | --- | --- |
| adam | 0.00316 |  | 0.1 | 0.1 |
| nag | 0.1, momentum 0.95 (edge) |  |  |  |
| muon_cosine | 0.02 | 0.01 |  |  |
"""


@pytest.fixture(scope="module")
def reported(tmp_path_factory) -> tuple[Path, str]:
    """The folder of a report, and what it printed."""
    folder = tmp_path_factory.mktemp("reported")
    write_results(folder, RESULTS)
    curves = folder / "curves.json"
    curves.write_text(json.dumps(CURVES))
    output = run("cifar.report", f"--output_dir={folder}", f"--reference_curves={curves}")
    return folder, output


def test_the_tables_hold_losses_early_and_late_beside_the_papers(reported):
    folder, output = reported
    assert (folder / "tables.md").read_text() == TABLES
    assert output == f"{TABLES}\nWrote tables.md and figure7.png to {folder}\n"


def test_the_figure_is_drawn_of_those_variants_that_the_papers_has(reported):
    folder, _ = reported
    assert [name for name in os.listdir(folder) if name.endswith(".png")] == ["figure7.png"]
    picture = matplotlib.image.imread(folder / "figure7.png")
    assert picture.std() > 0.05
    # Three panels beside each other, not four.
    assert 2.2 < picture.shape[1] / picture.shape[0] < 3.0
