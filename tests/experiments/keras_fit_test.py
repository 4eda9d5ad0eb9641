import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import keras_fit

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_it_trains_with_each_optimizer_and_writes_results_and_figure(tmp_path):
    command = [sys.executable, "-m", "experiments.keras_fit", f"--output_dir={tmp_path}"]
    command += ["--rule=quadratic_lstm", "--num_epochs=2", "--num_tasks=2", "--baselines=adam"]
    process = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    assert "of the test images right" in process.stdout
    results = json.loads((tmp_path / "results.json").read_text())
    learned, adam = results["rows"]
    assert (learned["rule"], learned["learned"], learned["learning_rate"]) == (
        "quadratic_lstm",
        True,
        None,
    )
    assert (adam["rule"], adam["learned"]) == ("adam", False)
    assert adam["learning_rate"] in adam["tuning"]["learning_rates"]
    for row in (learned, adam):
        assert len(row["curve"]) == 3
        assert 0 <= row["test_accuracy"] <= 1
    # The same initial weights for all.
    assert learned["curve"][0] == pytest.approx(adam["curve"][0], rel=1e-5)
    # A chance level of one in ten.
    assert adam["test_accuracy"] > 0.3
    assert (tmp_path / "keras_fit.png").read_bytes().startswith(b"\x89PNG")


def test_rules_trained_on_images_are_taken_where_there_are_any(monkeypatch, capsys):
    problems = {"of_mnist": "mnist_mlp20_sigmoid", "of_quadratics": "quadratic_uniform"}
    monkeypatch.setattr(keras_fit, "list_rules", lambda: {name: Path(name) for name in problems})
    monkeypatch.setattr(
        keras_fit, "load_card", lambda path: {"training": {"problem": problems[path.name]}}
    )
    assert keras_fit.default_rules() == [Path("of_mnist")]
    del problems["of_mnist"]
    assert keras_fit.default_rules() == [Path("of_quadratics")]
    assert "No rule of the package was trained on images" in capsys.readouterr().out
