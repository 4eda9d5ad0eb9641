"""Any Keras model on labelled images as a problem: minibatches and cross entropy."""

import hashlib
import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from l2l_tf.problems.problem import ParameterSpec, Problem
from l2l_tf.problems.sublayers import sublayers
from l2l_tf.problems.tasks import fold_in, integers, normal


class ClassificationProblem(Problem):
    """A Keras model to be trained on labelled images; tasks differ in start and minibatches.

    The parameters are the model's trainable variables, in its order, each drawn from N(0, sigma^2)
    and independent of the values that the model has. A departure from the paper: scales of
    normalisation layers are drawn around the value that their layer starts with, by default 1
    (`gamma_initializer`), because around 0 they would all but switch their layer off.
    Source: Andrychowicz et al. 2016, sections 3.2 and 3.3 (arXiv 1606.04474).

    A minibatch is drawn from all images with replacement. The loss is the mean cross entropy over
    it, in nats, and what regularizers of the model add. The model is run as in training: batch
    normalisation takes the statistics of the minibatch. Moving averages are no parameters: the loss
    does not depend on them, and what a step would make of them is dropped. Who wants to predict
    with moving averages can collect them, at the parameters in question, from a run of the model
    over some minibatches.

    The model itself is left as it is, and its values play no part. The images stay uint8 until
    their minibatch is used, and are a tensor that functions capture: graphs hold no copy.

    Args:
        model: from float images `[B, h, w, c]` in [0, 1] to logits, float `[B, C]`. Its layers
            must not draw random numbers.
        images: uint8 `[n, h, w, c]`, brightness in 0..255.
        labels: integers `[n]`, in 0..C - 1.
        batch_size: B, examples in a minibatch.
        initial_stddev: sigma, the standard deviation of the initial parameters.
        name: the problem's name; without it, the model's.

    Raises:
        TypeError: the model is no Keras model, images are not uint8, or labels no integers.
        ValueError: images or labels have another shape or do not belong together, the model does
            not take the images or gives no logits of the labels, it draws random numbers,
            `batch_size` is no integer from 1 on, or `initial_stddev` is negative or not finite.
    """

    def __init__(
        self,
        model: keras.Model,
        images: np.ndarray,
        labels: np.ndarray,
        batch_size: int = 128,
        initial_stddev: float = 0.01,
        name: str | None = None,
    ):
        if not isinstance(model, keras.Model):
            raise TypeError(
                "model must be a keras.Model. "
                f"Received: model={model!r}. Wrap layers in keras.Sequential."
            )
        images, labels = np.asarray(images), np.asarray(labels)
        _check_examples(images, labels)
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(
                "batch_size must be an integer from 1 on. "
                f"Received: batch_size={batch_size}. Give the number of examples in a minibatch."
            )
        if not 0 <= initial_stddev < math.inf:
            raise ValueError(
                "initial_stddev must be finite and not negative. Received: initial_stddev="
                f"{initial_stddev}. Give the standard deviation of the parameters at step 0."
            )
        _check_model(model, images, labels)
        self.model = model
        self.batch_size = batch_size
        self.initial_stddev = initial_stddev
        self.name = name or model.name
        self._images = tf.constant(images)
        self._labels = tf.constant(labels, tf.int32)
        self._initial_scales = _initial_scales(model)
        self._non_trainable = [tf.constant(v.numpy()) for v in model.non_trainable_variables]

    def initial_parameters(self, seed: tf.Tensor) -> list[tf.Tensor]:
        """Returns the values of the model's trainable variables at step 0."""
        seed = fold_in(seed, 0)
        parameters = []
        for index, variable in enumerate(self.model.trainable_variables):
            deviation = self.initial_stddev * normal(variable.shape, fold_in(seed, index))
            mean = self._initial_scales.get(variable.path, 0.0)
            parameters.append(tf.cast(mean + deviation, variable.dtype))
        return parameters

    def batch(self, seed: tf.Tensor, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns a step's images, uint8 `[B, h, w, c]`, and labels, int32 `[B]`."""
        seed = fold_in(fold_in(seed, 1), step)
        indices = integers([self.batch_size], self._labels.shape[0], seed)
        return tf.gather(self._images, indices), tf.gather(self._labels, indices)

    def loss(self, parameters: list[tf.Tensor], batch: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        """Returns the mean cross entropy over a minibatch, in nats, and penalties, `[1]`."""
        images, labels = batch
        model = self.model
        values = [
            *zip(model.trainable_variables, parameters, strict=True),
            *zip(model.non_trainable_variables, self._non_trainable, strict=True),
        ]
        # What `model.stateless_call` does, but that it calls `model.call`: layers in a model whose
        # `call` takes no `training` would then not hear of it.
        with keras.StatelessScope(state_mapping=values, collect_losses=True):
            logits = model(tf.cast(images, tf.float32) / 255, training=True)
            penalties = model.losses
        logits = tf.cast(logits, parameters[0].dtype)
        entropies = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        return tf.reshape(tf.reduce_mean(entropies) + sum(penalties), [1])

    @property
    def variables(self) -> list[ParameterSpec]:
        """The paths and shapes of the model's trainable variables."""
        return [ParameterSpec(v.path, tuple(v.shape)) for v in self.model.trainable_variables]

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments; in place of the examples, their shape and digest."""
        digest = hashlib.sha256(self._images.numpy())
        digest.update(self._labels.numpy())
        return {
            "model": keras.saving.serialize_keras_object(self.model),
            "examples": {"shape": list(self._images.shape), "sha256": digest.hexdigest()},
            "batch_size": self.batch_size,
            "initial_stddev": self.initial_stddev,
            "name": self.name,
        }


def _check_examples(images: np.ndarray, labels: np.ndarray) -> None:
    if images.dtype != np.uint8:
        raise TypeError(
            "images must be uint8, brightness in 0..255. "
            f"Received: images.dtype={images.dtype}. Scale and round them."
        )
    if images.ndim != 4 or not images.shape[0]:
        raise ValueError(
            "images must be of shape [n, h, w, c], with n from 1 on. Received: images.shape="
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
    """Builds a model, if need be, and checks that it goes with the examples."""
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
            "Number the classes from 0 on, or build the model for more of them."
        )
    if any(variable.name == "seed_generator_state" for variable in model.non_trainable_variables):
        raise ValueError(
            "model must not draw random numbers, for a task to be the same for every rule. "
            f"Received: model={model.name!r} with a seed generator. Leave out layers like Dropout."
        )


def _outputs(model: keras.Model, images: np.ndarray) -> tf.Tensor | None:
    """Returns what a model makes of images; None where it refuses them."""
    # Compared, because some layers take images of any shape in silence, a Flatten for one.
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


def _initial_scales(model: keras.Model) -> dict[str, Any]:
    """Returns what the scales of normalisation layers start with, by the variables' paths."""
    scales: dict[str, Any] = {}
    for layer in sublayers(model):
        initializer, gamma = (getattr(layer, one, None) for one in ("gamma_initializer", "gamma"))
        if isinstance(layer, keras.layers.RMSNormalization):
            scales[layer.scale.path] = 1.0
        elif initializer is not None and gamma is not None:
            scales[gamma.path] = initializer(gamma.shape, dtype=gamma.dtype)
    return scales


def _ends_with_softmax(model: keras.Model) -> bool:
    last = model.layers[-1]
    activation = getattr(last, "activation", None)
    return isinstance(last, keras.layers.Softmax) or activation is keras.activations.softmax
