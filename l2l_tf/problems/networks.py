"""The networks of the experiments: plain Keras models from images to logits."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from l2l_tf.checks import check_count, check_one_of

# The activations that flags accept.
ACTIVATIONS = ("elu", "relu", "sigmoid", "tanh")


def mlp(
    image_shape: Sequence[int] = (28, 28, 1),
    units: int = 20,
    num_layers: int = 1,
    activation: str = "sigmoid",
    num_classes: int = 10,
    dtype: str = "float32",
) -> keras.Model:
    """Returns a multilayer perceptron; the defaults are the paper's base network for MNIST.

    Source: Andrychowicz et al. 2016, section 3.2 (arXiv 1606.04474).

    Args:
        image_shape: height, width and channels of the images, float `[B, h, w, c]` in [0, 1].
        units: the number of units in each hidden layer.
        num_layers: the number of hidden layers.
        activation: the activation of the hidden layers, one of `ACTIVATIONS`.
        num_classes: C; the model's outputs are logits, `[B, C]`.
        dtype: dtype or policy of all layers; float64 is for derivative tests.

    Raises:
        ValueError: a count is not a positive integer, or the activation is unknown.
    """
    check_count("units", units)
    check_count("num_layers", num_layers)
    check_count("num_classes", num_classes)
    check_one_of("activation", activation, ACTIVATIONS)
    hidden = [
        layers.Dense(units, activation=activation, dtype=dtype, name=f"hidden_{index}")
        for index in range(num_layers)
    ]
    depth = "" if num_layers == 1 else f"x{num_layers}"
    return keras.Sequential(
        [
            layers.Input(tuple(image_shape), name="images"),
            layers.Flatten(dtype=dtype, name="pixels"),
            *hidden,
            layers.Dense(num_classes, dtype=dtype, name="logits"),
        ],
        name=f"mlp{units}{depth}_{activation}",
    )


def conv_net(
    image_shape: Sequence[int] = (32, 32, 3),
    num_classes: int = 10,
    dtype: str = "float32",
    scale_mean: float | None = None,
) -> keras.Model:
    """Returns the paper's convolutional network; the defaults are for CIFAR-10.

    The network has three convolutions of 5 x 5 with 16 channels, each followed by 2 x 2 max
    pooling, and a dense layer of 32 units, all with batch normalisation and ReLU. The logits
    follow. The paper's text leaves the sizes open. They are taken from the authors' code. As there,
    batch normalisation shifts but does not scale, and the layers before it keep their biases, which
    gives 22,682 coordinates.
    Source: Andrychowicz et al. 2016, section 3.3 (arXiv 1606.04474).

    Args:
        image_shape: height and width, at least 8, and channels of the images, float `[B, h, w, c]`
            in [0, 1].
        num_classes: C; the model's outputs are logits, `[B, C]`.
        dtype: dtype or policy of all layers; float64 is for derivative tests.
        scale_mean: if given, batch normalisation also scales (22,762 coordinates), with an epsilon
            of 1e-5. Scales start at this number, and a `ClassificationProblem` draws them around
            it. With 0, all parameters come from one Gaussian, as in the paper's text. Training then
            starts on a plateau, as in the paper's curves.

    Raises:
        ValueError: the images are smaller than 8 x 8, or `num_classes` is not a positive integer.
    """
    check_count("num_classes", num_classes)
    if min(image_shape[:2]) < 8:
        raise ValueError(
            "image_shape must have a height and width of 8 or more, to be halved three times. "
            f"Received: image_shape={tuple(image_shape)}. Take larger images, or an mlp."
        )
    blocks: list[keras.layers.Layer] = []
    for index in range(3):
        blocks += [
            layers.Conv2D(16, 5, padding="same", dtype=dtype, name=f"convolution_{index}"),
            *_normalized_relu(f"convolution_{index}", dtype, scale_mean),
            layers.MaxPooling2D(dtype=dtype, name=f"pooling_{index}"),
        ]
    return keras.Sequential(
        [
            layers.Input(tuple(image_shape), name="images"),
            *blocks,
            layers.Flatten(dtype=dtype, name="features"),
            layers.Dense(32, dtype=dtype, name="hidden"),
            *_normalized_relu("hidden", dtype, scale_mean),
            layers.Dense(num_classes, dtype=dtype, name="logits"),
        ],
        name="conv_net" if scale_mean is None else f"conv_net_scaled_{scale_mean:g}",
    )


def resnet20(
    image_shape: Sequence[int] = (32, 32, 3), num_classes: int = 10, dtype: str = "float32"
) -> keras.Model:
    """Returns a residual network of 20 layers; the defaults are for CIFAR-10.

    The network is a convolution, nine residual blocks, and the mean over the image. Each block has
    two convolutions of 3 x 3. Three blocks have 16 channels, three have 32 and three have 64. Batch
    normalisation follows each convolution, which therefore needs no bias. There are 272,474
    coordinates.
    Source: He et al. 2016, section 4.2 (arXiv 1512.03385). Unlike there, the shortcuts that double
    the channels are 1 x 1 convolutions with batch normalisation, the paper's option B. Option A
    pads the channels with zeros and has 269,722 coordinates.

    Args:
        image_shape: height and width, at least 4, and channels of the images, float `[B, h, w, c]`
            in [0, 1].
        num_classes: C; the model's outputs are logits, `[B, C]`.
        dtype: dtype or policy of all layers; float64 is for derivative tests.

    Raises:
        ValueError: the images are smaller than 4 x 4, or `num_classes` is not a positive integer.
    """
    check_count("num_classes", num_classes)
    if min(image_shape[:2]) < 4:
        raise ValueError(
            "image_shape must have a height and width of 4 or more, to be halved twice. "
            f"Received: image_shape={tuple(image_shape)}. Take larger images, or an mlp."
        )

    def convolved(features: Any, name: str, channels: int, size: int, strides: int = 1) -> Any:
        convolution = layers.Conv2D(
            channels, size, strides, "same", use_bias=False, dtype=dtype, name=name
        )
        normalization = layers.BatchNormalization(dtype=dtype, name=f"{name}_normalization")
        return normalization(convolution(features))

    def relu(features: Any, name: str) -> Any:
        return layers.ReLU(dtype=dtype, name=f"{name}_relu")(features)

    images = layers.Input(tuple(image_shape), name="images")
    features = relu(convolved(images, "convolution", 16, 3), "convolution")
    for stage, channels in enumerate((16, 32, 64)):
        for block in range(3):
            name = f"stage_{stage}_block_{block}"
            strides = 2 if stage and not block else 1
            shortcut = features
            if strides == 2:
                shortcut = convolved(features, f"{name}_shortcut", channels, 1, strides)
            features = relu(convolved(features, f"{name}_first", channels, 3, strides), f"{name}_a")
            features = convolved(features, f"{name}_second", channels, 3)
            features = layers.Add(dtype=dtype, name=f"{name}_sum")([features, shortcut])
            features = relu(features, name)
    features = layers.GlobalAveragePooling2D(dtype=dtype, name="means")(features)
    logits = layers.Dense(num_classes, dtype=dtype, name="logits")(features)
    return keras.Model(images, logits, name="resnet20")


def _normalized_relu(name: str, dtype: str, scale_mean: float | None) -> list[keras.layers.Layer]:
    settings: dict[str, Any] = {"scale": False}
    if scale_mean is not None:
        start = keras.initializers.Constant(scale_mean)
        settings = {"gamma_initializer": start, "epsilon": 1e-5}
    return [
        layers.BatchNormalization(**settings, dtype=dtype, name=f"{name}_normalization"),
        layers.ReLU(dtype=dtype, name=f"{name}_relu"),
    ]
