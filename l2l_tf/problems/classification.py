"""Classification of labelled images by any Keras model, with minibatches and cross entropy."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from l2l_tf.checks import check_instance
from l2l_tf.problems.supervised import SupervisedProblem

_CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class ClassificationProblem(SupervisedProblem):
    """Training a Keras model on labelled images: a `SupervisedProblem` with cross entropy.

    By default each parameter is drawn from N(0, sigma^2), as in the paper.
    Source: Andrychowicz et al. 2016, sections 3.2 and 3.3 (arXiv 1606.04474).

    The loss is the mean cross entropy over a minibatch, in nats, plus the model's regularisation
    losses. The images stay uint8 until their minibatch is used.

    Args:
        model: maps float images `[B, h, w, c]` in [0, 1] to logits, float `[B, C]`.
        images: uint8 `[n, h, w, c]`, brightness in 0..255.
        labels: integers `[n]`, in 0..C - 1.
        batch_size: B, the number of examples in a minibatch.
        initial_stddev: sigma, the standard deviation of the initial parameters. None uses the
            model's own initializers.
        name: the problem's name. The default is the model's name.

    Raises:
        TypeError: the model is not a Keras model, the images are not uint8, or the labels are not
            integers.
        ValueError: images or labels have the wrong shape or don't match, the model rejects the
            images or does not return logits for the labels, `batch_size` is not a positive integer,
            or `initial_stddev` is negative or not finite.
    """

    def __init__(
        self,
        model: keras.Model,
        images: np.ndarray,
        labels: np.ndarray,
        batch_size: int = 128,
        initial_stddev: float | None = 0.01,
        name: str | None = None,
    ):
        advice = "Wrap layers in keras.Sequential."
        check_instance("model", model, keras.Model, "a keras.Model", advice)
        images, labels = np.asarray(images), np.asarray(labels)
        _check_examples(images, labels)
        _check_model(model, images, labels)
        super().__init__(
            model,
            images,
            labels.astype(np.int32),
            _CROSS_ENTROPY,
            batch_size,
            initial_stddev,
            name=name,
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, with shape and digest in place of the examples."""
        examples = self._description_of_examples()
        return {
            "model": keras.saving.serialize_keras_object(self.model),
            "examples": {"shape": examples["shapes"][0], "sha256": examples["sha256"]},
            "batch_size": self.batch_size,
            "initial_stddev": self.initial_stddev,
            "name": self.name,
        }

    def _prepared(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.cast(inputs, tf.float32) / 255

    def _loss_of(self, targets: tf.Tensor, outputs: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        logits = tf.cast(outputs, dtype)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)


def _check_examples(images: np.ndarray, labels: np.ndarray) -> None:
    if images.dtype != np.uint8:
        raise TypeError(
            "images must be uint8, brightness in 0..255. "
            f"Received: images.dtype={images.dtype}. Scale and round them."
        )
    if images.ndim != 4 or not images.shape[0]:
        raise ValueError(
            "images must be of shape [n, h, w, c], with n of at least 1. Received: images.shape="
            f"{images.shape}. Give grey images a last axis of 1, say images[..., np.newaxis]."
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(
            "labels must be integers. "
            f"Received: labels.dtype={labels.dtype}. Give the number of each image's class."
        )
    if labels.shape != images.shape[:1]:
        raise ValueError(
            "labels must be of shape [n], one for each image. Received: labels.shape="
            f"{labels.shape} with {len(images)} images. Give as many labels as images."
        )


def _check_model(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> None:
    """Builds the model if necessary, and checks that it fits the examples."""
    outputs = _outputs(model, images[:1])
    if outputs is None:
        raise ValueError(
            "model must take images of the shape of those given. Received: model="
            f"{model.name!r} with images.shape={images.shape}, which it refuses. "
            "Build it for these images, or give others."
        )
    ending = ""
    if outputs.shape.rank != 2:
        ending = f"with outputs of shape {outputs.shape}"
    elif _ends_with_softmax(model):
        ending = "that ends with a softmax"
    if ending:
        raise ValueError(
            f"model must give logits, float [B, C]. Received: model={model.name!r} {ending}. "
            "Let it end with a Dense layer that has no activation."
        )
    num_classes = outputs.shape[1]
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            "labels must be in 0..C - 1 for a model of C outputs. Received: "
            f"labels from {labels.min()} to {labels.max()} with C={num_classes}. "
            "Number the classes from 0, or build the model for more of them."
        )


def _outputs(model: keras.Model, images: np.ndarray) -> tf.Tensor | None:
    """Returns a model's outputs for images, or None if it rejects them."""
    # Shapes are compared, because some layers, such as Flatten, silently take images of any shape.
    shape = getattr(model, "input_shape", images.shape)
    if len(shape) != images.ndim or any(
        expected not in (None, size)
        for expected, size in zip(shape[1:], images.shape[1:], strict=True)
    ):
        return None
    try:
        return model(images.astype(np.float32) / 255)
    except (ValueError, tf.errors.InvalidArgumentError):
        return None


def _ends_with_softmax(model: keras.Model) -> bool:
    last = model.layers[-1]
    activation = getattr(last, "activation", None)
    return isinstance(last, keras.layers.Softmax) or activation is keras.activations.softmax
