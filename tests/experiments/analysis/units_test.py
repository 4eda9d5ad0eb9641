import keras
import numpy as np
import pytest

from experiments.analysis.units import units_out_of_use
from tests.experiments.binaries import refusals, run, strict_json


def _model(activation: str, bias: list[float]) -> keras.Model:
    """Returns a network whose hidden units see ten times the one input, and a bias."""
    hidden = keras.layers.Dense(len(bias), activation)
    model = keras.Sequential([keras.Input((1,)), hidden, keras.layers.Dense(1, "relu")])
    hidden.set_weights([np.full((1, len(bias)), 10.0), np.array(bias)])
    return model


def test_units_that_are_zero_or_at_an_end_on_all_images_are_counted():
    inputs = np.float32([[0.0], [0.5], [1.0]])
    # From -20 to -10, at 0 at one of three, and on.
    assert units_out_of_use(_model("relu", [-20, -15, 0, 5]), inputs) == (0.5, 0)
    # Beyond 4.6 of either sign, a sigmoid unit is at .01 or .99.
    assert units_out_of_use(_model("sigmoid", [-20, 5, 0, -3]), inputs) == (0, 0.5)
    # Others are neither.
    assert units_out_of_use(_model("tanh", [-20, 20]), inputs) == (0, 0)


@pytest.mark.slow
def test_shares_after_training_are_written(tmp_path):
    printed = run(
        "analysis.units",
        f"--output_dir={tmp_path}/out",
        "--rule=mnist_rnnprop",
        "--problem=mnist_relu",
        "--dataset=digits",
        "--num_steps=3",
        "--num_tasks=2",
    )
    (row,) = strict_json(tmp_path / "out" / "units.json")["rows"]
    assert 0 <= row["dead"]["share"] < 1
    assert row["saturated"] == {"share": 0, "stderr": 0}
    assert "| mnist_relu | mnist_rnnprop |" in printed
    folders = {"problem": tmp_path}
    given = {"problem": ["--output_dir=@/new", "--rule=mnist_lstm", "--problem=quadratic"]}
    assert refusals("analysis.units", folders, given)["problem"].errors == (
        "error: --problem must be one or more of ['conv_keras', 'mnist', 'mnist_keras', "
        "'mnist_layers2', 'mnist_relu', 'mnist_relu_keras']. Received: --problem=quadratic. Name "
        "networks for images."
    )
