"""The accuracy of a network at given parameters."""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from l2l_tf.checks import check_at_least
from l2l_tf.keras_internals import sublayers
from l2l_tf.problems.classification import ClassificationProblem

# Images classified at once.
_BATCH_SIZE = 500


def accuracy(
    problem: ClassificationProblem,
    parameters: Sequence[tf.Tensor],
    seed: tf.Tensor,
    first_step: int,
    images: np.ndarray,
    labels: np.ndarray,
    num_minibatches: int = 100,
) -> float:
    """Returns the share of images that a problem's model classifies correctly.

    The model runs in inference mode. For batch normalisation, means and variances are averaged over
    minibatches, all at the given parameters. Moving averages kept during training would lag behind
    the parameters.
    Source: Wu and Johnson 2021, section 3 ("PreciseBN", arXiv 2105.07576). Unlike there, variances
    are averaged without the variance of the means, as in Keras's moving averages.

    Args:
        problem: the problem.
        parameters: the parameters of one task, as `problem.initial_parameters` returns them.
        seed: names the task, int32 `[2]`.
        first_step: the step of the first minibatch to average over. Choose one that no training
            step has used.
        images: uint8 `[n, h, w, c]`, such as test images.
        labels: integers `[n]`.
        num_minibatches: the number of minibatches to average over.

    Raises:
        ValueError: there are no images, the numbers of labels and images differ, or
            `num_minibatches` is below 1.
    """
    if not len(images) or len(images) != len(labels):
        raise ValueError(
            "images and labels must have the same number, at least one. Received: "
            f"{len(images)} images with {len(labels)} labels. Give each image its label."
        )
    check_at_least("num_minibatches", num_minibatches, 1, "Leave it out for 100.")
    model = problem.model
    averages = _averages(problem, list(parameters), seed, first_step, num_minibatches)
    trained = list(zip(model.trainable_variables, parameters, strict=True))

    @tf.function(autograph=False)
    def count_right(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with keras.StatelessScope(state_mapping=[*trained, *averages]):
            logits = model(tf.cast(images, tf.float32) / 255, training=False)
        predicted = tf.argmax(logits, axis=1, output_type=tf.int32)
        return tf.math.count_nonzero(predicted == tf.cast(labels, tf.int32))

    num_right = sum(
        int(count_right(images[first : first + _BATCH_SIZE], labels[first : first + _BATCH_SIZE]))
        for first in range(0, len(images), _BATCH_SIZE)
    )
    return num_right / len(images)


def _averages(
    problem: ClassificationProblem,
    parameters: list[tf.Tensor],
    seed: tf.Tensor,
    first_step: int,
    num_minibatches: int,
) -> list[tuple[Any, tf.Tensor]]:
    """Returns each moving average of the model with its replacement value."""
    model = problem.model
    layers = list(_normalizations(model))
    moving = [one for layer in layers for one in (layer.moving_mean, layer.moving_variance)]
    # A moving average v becomes m v + (1 - m) s. Starting from zero, that is (1 - m) times s.
    shares = [1 - layer.momentum for layer in layers for _ in range(2)]
    mapping = [
        *zip(model.trainable_variables, parameters, strict=True),
        *((variable, tf.zeros(variable.shape, variable.dtype)) for variable in moving),
    ]

    @tf.function(autograph=False)
    def statistics(step: tf.Tensor) -> list[tf.Tensor]:
        images, _ = problem.batch(seed, step)
        with keras.StatelessScope(state_mapping=mapping) as scope:
            model(tf.cast(images, tf.float32) / 255, training=True)
        return [scope.get_current_value(variable) for variable in moving]

    if not moving:
        return []
    steps = tf.range(first_step, first_step + num_minibatches)
    sums = [tf.add_n(values) for values in zip(*(statistics(step) for step in steps), strict=True)]
    means = [total / (share * num_minibatches) for total, share in zip(sums, shares, strict=True)]
    return list(zip(moving, means, strict=True))


def _normalizations(model: keras.Model) -> Iterator[keras.layers.BatchNormalization]:
    for layer in sublayers(model):
        # A frozen layer ignores the statistics of minibatches: it keeps its averages.
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
            yield layer
