import keras
import numpy as np
import pytest

from experiments.harness.keras_optimizers import BASELINES, muon_cosine, warmup_and_cosine


def test_the_schedule_rises_to_the_rate_and_falls_to_zero():
    schedule = warmup_and_cosine(0.1, 200)
    rates = np.array([float(schedule(step)) for step in range(201)])
    # Ten steps of warm-up, from a tenth of the rate; then half a cosine.
    np.testing.assert_allclose(rates[:11], np.linspace(0.01, 0.1, 11), rtol=1e-5)
    cosine = 0.1 * (1 + np.cos(np.pi * np.arange(191) / 190)) / 2
    np.testing.assert_allclose(rates[10:], cosine, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_a_baseline_reduces_squares_at_the_middle_of_its_grid(name):
    baseline = BASELINES[name]
    optimizer = baseline.make(10 ** (baseline.middle / 2), 20)
    weights = keras.Variable(np.ones((3, 2), np.float32), name="hidden")
    optimizer.build([weights])
    for _ in range(20):
        optimizer.apply([2 * weights.value], [weights])
    # Lion's steps are the smallest: of its rate, 3.16e-4, times the mean of the schedule.
    assert np.square(weights).max() < 0.995


def test_muon_orthogonalises_matrices_but_those_of_outputs_and_embeddings():
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Embedding(9, 8, name="embedding"),
            layers.Conv1D(8, 3),
            layers.Flatten(),
            layers.Dense(6, name="hidden"),
            layers.Dense(3, name="output"),
        ]
    )
    optimizer = BASELINES["muon_cosine"].make(0.01, 100)
    optimizer.build(model.trainable_variables)
    # Those without a second moment.
    velocities = [v.path for v in optimizer.variables if v.path.endswith("velocity")]
    others = [v.path for v in model.trainable_variables]
    assert len(velocities) == len(others) - 1
    assert not any("hidden" in path and "kernel" in path for path in velocities)


def test_outputs_may_have_other_names():
    layers = [keras.Input((4,)), *(keras.layers.Dense(3, name=name) for name in ("one", "logits"))]
    model = keras.Sequential(layers)
    optimizer = muon_cosine(0.01, 100, ["output", "logits"])
    optimizer.build(model.trainable_variables)
    # A kernel and two biases.
    assert sum(variable.path.endswith("velocity") for variable in optimizer.variables) == 3
