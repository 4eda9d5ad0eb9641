"""Accuracy with averaged statistics, against Keras's own moving averages and a hand count."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.data import datasets
from l2l_tf.problems import ClassificationProblem, task_seeds
from l2l_tf.problems.accuracy import accuracy
from l2l_tf.problems.networks import conv_net, mlp

SEED = task_seeds(0, "test", 0, 1)[0]


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


def _values(model: keras.Model) -> list[tf.Tensor]:
    draw = np.random.default_rng(0)
    return [
        tf.constant(0.3 * draw.standard_normal(variable.shape), tf.float32)
        for variable in model.trainable_variables
    ]


def test_without_normalisation_it_is_the_share_of_largest_logits_that_are_right(digits):
    model = mlp(digits.image_shape, units=5)
    problem = ClassificationProblem(model, *digits.train, batch_size=8)
    parameters = _values(model)
    model.set_weights(parameters)
    logits = model(digits.test.images.astype(np.float32) / 255).numpy()
    expected = np.mean(np.argmax(logits, axis=1) == digits.test.labels)
    # More images than are classified at once.
    assert accuracy(problem, parameters, SEED, 0, *digits.test) == pytest.approx(expected)


class _Composite(keras.layers.Layer):
    """A layer of a layer."""

    def __init__(self, inner: keras.layers.Layer):
        super().__init__()
        self.inner = inner

    def call(self, inputs, training=False):
        return self.inner(inputs, training=training)


@pytest.mark.slow
def test_normalisation_takes_the_mean_of_the_statistics_of_minibatches(digits):
    model = conv_net(digits.image_shape)
    frozen = keras.layers.BatchNormalization(trainable=False)
    # Nested, as layers of a network may be.
    nested = keras.Sequential([keras.layers.Input(digits.image_shape), frozen, _Composite(model)])
    problem = ClassificationProblem(nested, *digits.train, batch_size=32)
    parameters = _values(nested)
    found = accuracy(problem, parameters, SEED, 7, *digits.test, num_minibatches=3)
    # Keras's own moving averages become the mean of three with the weights 1/3, 1/2 and 1.
    for variable, value in zip(nested.trainable_variables, parameters, strict=True):
        variable.assign(value)
    norms = [one for one in model.layers if isinstance(one, keras.layers.BatchNormalization)]
    for index in range(3):
        for layer in norms:
            layer.momentum = index / (index + 1)
        images, _ = problem.batch(SEED, tf.constant(7 + index))
        nested(tf.cast(images, tf.float32) / 255, training=True)
    logits = nested(digits.test.images.astype(np.float32) / 255, training=False).numpy()
    right = np.argmax(logits, axis=1) == digits.test.labels
    # Rounding may move an image whose two largest logits are all but equal.
    assert found == pytest.approx(np.mean(right), abs=2 / len(right))
    assert 0.02 < found < 0.5


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"images": np.zeros((0, 8, 8, 1), np.uint8)},
            r"^images and labels must have the same number, at least one\. Received: 0 images with "
            r"2 labels\. Give each image its label\.$",
        ),
        ({"num_minibatches": 0}, r"^num_minibatches must"),
    ],
)
def test_what_has_no_accuracy_is_refused(digits, changes, match):
    model = mlp(digits.image_shape, units=2)
    problem = ClassificationProblem(model, *digits.train, batch_size=8)
    given = {"images": digits.test.images[:2], "labels": digits.test.labels[:2]} | changes
    with pytest.raises(ValueError, match=match):
        accuracy(problem, _values(model), SEED, 0, **given)
