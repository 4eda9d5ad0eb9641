"""Steps of Keras optimizers: `apply` alone, or with the forward and backward pass."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf


def gradients_for(parameters: Sequence[np.ndarray]) -> list[tf.Tensor]:
    """Returns random gradients, float32, in the shapes of parameters."""
    random = np.random.default_rng(1)
    return [
        tf.constant(random.standard_normal(parameter.shape, np.float32)) for parameter in parameters
    ]


def apply_step(
    optimizer: keras.optimizers.Optimizer,
    parameters: Sequence[np.ndarray],
    gradients: Sequence[tf.Tensor],
    compiler: str,
) -> Callable[[], Any]:
    """Returns a function that updates variables of its own by `apply`, and waits for the end.

    Args:
        optimizer: builds its state for the variables.
        parameters: their initial values.
        gradients: their gradients, the same at each step.
        compiler: "graph" or "xla".
    """
    variables = [keras.Variable(parameter) for parameter in parameters]
    optimizer.build(variables)
    apply = tf.function(
        lambda: optimizer.apply(gradients, variables),
        autograph=False,
        jit_compile=compiler == "xla",
    )

    def run() -> None:
        apply()
        variables[0].numpy()

    return run


def training_step(
    optimizer: keras.optimizers.Optimizer,
    model: keras.Model,
    loss: keras.losses.Loss,
    inputs: np.ndarray,
    targets: np.ndarray,
    compiler: str,
) -> Callable[[], Any]:
    """Returns a function that trains a model on one minibatch, and waits for the end.

    Args:
        optimizer: builds its state for the model's variables.
        model: the model.
        loss: what it is trained by.
        inputs: the minibatch's inputs.
        targets: and its targets.
        compiler: "graph" or "xla".
    """
    variables = model.trainable_variables
    optimizer.build(variables)
    minibatch = tf.constant(inputs), tf.constant(targets)

    @tf.function(autograph=False, jit_compile=compiler == "xla")
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            value = loss(minibatch[1], model(minibatch[0], training=True))
        optimizer.apply(tape.gradient(value, variables), variables)
        return value

    return lambda: step().numpy()


def state_bytes(optimizer: keras.optimizers.Optimizer) -> int:
    """Returns the bytes of an optimizer's state, without single numbers."""
    kept = [one for one in optimizer.variables if len(one.shape)]
    return sum(int(np.prod(one.shape)) * tf.as_dtype(one.dtype).size for one in kept)
