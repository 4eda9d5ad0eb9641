"""PyTorch, eager: `LSTMCell`s, a Python loop and one backward pass."""

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

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


class LSTMRule(torch.nn.Module):
    """The rule, made of PyTorch's own cells, whose gates have the same order as Keras's."""

    def __init__(self) -> None:
        super().__init__()
        num_inputs = (2, *UNITS)
        self.cells = torch.nn.ModuleList(
            torch.nn.LSTMCell(*sizes) for sizes in zip(num_inputs, UNITS, strict=False)
        )
        self.output = torch.nn.Linear(UNITS[-1], 1)
        # By the names of the workload. Kernels are transposed here.
        self.named: dict[str, torch.nn.Parameter] = {}
        for layer, cell in enumerate(self.cells):
            self.named[f"kernel_{layer}"] = cell.weight_ih
            self.named[f"recurrent_kernel_{layer}"] = cell.weight_hh
            self.named[f"bias_{layer}"] = cell.bias_ih
            # A cell has two biases, which are added; one of them stays zero.
            cell.bias_hh.requires_grad_(False).zero_()
        self.named |= {"output_kernel": self.output.weight, "output_bias": self.output.bias}
        with torch.no_grad():
            for name, value in rule_weights().items():
                self.named[name].copy_(torch.from_numpy(value.T))

    def forward(self, gradient, state):
        magnitude = gradient.abs()
        is_large = magnitude >= np.exp(-P)
        logarithm = torch.where(is_large, torch.where(is_large, magnitude, 1.0).log() / P, -1.0)
        sign = torch.where(is_large, gradient.sign(), np.exp(P) * gradient)
        values = torch.stack([logarithm, sign], dim=1)
        next_state = []
        for cell, cell_state in zip(self.cells, state, strict=True):
            values, memory = cell(values, cell_state)
            next_state.append((values, memory))
        return OUTPUT_SCALE * self.output(values).squeeze(1), next_state


def initial_state(num_coordinates: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Returns zero hidden values and cells, `[N, H]` each, for each layer."""
    return [(torch.zeros(num_coordinates, units),) * 2 for units in UNITS]


def loss(
    network: Network, parameters: list[torch.Tensor], inputs: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Returns the mean cross-entropy over a batch."""
    if isinstance(network, MLP):
        logits = _mlp(parameters, inputs)
    else:
        logits = _conv_net(network, parameters, inputs)
    return functional.cross_entropy(logits, labels)


def _mlp(parameters: list[torch.Tensor], values: torch.Tensor) -> torch.Tensor:
    *hidden, kernel, bias = parameters
    for hidden_kernel, hidden_bias in zip(hidden[::2], hidden[1::2], strict=True):
        values = torch.sigmoid(torch.addmm(hidden_bias, values, hidden_kernel))
    return torch.addmm(bias, values, kernel)


def _conv_net(
    network: ConvNet, parameters: list[torch.Tensor], values: torch.Tensor
) -> torch.Tensor:
    *blocks, dense, scale, offset, kernel, bias = parameters
    values = values.permute(0, 3, 1, 2)
    for block in range(network.num_blocks):
        convolution, block_scale, block_offset = blocks[3 * block : 3 * block + 3]
        values = functional.conv2d(values, convolution.permute(3, 2, 0, 1), padding="same")
        values = _normalize(values, block_scale, block_offset, network.epsilon)
        values = functional.max_pool2d(functional.relu(values), 2)
    values = values.permute(0, 2, 3, 1).flatten(1) @ dense
    values = functional.relu(_normalize(values, scale, offset, network.epsilon))
    return torch.addmm(bias, values, kernel)


def _normalize(
    values: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor, epsilon: float
) -> torch.Tensor:
    return functional.batch_norm(
        values, None, None, weight=scale, bias=offset, training=True, eps=epsilon
    )


# Compile for the given shapes, as the other frameworks do.
_compile = functools.partial(torch.compile, dynamic=False)


def meta_step(workload: MetaStep, compiled: bool = False) -> Callable[[], MetaStepResult]:
    """Returns a function that does one meta-step.

    Args:
        workload: what to run.
        compiled: whether the rule and the loss are compiled with `torch.compile`.
    """
    rule = LSTMRule()
    call_rule, compute_loss = (_compile(rule), _compile(loss)) if compiled else (rule, loss)
    optimizer = torch.optim.Adam(rule.named.values(), META_LEARNING_RATE, eps=1e-7)
    shapes = [parameter.shape for parameter in workload.parameters]
    sizes = [parameter.size for parameter in workload.parameters]
    inputs = torch.from_numpy(workload.inputs)
    labels = torch.from_numpy(workload.labels).long()

    def loss_and_gradient(parameters, batch):
        parts = parameters.split(sizes)
        tensors = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
        value = compute_loss(workload.network, tensors, inputs[batch], labels[batch])
        return value, torch.autograd.grad(value, parameters, retain_graph=True)[0]

    first = torch.from_numpy(np.concatenate([one.ravel() for one in workload.parameters]))
    _, first_gradient = loss_and_gradient(first.clone().requires_grad_(), 0)

    def run() -> MetaStepResult:
        optimizer.zero_grad()
        parameters, gradient = first, first_gradient
        state = initial_state(workload.num_coordinates)
        losses = []
        for index in range(workload.num_steps):
            delta, state = call_rule(gradient, state)
            parameters = parameters + delta
            value, gradient = loss_and_gradient(parameters, index + 1)
            losses.append(value)
        all_losses = torch.stack(losses)
        all_losses.sum().backward()
        optimizer.step()
        gradients = {
            name: weight.grad.numpy().copy().T
            for name, weight in rule.named.items()
            if weight.grad is not None
        }
        return MetaStepResult(all_losses.detach().numpy(), gradients)

    return run


def inner_step(workload: InnerStep, compiled: bool = False) -> Callable[[], np.ndarray]:
    """Returns a function that does one inner step.

    Args:
        workload: what to run.
        compiled: whether the rule is compiled with `torch.compile`.
    """
    rule = LSTMRule()
    call_rule = _compile(rule) if compiled else rule
    gradient = torch.from_numpy(workload.gradient)
    state = initial_state(workload.num_coordinates)

    def run() -> np.ndarray:
        nonlocal state
        with torch.no_grad():
            delta, state = call_rule(gradient, state)
        return delta.numpy()

    return run
