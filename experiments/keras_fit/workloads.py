"""The networks that `keras_fit` trains, their losses and their data."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

from l2l_tf.data import Dataset, Examples
from l2l_tf.problems import conv_net, mlp


class Workload(NamedTuple):
    """A network and its task.

    Attributes:
        build: returns the network for the images of a data set.
        loss: a Keras loss.
        is_classification: whether the network predicts the class of an image, rather than the image
            itself.
    """

    build: Callable[[Dataset], keras.Model]
    loss: Any
    is_classification: bool = True

    def examples(self, part: Examples) -> tuple[np.ndarray, np.ndarray]:
        """Returns images, float32 in [0, 1], and targets: classes, or the images themselves."""
        images = part.images.astype(np.float32) / 255
        return images, part.labels if self.is_classification else images


def _autoencoder(dataset: Dataset) -> keras.Model:
    num_pixels = int(np.prod(dataset.image_shape))
    return keras.Sequential(
        [
            layers.Input(dataset.image_shape),
            layers.Flatten(),
            *[layers.Dense(units, activation="relu") for units in (128, 24, 128)],
            layers.Dense(num_pixels, activation="sigmoid", name="output"),
            layers.Reshape(dataset.image_shape),
        ],
        name="autoencoder",
    )


_CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

# Parts of the names of layers that compute outputs.
OUTPUTS = ("logits", "output")

# By the name that the flag gives.
WORKLOADS = {
    "mlp20_sigmoid": Workload(
        lambda dataset: mlp(dataset.image_shape, num_classes=dataset.num_classes), _CROSS_ENTROPY
    ),
    "mlp64x2_relu": Workload(
        lambda dataset: mlp(dataset.image_shape, 64, 2, "relu", dataset.num_classes),
        _CROSS_ENTROPY,
    ),
    "conv_net": Workload(
        lambda dataset: conv_net(dataset.image_shape, dataset.num_classes), _CROSS_ENTROPY
    ),
    "autoencoder": Workload(_autoencoder, "mean_squared_error", is_classification=False),
}
