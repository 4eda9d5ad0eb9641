"""The losses of the networks in TensorFlow, shared by its contenders."""

import tensorflow as tf

from benchmarks.networks import MLP, ConvNet, Network


def loss(
    network: Network, parameters: list[tf.Tensor], inputs: tf.Tensor, labels: tf.Tensor
) -> tf.Tensor:
    """Returns the mean cross-entropy over a batch, float32 `[]`.

    Args:
        network: which network.
        parameters: its parameters.
        inputs: float32 `[B, ...]`.
        labels: int32 `[B]`.
    """
    if isinstance(network, MLP):
        logits = _mlp(parameters, inputs)
    else:
        logits = _conv_net(network, parameters, inputs)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    return tf.reduce_mean(losses)


def _mlp(parameters: list[tf.Tensor], values: tf.Tensor) -> tf.Tensor:
    *hidden, kernel, bias = parameters
    for hidden_kernel, hidden_bias in zip(hidden[::2], hidden[1::2], strict=True):
        values = tf.sigmoid(values @ hidden_kernel + hidden_bias)
    return values @ kernel + bias


def _conv_net(network: ConvNet, parameters: list[tf.Tensor], values: tf.Tensor) -> tf.Tensor:
    *blocks, dense, scale, offset, kernel, bias = parameters
    for block in range(network.num_blocks):
        convolution, block_scale, block_offset = blocks[3 * block : 3 * block + 3]
        values = tf.nn.conv2d(values, convolution, 1, "SAME")
        values = tf.nn.relu(_normalize(values, block_scale, block_offset, network.epsilon))
        values = tf.nn.max_pool2d(values, 2, 2, "VALID")
    values = tf.reshape(values, [-1, network.num_features]) @ dense
    values = tf.nn.relu(_normalize(values, scale, offset, network.epsilon))
    return values @ kernel + bias


def _normalize(values: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor, epsilon: float) -> tf.Tensor:
    mean, variance = tf.nn.moments(values, list(range(values.shape.rank - 1)))
    return tf.nn.batch_normalization(values, mean, variance, offset, scale, epsilon)
