import dataclasses

import keras
import numpy as np
import pytest

from experiments.general.training import Outcome, train
from tests.experiments.general.made_up import examples_for, linear_data, linear_task, short


def test_losses_are_those_of_gradient_descent():
    task, data = linear_task(num_steps=60), linear_data()
    outcome = train(task, data, keras.optimizers.SGD(0.1), seed=5)
    kernel, bias = (weight.astype(float) for weight in task.model(5).get_weights())
    losses = []
    for chosen in task.minibatches(5, seed=5):
        inputs, targets = data.train.inputs[chosen], data.train.targets[chosen]
        errors = inputs @ kernel + bias - targets
        losses.append(np.square(errors).mean())
        kernel -= 0.1 * 2 * inputs.T @ errors / len(errors)
        bias -= 0.1 * 2 * errors.mean(0)
    # float32.
    np.testing.assert_allclose(outcome.losses, losses, rtol=1e-4)
    errors = data.test.inputs @ kernel + bias - data.test.targets
    np.testing.assert_allclose(outcome.test_loss, np.square(errors).mean(), rtol=1e-4)
    assert outcome.num_parameters == 4
    assert outcome.test_metric is None


@pytest.mark.slow
def test_contenders_see_the_same_start_minibatches_and_random_numbers():
    task = short("mnist_vae", num_steps=5)
    data = examples_for(task)
    # Optimizers that stand still show what they are given.
    still = [keras.optimizers.SGD(0.0), keras.optimizers.Adam(0.0)]
    first, second = (train(task, data, optimizer, seed=1) for optimizer in still)
    np.testing.assert_array_equal(first.losses, second.losses)
    assert len(set(first.losses)) == 5
    assert first.test_loss == second.test_loss
    other = train(task, data, keras.optimizers.SGD(0.0), seed=2)
    assert (first.losses != other.losses).all()


def test_one_seed_gives_one_curve():
    task, data = linear_task(), linear_data()
    first, second = (train(task, data, keras.optimizers.Adam(0.1), seed=1) for _ in range(2))
    np.testing.assert_array_equal(first.losses, second.losses)


def test_a_run_that_diverges_has_infinite_losses():
    task, data = linear_task(num_steps=200), linear_data()
    outcome = train(task, data, keras.optimizers.SGD(1e2), seed=0)
    assert outcome.final_loss == np.inf
    assert (outcome.test_loss, outcome.test_metric) == (np.inf, None)
    assert outcome.curve[1][0] < np.inf
    assert outcome.curve[1][-1] == np.inf


def test_layers_with_a_state_are_updated_in_training_and_used_in_inference():
    built = []

    def build():
        normalization = keras.layers.BatchNormalization(momentum=0.0, epsilon=0.0)
        built.append(normalization)
        return keras.Sequential([keras.Input((3,)), normalization, keras.layers.Dense(1)])

    task = dataclasses.replace(linear_task(num_steps=3), build=build)
    data = linear_data()
    train(task, data, keras.optimizers.SGD(0.0), seed=0)
    last = data.train.inputs[task.minibatches(5, seed=0)[-1]]
    # Without momentum, the averages are the last minibatch's.
    np.testing.assert_allclose(built[0].moving_mean, last.mean(0), rtol=1e-5)


def test_losses_are_smoothed_over_ten_steps_or_a_twentieth_of_all():
    short_run = Outcome(np.arange(100.0), 0.0, None, 1, 0.0)
    steps, losses = short_run.curve
    assert steps == list(range(2, 101, 2))
    assert losses[:2] == [0.5, 1.5]
    assert losses[-1] == short_run.final_loss == np.arange(90, 100).mean()
    assert Outcome(np.arange(400.0), 0.0, None, 1, 0.0).final_loss == np.arange(380, 400).mean()
    assert Outcome(np.arange(3.0), 0.0, None, 1, 0.0).curve == ([1, 2, 3], [0, 0.5, 1])
