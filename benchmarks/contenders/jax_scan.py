"""JAX: one `lax.scan` over steps, differentiated and compiled as a whole."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

from benchmarks.contenders import MetaStepResult
from benchmarks.networks import MLP, ConvNet, Network
from benchmarks.workloads import (
    META_LEARNING_RATE,
    OUTPUT_SCALE,
    UNITS,
    InnerStep,
    MetaStep,
    P,
    rule_weights,
)


def rule(weights, gradient, state):
    """Returns the delta `[N]` for a gradient `[N]`, and the next state."""
    magnitude = jnp.abs(gradient)
    is_large = magnitude >= jnp.exp(-P)
    logarithm = jnp.where(is_large, jnp.log(jnp.where(is_large, magnitude, 1.0)) / P, -1.0)
    sign = jnp.where(is_large, jnp.sign(gradient), jnp.exp(P) * gradient)
    values = jnp.stack([logarithm, sign], axis=1)
    next_state = []
    for layer, (hidden, cell) in enumerate(state):
        gates = (
            values @ weights[f"kernel_{layer}"]
            + hidden @ weights[f"recurrent_kernel_{layer}"]
            + weights[f"bias_{layer}"]
        )
        input_gate, forget_gate, candidate, output_gate = jnp.split(gates, 4, axis=1)
        cell = jax.nn.sigmoid(forget_gate) * cell
        cell += jax.nn.sigmoid(input_gate) * jnp.tanh(candidate)
        values = jax.nn.sigmoid(output_gate) * jnp.tanh(cell)
        next_state.append((values, cell))
    output = values @ weights["output_kernel"] + weights["output_bias"]
    return OUTPUT_SCALE * output[:, 0], next_state


def initial_state(num_coordinates: int):
    """Returns zero hidden values and cells, `[N, H]` each, for each layer."""
    return [(jnp.zeros([num_coordinates, units]),) * 2 for units in UNITS]


def loss(network: Network, parameters, inputs, labels):
    """Returns the mean cross-entropy over a batch."""
    if isinstance(network, MLP):
        logits = _mlp(parameters, inputs)
    else:
        logits = _conv_net(network, parameters, inputs)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, jnp.newaxis], axis=1)
    return -jnp.mean(chosen)


def _mlp(parameters, values):
    *hidden, kernel, bias = parameters
    for hidden_kernel, hidden_bias in zip(hidden[::2], hidden[1::2], strict=True):
        values = jax.nn.sigmoid(values @ hidden_kernel + hidden_bias)
    return values @ kernel + bias


def _conv_net(network: ConvNet, parameters, values):
    *blocks, dense, scale, offset, kernel, bias = parameters
    for block in range(network.num_blocks):
        convolution, block_scale, block_offset = blocks[3 * block : 3 * block + 3]
        values = lax.conv_general_dilated(
            values, convolution, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        values = jax.nn.relu(_normalize(values, block_scale, block_offset, network.epsilon))
        window = (1, 2, 2, 1)
        values = lax.reduce_window(values, -jnp.inf, lax.max, window, window, "VALID")
    values = values.reshape(-1, network.num_features) @ dense
    values = jax.nn.relu(_normalize(values, scale, offset, network.epsilon))
    return values @ kernel + bias


def _normalize(values, scale, offset, epsilon: float):
    axes = tuple(range(values.ndim - 1))
    mean, variance = jnp.mean(values, axes), jnp.var(values, axes)
    return (values - mean) * lax.rsqrt(variance + epsilon) * scale + offset


def adam(weights, gradients, moments, step):
    """Returns the weights and moments after a step of Adam (Kingma and Ba 2015, arXiv 1412.6980).

    Args:
        weights: any tree of arrays.
        gradients: a tree of the same structure.
        moments: running means of gradients and of their squares, each of the same structure.
        step: the number of the step, from 1.
    """
    means = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, moments[0], gradients)
    squares = jax.tree.map(lambda old, new: 0.999 * old + 0.001 * new**2, moments[1], gradients)
    rate = META_LEARNING_RATE * jnp.sqrt(1 - 0.999**step) / (1 - 0.9**step)
    weights = jax.tree.map(
        lambda weight, mean, square: weight - rate * mean / (jnp.sqrt(square) + 1e-7),
        weights,
        means,
        squares,
    )
    return weights, (means, squares)


def meta_step(workload: MetaStep) -> Callable[[], MetaStepResult]:
    """Returns a function that does one meta-step."""
    first, unravel = ravel_pytree(workload.parameters)
    inputs, labels = jnp.asarray(workload.inputs), jnp.asarray(workload.labels)
    # Within a loop, XLA's convolutions on the CPU are many times as slow.
    is_unrolled = isinstance(workload.network, ConvNet)

    def loss_and_gradient(parameters, batch):
        def value(vector):
            return loss(workload.network, unravel(vector), *batch)

        # The gradient is a constant here, and not stopped afterwards, so that XLA finds the common
        # forward pass.
        return value(parameters), jax.grad(value)(lax.stop_gradient(parameters))

    def unroll(weights, parameters, gradient, batches):
        def body(carry, batch):
            parameters, gradient, state = carry
            delta, state = rule(weights, gradient, state)
            parameters += delta
            loss, gradient = loss_and_gradient(parameters, batch)
            return (parameters, gradient, state), loss

        state = initial_state(workload.num_coordinates)
        (parameters, gradient, _), losses = lax.scan(
            body, (parameters, gradient, state), batches, unroll=is_unrolled
        )
        return jnp.sum(losses), (losses, parameters, gradient)

    @jax.jit
    def step(weights, moments, number, parameters, gradient, batches):
        differentiate = jax.value_and_grad(unroll, has_aux=True)
        (_, results), meta_gradient = differentiate(weights, parameters, gradient, batches)
        weights, moments = adam(weights, meta_gradient, moments, number)
        return weights, moments, meta_gradient, results

    _, first_gradient = jax.jit(loss_and_gradient)(first, (inputs[0], labels[0]))
    batches = (inputs[1:], labels[1:])
    weights = jax.tree.map(jnp.asarray, rule_weights())
    moments = (jax.tree.map(jnp.zeros_like, weights),) * 2
    number = 0

    def run() -> MetaStepResult:
        nonlocal weights, moments, number
        number += 1
        weights, moments, gradients, results = jax.block_until_ready(
            step(weights, moments, number, first, first_gradient, batches)
        )
        named = {name: np.asarray(gradient) for name, gradient in gradients.items()}
        return MetaStepResult(np.asarray(results[0]), named)

    return run


def inner_step(workload: InnerStep) -> Callable[[], np.ndarray]:
    """Returns a function that does one inner step."""
    weights = jax.tree.map(jnp.asarray, rule_weights())
    gradient = jnp.asarray(workload.gradient)
    state = jax.tree.map(jnp.copy, initial_state(workload.num_coordinates))
    step = jax.jit(rule, donate_argnames="state")

    def run() -> np.ndarray:
        nonlocal state
        delta, state = jax.block_until_ready(step(weights, gradient, state))
        return np.asarray(delta)

    return run
