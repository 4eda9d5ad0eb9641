"""Neural style transfer, with the pixels of a picture as parameters."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from l2l_tf.checks import check_instance, check_non_negative, check_positive
from l2l_tf.parameter_spec import ParameterSpec
from l2l_tf.problems.feature_networks import weights_digest
from l2l_tf.problems.problem import Problem
from l2l_tf.problems.seeds import fold_in, integers, uniform

# The size at which the loss is exactly the weighted sum of its terms: that of the paper's pictures.
_REFERENCE_PIXELS = 64 * 64


class StyleTransferProblem(Problem):
    """Neural style transfer: the content of a photo in the style of a painting.

    A task draws F photos, and a crop of H x W pixels from each, both uniformly. Its parameters are
    the pixels of F pictures, which start as the crops. The loss of each picture is

        f = (H W / 64^2) (alpha content + beta style + gamma variation):

        content = sum over layers of v_l times the mean over positions and channels of
            (F_l - P_l)^2, where F_l are the maps of layer l for the picture and P_l for the
            photo, in units of the mean square of the painting's maps;
        style = sum over layers of w_l times the mean over pairs of channels of (G_l - A_l)^2,
            where G_l = F_l^T F_l / M_l is the Gram matrix of the picture's maps over M_l
            positions and A_l that of the painting's maps, in units of the mean square of A_l;
        variation = the mean over channels and pairs of vertical and horizontal neighbours of
            their squared difference in brightness, where black is 0 and white is 1.

    Source: Gatys, Ecker and Bethge 2015, equations 1 to 7 (arXiv 1508.06576). Variation: Mahendran
    and Vedaldi 2015, section 3 with an exponent of 2 (arXiv 1412.0035). Andrychowicz et al. 2016,
    section 3.4 (arXiv 1606.04474), mention such a regularizer but do not define it.

    This loss differs from that of Gatys et al. It keeps the balance of the terms and the size of a
    pixel's gradient the same for any picture size and any network. Their content term is half a
    sum, which outgrows the style term in larger pictures; here it is a mean. Their network was
    rescaled to a mean activation of 1 per channel; here, terms are measured in units of the
    painting's own values. This also keeps deep layers, whose maps are sparse, from dominating. The
    factor H W scales the whole loss.

    Parameters are float, RGB, in units of `brightness_unit` grey levels of 0..255. They are not
    clipped, since a clipped pixel would have no gradient. Only `pictures` clips, for display.

    The network's weights and the photos are neither parameters nor part of a graph. The weights are
    copied when the problem is made.

    Args:
        features: maps pictures, float `[B, h, w, 3]`, RGB in 0..255, to a dictionary of maps, float
            `[B, h', w', C]`, by layer name, like a model returned by `feature_model`.
        photos: the photos to draw crops from, each uint8 `[h, w, 3]`, RGB in 0..255, of any size
            not below H x W.
        style: the painting, uint8 `[h, w, 3]`, of any size. Its texture appears in the pictures at
            the same scale in pixels.
        image_size: H and W, in pixels.
        num_images: F, the number of pictures in a task.
        content_layers: v_l by layer.
        style_layers: w_l by layer; 1/5 for each of five layers in the paper.
        content_weight: alpha. Since the terms are means here, the paper's 1 with a beta of 1000
            would leave the photo hard to recognise. 64 was chosen by eye on pictures of 128 x 128
            pixels.
        style_weight: beta; 1000 in the paper.
        variation_weight: gamma.
        brightness_unit: the number of grey levels (of 0..255) in one unit of a parameter. With a
            power of two, no pixel is rounded.
        name: the problem's name.

    Raises:
        TypeError: `features` is not a Keras model, or photos or style are not uint8.
        ValueError: photos or style have the wrong shape, a photo is smaller than the crops, there
            are no photos, a size is not a positive integer, a layer is unknown or responds to
            nothing in the painting, a weight is negative or not finite, or `brightness_unit` is not
            positive and finite.
    """

    is_stochastic = False
    # One convolution of several pictures reads the network's weights once for all of them. Two
    # pictures of 128 x 128 pixels take VGG19 1.4 times as long as one. More than four bring no
    # further gain.
    min_tasks_side_by_side = 4

    def __init__(
        self,
        features: keras.Model,
        photos: Sequence[np.ndarray],
        style: np.ndarray,
        image_size: Sequence[int] = (64, 64),
        num_images: int = 1,
        content_layers: Mapping[str, float] | None = None,
        style_layers: Mapping[str, float] | None = None,
        content_weight: float = 64.0,
        style_weight: float = 1000.0,
        variation_weight: float = 0.0,
        brightness_unit: float = 8.0,
        name: str = "style",
    ):
        advice = "Make one with feature_model."
        check_instance("features", features, keras.Model, "a keras.Model", advice)
        self.features = features
        self.image_size = tuple(image_size)
        self.num_functions = num_images
        self.content_layers = dict(content_layers or {})
        self.style_layers = dict(style_layers or {})
        self.content_weight = content_weight
        self.style_weight = style_weight
        self.variation_weight = variation_weight
        self.brightness_unit = brightness_unit
        self.name = name
        self._dtype = features.variable_dtype
        self._check_numbers()
        _check_picture("style", style)
        self._check_photos(photos)
        self._digests = {
            "photos": {"count": len(photos), "sha256": _digest(photos)},
            "style": {"shape": list(style.shape), "sha256": _digest([style])},
            "features": {"name": features.name, "sha256": weights_digest(features)},
        }
        # Photos of many sizes in one vector. Graphs hold no copy of it.
        self._pixels = tf.constant(np.concatenate([photo.ravel() for photo in photos]))
        sizes = np.array([photo.shape[:2] for photo in photos], np.int64)
        self._sizes = tf.constant(sizes)
        self._starts = tf.constant(np.cumsum([0, *(3 * sizes.prod(axis=1))[:-1]]), tf.int64)
        # As tensors, which tapes don't watch. A tape would watch Keras variables even after their
        # `trainable` is set to False.
        self._weights = [(one, tf.convert_to_tensor(one.value)) for one in features.weights]
        maps = self._maps(tf.constant(style[np.newaxis]))
        self._check_layers(maps)
        self._style_grams = {layer: _gram(maps[layer]) for layer in self.style_layers}
        self._content_units = {
            layer: float(tf.reduce_mean(tf.square(maps[layer]))) for layer in self.content_layers
        }
        self._style_units = {
            layer: float(tf.reduce_mean(tf.square(gram)))
            for layer, gram in self._style_grams.items()
        }
        self._check_units()

    def initial_parameters(self, seed: tf.Tensor) -> list[tf.Tensor]:
        """Returns the crops of the photos, float `[F, H, W, 3]`, in parameter units."""
        return [tf.cast(self._crops(seed), self._dtype) / self.brightness_unit]

    def batch(self, seed: tf.Tensor, step: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the content: the maps of the photos, float `[F, h', w', C]`, by layer."""
        maps = self._maps(self._crops(seed))
        return {layer: maps[layer] for layer in self.content_layers}

    def loss(self, parameters: list[tf.Tensor], batch: dict[str, tf.Tensor]) -> tf.Tensor:
        """Returns the loss of each picture, `[F]`."""
        (pixels,) = parameters
        brightness = self.brightness_unit * pixels
        maps = self._maps(brightness)
        height, width = self.image_size
        terms = (
            self.content_weight * self._content(maps, batch)
            + self.style_weight * self._style(maps)
            + self.variation_weight * _variation(brightness / 255)
        )
        return height * width / _REFERENCE_PIXELS * terms

    def losses_of_tasks(
        self, parameters: list[tf.Tensor], batch: dict[str, tf.Tensor]
    ) -> tf.Tensor:
        """Returns the losses of M tasks, `[M, F]`: one call of the network for all pictures."""

        def joined(tensor: tf.Tensor) -> tf.Tensor:
            return tf.reshape(tensor, [-1, *tensor.shape[2:]])

        losses = self.loss(*tf.nest.map_structure(joined, (parameters, batch)))
        return tf.reshape(losses, [-1, self.num_functions])

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return (self.num_functions,)

    @property
    def variables(self) -> list[ParameterSpec]:
        return [ParameterSpec("pixels", (*self.image_size, 3))]

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, with digests in place of pictures and weights."""
        return {
            **self._digests,
            "image_size": list(self.image_size),
            "num_images": self.num_functions,
            "content_layers": self.content_layers,
            "style_layers": self.style_layers,
            "content_weight": self.content_weight,
            "style_weight": self.style_weight,
            "variation_weight": self.variation_weight,
            "brightness_unit": self.brightness_unit,
            "name": self.name,
        }

    def pictures(self, parameters: tf.Tensor) -> np.ndarray:
        """Converts parameters, float `[F, H, W, 3]` or a vector, to pictures for display.

        Returns:
            uint8 `[F, H, W, 3]`, RGB in 0..255, clipped and rounded.
        """
        shape = (self.num_functions, *self.image_size, 3)
        brightness = self.brightness_unit * np.reshape(np.asarray(parameters), shape)
        return np.rint(np.clip(brightness, 0, 255)).astype(np.uint8)

    def loss_of_pictures(self, pictures: np.ndarray, batch: Any) -> tf.Tensor:
        """Returns the losses `[F]` of pictures that `pictures` has clipped and rounded."""
        return self.loss([tf.cast(pictures, tf.float32) / self.brightness_unit], batch)

    def _crops(self, seed: tf.Tensor) -> tf.Tensor:
        """Returns the crops of a task's photos, uint8 `[F, H, W, 3]`."""
        height, width = self.image_size
        count = self.num_functions
        seed = fold_in(seed, 0)
        photos = integers([count], self._sizes.shape[0], fold_in(seed, 0))
        sizes = tf.gather(self._sizes, photos)
        room = tf.cast(sizes - [height, width] + 1, tf.float32)
        corners = tf.cast(room * uniform([count, 2], fold_in(seed, 1)), tf.int64)
        # Rounding must not exceed the last corner.
        corners = tf.minimum(corners, sizes - [height, width])
        rows = corners[:, 0, tf.newaxis] + tf.range(height, dtype=tf.int64)
        columns = corners[:, 1, tf.newaxis] + tf.range(width, dtype=tf.int64)
        widths = sizes[:, 1, tf.newaxis, tf.newaxis]
        positions = rows[:, :, tf.newaxis] * widths + columns[:, tf.newaxis, :]
        starts = tf.gather(self._starts, photos)[:, tf.newaxis, tf.newaxis]
        channels = tf.range(3, dtype=tf.int64)
        return tf.gather(self._pixels, (starts + 3 * positions)[..., tf.newaxis] + channels)

    def _maps(self, brightness: tf.Tensor) -> dict[str, tf.Tensor]:
        with keras.StatelessScope(state_mapping=self._weights):
            maps = self.features(tf.cast(brightness, self._dtype))
        return {layer: tf.cast(one, self._dtype) for layer, one in maps.items()}

    def _content(self, maps: dict[str, tf.Tensor], photo: dict[str, tf.Tensor]) -> tf.Tensor:
        terms = [
            weight / self._content_units[layer] * _mean_square(maps[layer] - photo[layer])
            for layer, weight in self.content_layers.items()
        ]
        return tf.add_n(terms)

    def _style(self, maps: dict[str, tf.Tensor]) -> tf.Tensor:
        terms = [
            weight
            / self._style_units[layer]
            * _mean_square(_gram(maps[layer]) - self._style_grams[layer])
            for layer, weight in self.style_layers.items()
        ]
        return tf.add_n(terms)

    def _check_numbers(self) -> None:
        counts = [*self.image_size, self.num_functions]
        if len(counts) != 3 or not all(isinstance(one, int) and one > 0 for one in counts):
            raise ValueError(
                "image_size must be two positive integers, and num_images one. Received: "
                f"image_size={self.image_size}, num_images={self.num_functions}. "
                "Give, say, (64, 64) and 1."
            )
        if not self.content_layers or not self.style_layers:
            raise ValueError(
                "content_layers and style_layers must name one layer at least. Received: "
                f"content_layers={self.content_layers}, style_layers={self.style_layers}. "
                "Give each layer's weight by its name."
            )
        weights = {
            "content_weight": self.content_weight,
            "style_weight": self.style_weight,
            "variation_weight": self.variation_weight,
            **{f"content_layers[{name!r}]": one for name, one in self.content_layers.items()},
            **{f"style_layers[{name!r}]": one for name, one in self.style_layers.items()},
        }
        for argument, weight in weights.items():
            check_non_negative(argument, weight, "Give 0 to leave the term out.")
        advice = "Leave it out for 8 grey levels."
        check_positive("brightness_unit", self.brightness_unit, advice)

    def _check_photos(self, photos: Sequence[np.ndarray]) -> None:
        if not len(photos):
            raise ValueError("photos must hold one photo at least. Received: photos=[]. Read some.")
        for index, photo in enumerate(photos):
            _check_picture(f"photos[{index}]", photo)
            if any(side < crop for side, crop in zip(photo.shape, self.image_size, strict=False)):
                raise ValueError(
                    "photos must be as large as image_size, at least. Received: a photo of "
                    f"{photo.shape[0]} x {photo.shape[1]} pixels with image_size="
                    f"{self.image_size}. Give larger photos, or a smaller size."
                )

    def _check_layers(self, maps: dict[str, tf.Tensor]) -> None:
        unknown = [layer for layer in self._layers if layer not in maps]
        if unknown:
            raise ValueError(
                f"content_layers and style_layers must be among {sorted(maps)}, the outputs of "
                f"features. Received: {unknown}. Make features that have them."
            )

    def _check_units(self) -> None:
        units = [*self._content_units.values(), *self._style_units.values()]
        blind = [
            layer for layer, one in zip(self._layers, units, strict=True) if not 0 < one < math.inf
        ]
        if blind:
            raise ValueError(
                "features must see something of the painting in each layer. "
                f"Received: {blind}, where all is zero or not finite. Take other layers, or "
                "another painting."
            )

    @property
    def _layers(self) -> list[str]:
        return [*self.content_layers, *self.style_layers]


def _gram(maps: tf.Tensor) -> tf.Tensor:
    """Returns the Gram matrices `[B, C, C]` of maps `[B, h, w, C]`, averaged over positions."""
    batch, height, width, channels = maps.shape
    flat = tf.reshape(maps, [batch, height * width, channels])
    return tf.matmul(flat, flat, transpose_a=True) / (height * width)


def _mean_square(values: tf.Tensor) -> tf.Tensor:
    """Returns the mean square over all axes but the first."""
    return tf.reduce_mean(tf.square(values), axis=list(range(1, values.shape.rank)))


def _variation(values: tf.Tensor) -> tf.Tensor:
    """Returns the mean squared difference between neighbours in each image, `[B]`."""
    vertical = tf.square(values[:, 1:] - values[:, :-1])
    horizontal = tf.square(values[:, :, 1:] - values[:, :, :-1])
    num_pairs = math.prod(vertical.shape[1:]) + math.prod(horizontal.shape[1:])
    axes = [1, 2, 3]
    return (tf.reduce_sum(vertical, axes) + tf.reduce_sum(horizontal, axes)) / num_pairs


def _check_picture(argument: str, picture: np.ndarray) -> None:
    if getattr(picture, "dtype", None) != np.uint8:
        raise TypeError(
            f"{argument} must be a uint8 array, brightness in 0..255. Received: {argument} of "
            f"{getattr(picture, 'dtype', type(picture).__name__)}. Scale and round it."
        )
    if picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise ValueError(
            f"{argument} must be of shape [h, w, 3], RGB. "
            f"Received: {argument}.shape={picture.shape}. Convert it, as read_image does."
        )


def _digest(pictures: Sequence[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(f"{picture.shape}".encode())
        digest.update(picture.tobytes())
    return digest.hexdigest()
