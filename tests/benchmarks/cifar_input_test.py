import numpy as np
import pytest
import tensorflow as tf

from benchmarks.cifar_input import MadeUp, compare
from l2l_tf.data import datasets
from l2l_tf.problems import task_seeds
from l2l_tf.problems.networks import conv_net


def test_made_up_images_are_those_of_the_network_the_same_at_each_step():
    digits = datasets.load("digits")
    problem = MadeUp(conv_net(digits.image_shape), *digits.train, batch_size=8)
    seed = task_seeds(0, "train", 0, 1)[0]
    images, labels = problem.batch(seed, tf.constant(0))
    assert images.shape == (8, 8, 8, 1)
    assert images.dtype == tf.float32
    np.testing.assert_array_equal(images, problem.batch(seed, tf.constant(3))[0])
    assert set(labels.numpy()) <= set(range(10))


@pytest.mark.slow
def test_both_kinds_of_images_are_timed_as_often():
    seconds = compare(datasets.load("digits"), num_rounds=2)
    assert {name: len(times) for name, times in seconds.items()} == {"real": 2, "synthetic": 2}
    assert all((times > 0).all() for times in seconds.values())
