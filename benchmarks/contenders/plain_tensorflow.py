"""TensorFlow as most people would write it: Keras cells, one loop, one tape around everything."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from benchmarks.contenders import MetaStepResult, tensorflow_losses
from benchmarks.workloads import (
    META_LEARNING_RATE,
    OUTPUT_SCALE,
    UNITS,
    InnerStep,
    MetaStep,
    P,
    rule_weights,
)


class LSTMRule:
    """The rule, made of Keras's own layers."""

    def __init__(self) -> None:
        values = rule_weights()
        self.weights: dict[str, keras.Variable] = {}
        self.cells = [keras.layers.LSTMCell(units) for units in UNITS]
        num_inputs = 2
        for layer, cell in enumerate(self.cells):
            cell.build((None, num_inputs))
            for name in ("kernel", "recurrent_kernel", "bias"):
                self.weights[f"{name}_{layer}"] = getattr(cell, name)
            num_inputs = cell.units
        self.output = keras.layers.Dense(1)
        self.output.build((None, num_inputs))
        self.weights |= {"output_kernel": self.output.kernel, "output_bias": self.output.bias}
        for name, weight in self.weights.items():
            weight.assign(values[name])

    def initial_state(self, num_coordinates: int) -> list[list[tf.Tensor]]:
        return [cell.get_initial_state(batch_size=num_coordinates) for cell in self.cells]

    def __call__(self, gradient, state):
        magnitude = tf.abs(gradient)
        is_large = magnitude >= tf.exp(-P)
        logarithm = tf.where(is_large, tf.math.log(tf.where(is_large, magnitude, 1.0)) / P, -1.0)
        sign = tf.where(is_large, tf.sign(gradient), tf.exp(P) * gradient)
        values = tf.stack([logarithm, sign], axis=1)
        next_state = []
        for cell, cell_state in zip(self.cells, state, strict=True):
            values, cell_state = cell(values, cell_state)
            next_state.append(list(cell_state))
        return OUTPUT_SCALE * self.output(values)[:, 0], next_state


def meta_step(workload: MetaStep) -> Callable[[], MetaStepResult]:
    """Returns a function that does one meta-step."""
    rule = LSTMRule()
    names, variables = list(rule.weights), list(rule.weights.values())
    optimizer = keras.optimizers.Adam(META_LEARNING_RATE)
    optimizer.build(variables)
    shapes = [parameter.shape for parameter in workload.parameters]
    sizes = [parameter.size for parameter in workload.parameters]
    inputs, labels = tf.constant(workload.inputs), tf.constant(workload.labels)

    def loss_and_gradient(parameters, batch):
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            parts = tf.split(parameters, sizes)
            tensors = [tf.reshape(part, shape) for part, shape in zip(parts, shapes, strict=True)]
            loss = tensorflow_losses.loss(workload.network, tensors, inputs[batch], labels[batch])
        return loss, tf.stop_gradient(tape.gradient(loss, parameters))

    @tf.function
    def step(parameters, gradient):
        def body(index, parameters, gradient, state, losses):
            delta, state = rule(gradient, state)
            parameters += delta
            loss, gradient = loss_and_gradient(parameters, index + 1)
            return index + 1, parameters, gradient, state, losses.write(index, loss)

        with tf.GradientTape() as tape:
            *_, losses = tf.while_loop(
                lambda index, *_: index < workload.num_steps,
                body,
                (
                    0,
                    parameters,
                    gradient,
                    rule.initial_state(workload.num_coordinates),
                    tf.TensorArray(tf.float32, workload.num_steps),
                ),
                maximum_iterations=workload.num_steps,
            )
            losses = losses.stack()
            meta_loss = tf.reduce_sum(losses)
        gradients = tape.gradient(meta_loss, [variable.value for variable in variables])
        optimizer.apply(gradients, variables)
        return losses, gradients

    first = tf.concat([tf.reshape(parameter, [-1]) for parameter in workload.parameters], axis=0)
    _, first_gradient = tf.function(loss_and_gradient)(first, tf.constant(0))

    def run() -> MetaStepResult:
        losses, gradients = step(first, first_gradient)
        named = zip(names, gradients, strict=True)
        return MetaStepResult(losses.numpy(), {name: value.numpy() for name, value in named})

    return run


def inner_step(workload: InnerStep) -> Callable[[], np.ndarray]:
    """Returns a function that does one inner step."""
    rule = LSTMRule()
    step = tf.function(lambda gradient, state: rule(gradient, state))
    gradient = tf.constant(workload.gradient)
    state = rule.initial_state(workload.num_coordinates)

    def run() -> np.ndarray:
        nonlocal state
        delta, state = step(gradient, state)
        return delta.numpy()

    return run
