"""Runs of `python -m experiments.mnist.report` on made-up results."""

import json
import os
from pathlib import Path

import matplotlib.image
import pytest

from tests.experiments.binaries import run
from tests.experiments.made_up_results import results, row, write_results

pytestmark = pytest.mark.slow


def _network(units: int, num_layers: int, *rows: dict) -> dict:
    return {"units": units, "num_layers": num_layers, "rows": rows}


RESULTS = {
    "base/results.json": results(
        2,
        row("mine", [2.3, 1.0, 0.5]),
        row("adam", [2.3, 2.0, 1.0], 0.0316227),
        row("nag", [2.3, 1.5, 0.75], 0.1),
        ratio=2 / 3,
    ),
    # From a file, null stands for what is not finite.
    "relu/results.json": results(
        2, row("mine", [2.3, 9.0, None]), row("nag", [2.3, 1.25, 0.4], 10.0, at_edge=True)
    ),
    "base/results_training_half.json": results(2, row("mine", [2.3, 1.0, 0.25])),
    "figure6/figure6.json": {
        "networks": [
            {
                "units": 5,
                "num_layers": 1,
                "rows": [row("mine", [2.3, 0.9]), row("nag", [2.3, 1])],
            },
            {"units": 10, "num_layers": 1, "rows": [row("mine", [2.3, None])]},
            {"units": 5, "num_layers": 2, "rows": [row("mine", [2.3, 0.125])]},
        ]
    },
}
# The paper's LSTM is after the step, its baselines before it, where the step is the same.
CURVES = {
    "fig4_mnist": {
        "LSTM": {"step": [1, 2], "loss": [1.5, 0.25]},
        "ADAM": {"step": [1, 2, 3], "loss": [2.3, 2.0, 0.8]},
    },
    # SGD's is too short for a horizon of two: not in the table.
    "fig5_relu": {"NAG": {"step": [1, 2], "loss": [2.3, 0.9]}, "SGD": {"step": [1], "loss": [9]}},
}
TABLES = """\
## Final loss, tasks of test images

|  | base | ReLU |
| --- | --- | --- |
| **mine** | **0.5** | diverged on 3 of 64 |
| adam | 1 |  |
| nag | 0.75 | **0.4** |
| best learned rule over best baseline | 0.667 (nag) |  |
| *paper: lstm* | *0.25* |  |
| *paper: adam* | *0.8* |  |
| *paper: nag* |  | *0.9* |

## Mean loss over steps, tasks of test images

|  | base | ReLU |
| --- | --- | --- |
| **mine** | **0.75** | diverged on 3 of 64 |
| adam | 1.5 |  |
| nag | 1.12 | **0.825** |
| *paper: lstm* | *0.875* |  |
| *paper: adam* | *1.7* |  |
| *paper: nag* |  | *1.6* |

## Final loss, fresh tasks of the training half

|  | base |
| --- | --- |
| **mine** | **0.25** |
| *paper: lstm* | *0.25* |
| *paper: adam* | *0.8* |

## Mean loss over steps, fresh tasks of the training half

|  | base |
| --- | --- |
| **mine** | **0.625** |
| *paper: lstm* | *0.875* |
| *paper: adam* | *1.7* |

## Learning rates of the baselines

|  | base | ReLU |
| --- | --- | --- |
| adam | 0.0316 |  |
| nag | 0.1 | 10 (edge) |

## Final loss against hidden units

|  | 5 units | 10 units |
| --- | --- | --- |
| mine, 1 layer | 0.9 | diverged |
| nag, 1 layer | 1 |  |
| mine, 2 layers | 0.125 |  |
"""


@pytest.fixture(scope="module")
def reported(tmp_path_factory) -> tuple[Path, str]:
    """The folder of a report, and what it printed."""
    folder = tmp_path_factory.mktemp("reported")
    write_results(folder, RESULTS)
    curves = folder / "curves.json"
    curves.write_text(json.dumps(CURVES))
    output = run("mnist.report", f"--output_dir={folder}", f"--reference_curves={curves}")
    return folder, output


def test_the_tables_hold_what_the_evaluations_found_beside_the_papers_numbers(reported):
    folder, output = reported
    assert (folder / "tables.md").read_text() == TABLES
    assert output == f"{TABLES}\nWrote tables.md, figure4.png, figure5.png to {folder}\n"


def test_figures_are_drawn_of_what_there_is(reported):
    folder, _ = reported
    pictures = [name for name in os.listdir(folder) if name.endswith(".png")]
    assert sorted(pictures) == ["figure4.png", "figure5.png"]
    for name in pictures:
        assert matplotlib.image.imread(folder / name).std() > 0.05
