import dataclasses

import keras
import numpy as np
import pytest
from absl.testing import flagsaver

from experiments.general import networks, tasks
from experiments.general.tasks import TASKS
from experiments.general.training import train
from tests.experiments.general.made_up import examples_for, linear_data, linear_task, short

# Kinds of networks, small; other tests train dense ones and one with random numbers.
TRAINED = {
    "cifar16_conv": lambda: networks.conv_net((8, 8, 3), (4, 4), 5),
    "char_transformer32": lambda: networks.transformer(6, 8, num_layers=1, num_heads=2),
    "cifar16_resnet8": lambda: networks.residual_net((8, 8, 3), (4, 8), 1),
    "text_classifier": lambda: networks.text_classifier(6, 8, 5),
    "char_gru": lambda: networks.recurrent_characters(6, 8, 5),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_a_kind_of_network_trains(name):
    task = dataclasses.replace(short(name), build=TRAINED[name])
    outcome = train(task, examples_for(task), keras.optimizers.Adam(1e-3), seed=0)
    assert np.isfinite(outcome.losses).all()
    assert np.isfinite(outcome.test_loss)
    assert 0 <= outcome.test_metric <= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_task_has_a_network_with_a_layer_of_outputs(name):
    model = TASKS[name].model(0)
    assert model.get_layer("output").units == model.output_shape[-1]


def test_resnet20_has_the_size_of_the_published_network():
    # As in l2l_tf.problems.resnet20, whose docstring counts them.
    assert TASKS["cifar_resnet20"].model(0).count_params() - 2 * 784 == 272_474


def test_there_are_eight_tasks_to_look_at_and_eleven_to_keep():
    splits = [task.split for task in TASKS.values()]
    assert (splits.count("validation"), splits.count("test")) == (8, 11)
    assert all(200 <= task.num_steps <= 2000 for task in TASKS.values())


def test_minibatches_are_epochs_in_a_new_order_each():
    task = dataclasses.replace(linear_task(num_steps=5), batch_size=2)
    drawn = task.minibatches(5, seed=0)
    assert drawn.shape == (5, 2)
    first, second = drawn.ravel()[:5], drawn.ravel()[5:]
    assert sorted(first) == sorted(second) == list(range(5))
    assert list(first) != list(second)
    np.testing.assert_array_equal(drawn, task.minibatches(5, seed=0))
    assert (drawn != task.minibatches(5, seed=1)).any()


def test_a_seed_gives_the_same_weights_whatever_was_built_before():
    task = linear_task()
    first = task.model(3).get_weights()
    np.testing.assert_array_equal(task.model(3).get_weights()[0], first[0])
    assert (task.model(4).get_weights()[0] != first[0]).any()


@pytest.mark.parametrize(
    "change",
    [
        {"num_steps": 9},
        {"batch_size": 3},
        {"version": 2},
        {"loss": keras.losses.MeanAbsoluteError},
        {"build": lambda: keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, "relu")])},
        {"metric": keras.metrics.MeanAbsoluteError},
    ],
)
def test_a_fingerprint_changes_with_the_definition(change):
    task, data = linear_task(), linear_data()
    assert task.fingerprint(data) == linear_task().fingerprint(linear_data())
    assert dataclasses.replace(task, **change).fingerprint(data) != task.fingerprint(data)


def test_a_fingerprint_changes_with_the_data():
    data = linear_data()
    data.train.inputs[0, 0] += 1
    assert linear_task().fingerprint(data) != linear_task().fingerprint(linear_data())


def test_all_tasks_of_the_split_are_chosen_unless_some_are_named():
    tasks.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(split="test", tasks=[]):
        assert len(tasks.chosen_tasks()) == 11
    with flagsaver.flagsaver(split="validation", tasks=["mnist14_gru", "cifar16_conv"]):
        assert [task.name for task in tasks.chosen_tasks()] == ["mnist14_gru", "cifar16_conv"]
