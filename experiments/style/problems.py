"""Problems of neural style, configured by flags."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from absl import flags

from experiments.harness.path_flags import define_path
from l2l_tf.data.photos import (
    PhotoSplit,
    bundled_photos,
    read_folder,
    read_image,
    split_photos,
    with_shorter_side,
)
from l2l_tf.problems import StyleTransferProblem, feature_model
from l2l_tf.problems.feature_networks import FEATURE_NETWORKS

define_path(
    "content_dir",
    None,
    "Folder of photos whose crops are the content. By default, photos that come with scikit-learn.",
)
flags.DEFINE_integer(
    "photo_side", 256, "Shrink larger photos to this many pixels on the shorter side.", 32, 4096
)
define_path(
    "style_image",
    None,
    "Painting. If neither this nor --content_dir is given, a photo of scikit-learn's.",
)
define_path(
    "new_style_image",
    None,
    "Another painting. In a second table, rules are compared on it at twice the size.",
)
flags.DEFINE_integer("image_size", 64, "Pixels of each side of the crops.", 32, 2048)
flags.DEFINE_integer("num_images", 1, "Number of pictures in a task.", 1)
flags.DEFINE_enum(
    "network", "vgg19", sorted(FEATURE_NETWORKS), "Network whose maps define content and style."
)
define_path(
    "vgg_weights",
    "imagenet",
    "Weights of VGG19: imagenet, which Keras downloads; a file of its convolutions; or random.",
)
define_path(
    "squeezenet_weights", None, "Weights of SqueezeNet 1.1: a file of its convolutions, or random."
)
flags.DEFINE_list(
    "content_layers",
    [],
    "Layers, as layer or layer:weight. By default, block4_conv2 of VGG19, or fire5.",
)
flags.DEFINE_list(
    "style_layers",
    [],
    "Layers, as layer or layer:weight. By default, five of the network, such as block1_conv1 to "
    "block5_conv1. Layers without a weight share 1 equally.",
)
flags.DEFINE_float("content_weight", 64, "Alpha, the weight of the content.", 0)
flags.DEFINE_float("style_weight", 1000, "Beta, the weight of the style.", 0)
flags.DEFINE_float("variation_weight", 1000, "Gamma, the weight of the variation.", 0)
flags.DEFINE_float(
    "brightness_unit", 8, "Number of grey levels of 0..255 in a unit of a parameter.", 0.01
)

FLAGS = flags.FLAGS


class StyleParts(NamedTuple):
    """The problems of one painting; no two of them share a photo.

    Attributes:
        train: the problem that rules are trained on.
        validation: the problem that rules and learning rates are chosen on.
        test: the problem that rules are compared on.
    """

    train: StyleTransferProblem
    validation: StyleTransferProblem
    test: StyleTransferProblem


def load_photos() -> tuple[PhotoSplit, np.ndarray]:
    """Returns the photos in three parts, and the painting.

    Raises:
        FileNotFoundError: a file or folder does not exist.
        ValueError: a picture can't be used, or one of the two flags is given without the other.
    """
    if FLAGS.content_dir is None and FLAGS.style_image is None:
        photos, style = bundled_photos()
        return split_photos(photos), style
    if FLAGS.content_dir is None or FLAGS.style_image is None:
        raise ValueError(
            "--content_dir and --style_image must be given together, or left out for photos that "
            f"come with scikit-learn. Received: --content_dir={FLAGS.content_dir}, "
            f"--style_image={FLAGS.style_image}. Name a folder of photos and a painting."
        )
    style = read_image(FLAGS.style_image)
    return split_photos(read_folder(FLAGS.content_dir, FLAGS.photo_side)), style


def load_features() -> keras.Model:
    """Returns the network that the flags name, up to the layers that they name.

    Raises:
        FileNotFoundError: a file of weights does not exist.
        ValueError: weights are missing, or of another network, or a layer is unknown.
        OSError: a download failed.
    """
    weights = FLAGS.vgg_weights if FLAGS.network == "vgg19" else FLAGS.squeezenet_weights
    if weights is None:
        raise ValueError(
            "--squeezenet_weights must go with --network=squeezenet, whose weights Keras does not "
            "know. Received: --squeezenet_weights=None. Name a file of them, or random for a "
            "demonstration."
        )
    layers = dict.fromkeys([*content_layers(), *style_layers()])
    return feature_model(FLAGS.network, list(layers), weights)


def content_layers() -> dict[str, float]:
    """Returns the weight of each layer in which content is compared."""
    default = FEATURE_NETWORKS[FLAGS.network].content_layers
    return _layer_weights("content_layers", default)


def style_layers() -> dict[str, float]:
    """Returns the weight of each layer in which style is compared."""
    return _layer_weights("style_layers", FEATURE_NETWORKS[FLAGS.network].style_layers)


def style_parts(
    features: keras.Model, photos: PhotoSplit, style: np.ndarray, side: int
) -> StyleParts:
    """Returns the problems of one painting, with crops of `side` x `side` pixels."""
    return StyleParts(
        *(style_problem(features, part, style, (side, side), FLAGS.num_images) for part in photos)
    )


def style_problem(
    features: keras.Model,
    photos: Sequence[np.ndarray],
    style: np.ndarray,
    image_size: tuple[int, int],
    num_images: int = 1,
    make: Callable[..., Any] = StyleTransferProblem,
) -> Any:
    """Returns a problem, configured by flags.

    The painting is shrunk to the shorter side of the pictures. Its texture is therefore as large in
    relation to their content at any size.

    Args:
        features: the network whose maps define content and style.
        photos: the photos that content is drawn from.
        style: the painting.
        image_size: height and width of the pictures.
        num_images: the number of pictures in a task.
        make: the problem's class.
    """
    height, width = image_size
    return make(
        features,
        photos,
        with_shorter_side(style, min(image_size)),
        image_size,
        num_images,
        content_layers(),
        style_layers(),
        FLAGS.content_weight,
        FLAGS.style_weight,
        FLAGS.variation_weight,
        FLAGS.brightness_unit,
        name=f"style_{FLAGS.network}_{height}x{width}",
    )


def set_defaults_as_trained(problem_config: Mapping[str, Any]) -> None:
    """Sets the defaults of the problem's flags to the values that a rule was trained with."""
    for name in ("content_weight", "style_weight", "variation_weight", "brightness_unit"):
        if name in problem_config:
            FLAGS.set_default(name, problem_config[name])
    if problem_config.get("features", {}).get("name") in FEATURE_NETWORKS:
        FLAGS.set_default("network", problem_config["features"]["name"])
        if FLAGS.network == problem_config["features"]["name"]:
            for name in ("content_layers", "style_layers"):
                weights = problem_config[name].items()
                FLAGS.set_default(name, [f"{layer}:{weight!r}" for layer, weight in weights])


def _layer_weights(flag: str, default: Sequence[str]) -> dict[str, float]:
    entries = FLAGS[flag].value or list(default)
    weights = {}
    try:
        for entry in entries:
            layer, separator, weight = entry.partition(":")
            weights[layer] = float(weight) if separator else 1 / len(entries)
    except ValueError as error:
        raise ValueError(
            f"--{flag} must be names of layers, or name:weight. "
            f"Received: --{flag}={','.join(entries)}. Give, say, block1_conv1:0.5,block2_conv1:0.5."
        ) from error
    return weights
