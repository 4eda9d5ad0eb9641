"""Feature extractors for style transfer: truncated networks trained to classify photos."""

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from keras import layers as keras_layers

from l2l_tf.checks import check_one_of
from l2l_tf.files import expanded

# The means of ImageNet for blue, green and red, in 0..255. Both networks expect them subtracted.
_MEANS = (103.939, 116.779, 123.68)


class FeatureNetwork(NamedTuple):
    """A network, with its default layers for style transfer.

    Attributes:
        build: makes the convolutions. Its argument is None for no weights, or "imagenet" for those
            that Keras downloads.
        is_downloaded: whether Keras knows where to download weights from.
        content_layers: the default layers for comparing content.
        style_layers: the default layers for comparing style.
    """

    build: Callable[[str | None], keras.Model]
    is_downloaded: bool
    content_layers: tuple[str, ...]
    style_layers: tuple[str, ...]


def feature_model(network: str, layers: Sequence[str], weights: str | Path) -> keras.Model:
    """Returns a frozen network that maps pictures to the feature maps of chosen layers.

    Args:
        network: a key of `FEATURE_NETWORKS`.
        layers: names of its layers, such as "block4_conv2". Everything after the last one is cut
            off.
        weights: "imagenet", which Keras downloads, for "vgg19"; or an HDF5 file of the
            convolutions' weights (`include_top=False`) in Keras's order; or "random" for He's
            initial weights, always the same. With random weights, a style is no more than colours
            and a rough texture.

    Returns:
        A model from pictures, float `[B, h, w, 3]`, RGB in 0..255 (values outside are allowed), to
        a dictionary of maps, float `[B, h', w', C]`, by layer name. The model itself subtracts the
        means of ImageNet and reorders the channels, as in the networks' training. Its variables are
        not trainable.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the network or a layer is unknown, the weights are of another network, or there
            is nothing to download.
        OSError: a download failed.
    """
    check_one_of("network", network, FEATURE_NETWORKS)
    convolutions = _with_weights(network, str(weights))
    known = [layer.name for layer in convolutions.layers[1:]]
    unknown = [layer for layer in layers if layer not in known]
    if unknown or not layers:
        raise ValueError(
            f"layers must be among those of {network}: {', '.join(known)}. "
            f"Received: layers={list(layers)}. Check the spelling."
        )
    maps = {name: convolutions.get_layer(name).output for name in layers}
    pictures = keras_layers.Input((None, None, 3), name="pictures")
    centred = pictures[..., ::-1] - np.array(_MEANS, np.float32)
    outputs = keras.Model(convolutions.inputs, maps)(centred)
    model = keras.Model(pictures, outputs, name=network)
    model.trainable = False
    return model


def weights_digest(model: keras.Model) -> str:
    """Returns the SHA-256 of a model's weights, in the model's order, as hexadecimal digits."""
    digest = hashlib.sha256()
    for weight in model.weights:
        digest.update(weight.numpy().tobytes())
    return digest.hexdigest()


def squeezenet(weights: str | None = None) -> keras.Model:
    """Returns the convolutions of SqueezeNet 1.1 up to the last fire module, 722,496 weights.

    Source: Iandola et al. 2016 (arXiv 1602.07360), version 1.1 of the authors' code. Unlike there,
    the first convolution and the poolings do not pad edges. This matches the weights available for
    Keras.

    Args:
        weights: None; there is nothing to download.
    """
    del weights
    pictures = keras_layers.Input((None, None, 3))
    maps = keras_layers.Conv2D(64, 3, strides=2, activation="relu", name="conv1")(pictures)
    for index, (squeezed, units) in enumerate(_FIRE_UNITS, start=2):
        if index in (2, 4, 6):
            maps = keras_layers.MaxPooling2D(3, strides=2, name=f"pool{index - 1}")(maps)
        maps = _fire(maps, squeezed, units, f"fire{index}")
    return keras.Model(pictures, maps, name="squeezenet")


# Fire modules fire2 to fire9: channels of the squeezing convolution, and of each expanding one.
_FIRE_UNITS = tuple((units, 4 * units) for units in (16, 16, 32, 32, 48, 48, 64, 64))


def _fire(maps: keras.KerasTensor, squeezed: int, units: int, name: str) -> keras.KerasTensor:
    maps = keras_layers.Conv2D(squeezed, 1, activation="relu", name=f"{name}_squeeze")(maps)
    parts = [
        keras_layers.Conv2D(
            units, size, padding="same", activation="relu", name=f"{name}_expand{size}x{size}"
        )(maps)
        for size in (1, 3)
    ]
    return keras_layers.Concatenate(name=name)(parts)


def _vgg19(weights: str | None) -> keras.Model:
    return keras.applications.VGG19(include_top=False, weights=weights)


# VGG19's layers are Gatys et al.'s. SqueezeNet's are the last of each map size, the smallest twice.
FEATURE_NETWORKS = {
    "vgg19": FeatureNetwork(
        _vgg19, True, ("block4_conv2",), tuple(f"block{block}_conv1" for block in range(1, 6))
    ),
    "squeezenet": FeatureNetwork(
        squeezenet, False, ("fire5",), ("conv1", "fire3", "fire5", "fire7", "fire9")
    ),
}


def _with_weights(network: str, weights: str) -> keras.Model:
    chosen = FEATURE_NETWORKS[network]
    if weights == "imagenet":
        if not chosen.is_downloaded:
            raise ValueError(
                f"weights of {network} must be a file or 'random': there is nothing to download. "
                "Received: weights='imagenet'. Name a file."
            )
        try:
            return chosen.build("imagenet")
        # Keras raises nothing more specific.
        except Exception as error:
            reason = str(error).partition("\n")[0]
            raise OSError(
                f"weights='imagenet' must find the weights of {network} in Keras's cache or on the "
                f"network. Received: {reason}. Connect, or name a file of them."
            ) from error
    model = chosen.build(None)
    if weights == "random":
        _draw_weights(model)
        return model
    weights = str(expanded(weights))
    if not os.path.isfile(weights):
        words = "'random', 'imagenet'" if chosen.is_downloaded else "'random'"
        raise FileNotFoundError(
            f"weights must be {words} or a file. "
            f"Received: weights={weights!r}, which is no file. Check the path."
        )
    try:
        with warnings.catch_warnings():
            # If a file lacks layers, Keras may only warn.
            warnings.simplefilter("error", UserWarning)
            model.load_weights(weights)
    except (ValueError, OSError, KeyError, AttributeError, UserWarning) as error:
        raise ValueError(
            f"weights must be an HDF5 file (.h5) of the convolutions of {network}, in Keras's "
            f"order. Received: weights={weights!r}, which is of another network or none. Name "
            "another, or choose the network that it is of."
        ) from error
    return model


def _draw_weights(model: keras.Model) -> None:
    """Sets kernels to He's initial values (He et al. 2015, arXiv 1502.01852), biases to zero."""
    random = np.random.RandomState(0)
    for weight in model.weights:
        fan_in = np.prod(weight.shape[:-1])
        is_kernel = len(weight.shape) > 1
        weight.assign(is_kernel * np.sqrt(2 / fan_in) * random.standard_normal(weight.shape))
