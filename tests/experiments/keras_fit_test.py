import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from experiments.keras_fit import __main__ as keras_fit
from experiments.keras_fit.workloads import WORKLOADS
from l2l_tf.data import datasets
from l2l_tf.delivery.pretrained import PretrainedRule, list_rules
from l2l_tf.delivery.use import RuleUse
from tests.experiments.binaries import refusals, run, run_as_users_do


def _results(output_dir: Path) -> dict:
    return json.loads((output_dir / "results.json").read_text())


@pytest.mark.slow
def test_it_trains_with_each_optimizer_and_writes_results_and_figure(tmp_path):
    printed = run_as_users_do(
        "keras_fit",
        f"--output_dir={tmp_path}",
        "--rule=quadratic_lstm",
        "--baselines=adam",
        "--num_epochs=2",
        "--num_tasks=2",
        # Divides the digits, so that Keras compiles each step for one shape alone.
        "--batch_size=120",
    )
    assert "from Keras's initial weights" in printed
    assert "test accuracy" in printed
    learned, adam = _results(tmp_path)["rows"]
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


@pytest.mark.slow
def test_other_networks_initial_weights_and_lengths_of_epochs_are_taken(tmp_path):
    printed = run(
        "keras_fit",
        f"--output_dir={tmp_path}",
        "--network=autoencoder",
        "--initial_stddev=0",
        "--steps_per_epoch=30",
        "--num_epochs=2",
        "--num_tasks=1",
        "--batch_size=120",
        "--rule=mnist_rnnprop,mnist_lstm",
        "--baselines=",
    )
    assert "`fit` of autoencoder on digits, from weights of N(0, 0^2)" in printed
    results = _results(tmp_path)
    # Weights of zero give a grey of one half for each pixel.
    images = datasets.load("digits").train.images / 255
    assert results["rows"][0]["curve"][0] == pytest.approx(np.square(images - 0.5).mean(), rel=1e-4)
    for row in results["rows"]:
        assert len(row["curve"]) == 3  # Sixty steps are more than the digits have minibatches.
        assert row["curve"][-1] < row["curve"][0]
        assert "test_accuracy" not in row


@pytest.mark.slow
def test_a_rule_that_must_know_the_number_of_steps_is_told(tmp_path):
    run(
        "keras_fit",
        f"--output_dir={tmp_path}",
        "--network=mlp64x2_relu",
        "--rule=general",
        "--baselines=",
        "--num_epochs=3",
        "--num_tasks=1",
    )
    results = _results(tmp_path)
    # The last minibatch of an epoch may be smaller than the others.
    assert results["num_steps"] == 3 * -(-len(datasets.load("digits").train.images) // 128)
    (row,) = results["rows"]
    assert row["curve"][-1] < row["curve"][0] / 2


@pytest.mark.parametrize("name", list(keras_fit.OPTIMIZERS))
def test_each_optimizer_of_keras_is_made_from_a_rate_and_a_number_of_steps(name):
    optimizer = keras_fit.OPTIMIZERS[name](0.1, 100)
    variable = keras.Variable(np.ones((3, 2), np.float32), name="hidden")
    optimizer.apply([tf.ones((3, 2))], [variable])
    assert np.isfinite(variable).all()
    assert (variable.numpy() < 1).all()


@pytest.mark.slow
def test_flags_that_it_does_not_read_are_refused(tmp_path):
    arguments = ["--output_dir=@", "--mode=train", "--num_steps=7", "--seed=1", "--patience=1"]
    refused = refusals("keras_fit", {"case": tmp_path}, {"case": arguments})["case"]
    assert refused.errors == (
        "error: Flags must be ones that experiments.keras_fit reads. Received: --mode, "
        "--num_steps, which it does not. Leave them out; runs are of --num_epochs."
    )
    assert refused.status == 1


@pytest.mark.parametrize("name", list(WORKLOADS))
def test_each_network_takes_what_its_workload_gives(name):
    dataset, workload = datasets.load("digits"), WORKLOADS[name]
    inputs, targets = workload.examples(datasets.Examples(*(part[:3] for part in dataset.train)))
    assert (inputs.dtype, inputs.min() >= 0, inputs.max() <= 1) == (np.float32, True, True)
    model = workload.build(dataset)
    model.compile("sgd", workload.loss)
    assert np.isfinite(model.evaluate(inputs, targets, verbose=0))


def test_by_default_rules_for_models_from_any_initial_weights_are_compared(monkeypatch):
    uses = {
        "general": RuleUse("networks", True, None, 100),
        "narrow": RuleUse("one network", True, 0.01, 100),
        "pixels": RuleUse("pixels", False, None, 100),
        "mute": None,
    }
    rules = {name: PretrainedRule(Path(name), use) for name, use in uses.items()}
    monkeypatch.setattr(keras_fit, "list_rules", lambda: rules)
    assert keras_fit.default_rules() == ["general"]


def test_the_package_has_a_rule_that_is_compared_by_default():
    assert keras_fit.default_rules()
    assert set(keras_fit.default_rules()) <= set(list_rules())
