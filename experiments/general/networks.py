"""The networks of the suite: plain Keras models with Keras's default initial weights.

The layer before a network's outputs is called "output", so that an optimizer can be told about it.
"""

from typing import Any

import keras
import tensorflow as tf
from keras import layers

from experiments.general.data import CHARACTERS, NUM_TOPICS, NUM_WORDS


def dense_net(
    num_inputs: int | tuple[int, ...],
    units: tuple[int, ...],
    num_outputs: int,
    activation: str = "relu",
    output_activation: str | None = None,
) -> keras.Model:
    """Returns a network of dense layers.

    Args:
        num_inputs: the number of inputs, or the shape of an image.
        units: the number of units of each hidden layer.
        num_outputs: the number of outputs.
        activation: the activation of hidden layers.
        output_activation: the activation of outputs.
    """
    shape = (num_inputs,) if isinstance(num_inputs, int) else num_inputs
    return keras.Sequential(
        [
            layers.Input(shape),
            *([layers.Flatten()] if len(shape) > 1 else []),
            *[layers.Dense(width, activation) for width in units],
            layers.Dense(num_outputs, output_activation, name="output"),
        ]
    )


def conv_net(
    image_shape: tuple[int, ...],
    channels: tuple[int, ...],
    units: int | None = None,
    activation: str = "relu",
) -> keras.Model:
    """Returns 3 x 3 convolutions, each followed by 2 x 2 max pooling, for ten classes.

    Args:
        image_shape: height, width and channels of images.
        channels: the number of channels of each convolution.
        units: the number of units of a dense layer before the logits, if there is one.
        activation: the activation of convolutions and of the dense layer.
    """
    blocks: list[keras.layers.Layer] = []
    for width in channels:
        blocks += [layers.Conv2D(width, 3, padding="same", activation=activation)]
        blocks += [layers.MaxPooling2D()]
    hidden = [] if units is None else [layers.Dense(units, activation)]
    return keras.Sequential(
        [
            layers.Input(image_shape),
            *blocks,
            layers.Flatten(),
            *hidden,
            layers.Dense(10, name="output"),
        ]
    )


def residual_net(
    image_shape: tuple[int, ...], channels: tuple[int, ...], num_blocks: int
) -> keras.Model:
    """Returns a residual network with batch normalisation, for ten classes.

    With channels of 16, 32 and 64 and three blocks it is ResNet-20. Each stage but the first halves
    the image. Shortcuts that change shape are 1 x 1 convolutions.
    Source: He et al. 2016, section 4.2 (arXiv 1512.03385), with its option B for shortcuts.

    Args:
        image_shape: height, width and channels of images.
        channels: the number of channels of each stage.
        num_blocks: the number of blocks, of two convolutions each, of a stage.
    """

    def convolved(features: Any, width: int, size: int = 3, strides: int = 1) -> Any:
        features = layers.Conv2D(width, size, strides, "same", use_bias=False)(features)
        return layers.BatchNormalization()(features)

    inputs = layers.Input(image_shape)
    features = layers.ReLU()(convolved(inputs, channels[0]))
    for stage, width in enumerate(channels):
        for block in range(num_blocks):
            strides = 2 if stage and not block else 1
            shortcut = features
            if strides == 2:
                shortcut = convolved(features, width, 1, strides)
            features = layers.ReLU()(convolved(features, width, 3, strides))
            features = layers.ReLU()(layers.Add()([convolved(features, width), shortcut]))
    outputs = layers.Dense(10, name="output")(layers.GlobalAveragePooling2D()(features))
    return keras.Model(inputs, outputs)


def transformer(length: int, width: int, num_layers: int, num_heads: int) -> keras.Model:
    """Returns a causal transformer that predicts the next character.

    Positions are learned. Layers normalise what they take, not what they return, and their dense
    part is four times as wide as they are.

    Args:
        length: the number of characters of a text.
        width: the size of each character's vector.
        num_layers: the number of layers.
        num_heads: the number of heads of each layer's attention.
    """
    inputs = layers.Input((length,), dtype="int32")
    features = layers.Embedding(len(CHARACTERS), width, name="embedding")(inputs)
    features = Positions(name="position_embedding")(features)
    for _ in range(num_layers):
        normal = layers.LayerNormalization()(features)
        attention = layers.MultiHeadAttention(num_heads, width // num_heads)
        features = layers.Add()([features, attention(normal, normal, use_causal_mask=True)])
        hidden = layers.Dense(4 * width, "gelu")(layers.LayerNormalization()(features))
        features = layers.Add()([features, layers.Dense(width)(hidden)])
    features = layers.LayerNormalization()(features)
    return keras.Model(inputs, layers.Dense(len(CHARACTERS), name="output")(features))


class Positions(layers.Layer):
    """Adds a learned vector for each position, initially drawn like an embedding's."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        # Named after the weight, as in Keras's own layers, so that a `SupervisedProblem` finds it.
        self.positions_initializer = keras.initializers.get("random_uniform")
        self.positions = self.add_weight(
            shape[1:], initializer=self.positions_initializer, name="embeddings"
        )

    def call(self, features: tf.Tensor) -> tf.Tensor:
        return features + self.positions


def recurrent_characters(length: int, width: int, units: int) -> keras.Model:
    """Returns an embedding, a GRU and a dense layer that predict the next character."""
    return keras.Sequential(
        [
            layers.Input((length,), dtype="int32"),
            layers.Embedding(len(CHARACTERS), width, name="embedding"),
            layers.GRU(units, return_sequences=True),
            layers.Dense(len(CHARACTERS), name="output"),
        ]
    )


def recurrent_rows(
    image_shape: tuple[int, int, int], units: int, unroll: bool = False
) -> keras.Model:
    """Returns a GRU that reads an image row by row, for ten classes.

    Args:
        image_shape: height, width and channels of images.
        units: the number of units of the GRU.
        unroll: whether its steps are written out, which makes derivatives of derivatives cheaper.
    """
    return keras.Sequential(
        [
            layers.Input(image_shape),
            layers.Reshape((image_shape[0], image_shape[1] * image_shape[2])),
            layers.GRU(units, unroll=unroll),
            layers.Dense(10, name="output"),
        ]
    )


def text_classifier(length: int, width: int, units: int) -> keras.Model:
    """Returns an embedding of words, their mean and a dense layer, for the topic of a text."""
    return keras.Sequential(
        [
            layers.Input((length,), dtype="int32"),
            layers.Embedding(NUM_WORDS, width, name="embedding"),
            layers.GlobalAveragePooling1D(),
            layers.Dense(units, "relu"),
            layers.Dense(NUM_TOPICS, name="output"),
        ]
    )


def variational_autoencoder(num_pixels: int, units: int, num_latents: int) -> keras.Model:
    """Returns a variational autoencoder, whose logits are those of its pixels.

    Source: Kingma and Welling 2014 (arXiv 1312.6114).

    Args:
        num_pixels: the number of pixels, each in [0, 1].
        units: the number of units of the encoder's and the decoder's hidden layer.
        num_latents: the number of latent numbers.
    """
    inputs = layers.Input((num_pixels,))
    hidden = layers.Dense(units, "relu")(inputs)
    mean = layers.Dense(num_latents, name="mean")(hidden)
    log_variance = layers.Dense(num_latents, name="log_variance")(hidden)
    latents = Sampling(name="sampling")([mean, log_variance])
    hidden = layers.Dense(units, "relu")(latents)
    return keras.Model(inputs, layers.Dense(num_pixels, name="output")(hidden))


class Sampling(layers.Layer):
    """Draws latent numbers and adds their divergence from a standard normal to the losses.

    The divergence is in nats, the mean over the minibatch. In training, draws follow each other
    from a seed that Keras's global seed decides, so that runs from the same seed see the same ones.
    In inference, they are the same for each minibatch.
    """

    def __init__(self, **arguments: Any):
        super().__init__(**arguments)
        self._seeds = keras.random.SeedGenerator()

    def call(self, inputs: list[tf.Tensor], training: bool = False) -> tf.Tensor:
        mean, log_variance = inputs
        squares = tf.exp(log_variance) + tf.square(mean) - 1 - log_variance
        self.add_loss(tf.reduce_mean(tf.reduce_sum(squares, axis=1)) / 2)
        noise = keras.random.normal(tf.shape(mean), seed=self._seeds if training else 0)
        return mean + tf.exp(log_variance / 2) * noise


class PixelLikelihood(keras.losses.Loss):
    """The negative log-likelihood of images, in nats: the sum over pixels, of logits."""

    def call(self, targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        each = tf.nn.sigmoid_cross_entropy_with_logits(labels=targets, logits=logits)
        return tf.reduce_sum(each, axis=-1)
