"""This project: stored gradients, and the rule's backward pass over them."""

from collections.abc import Callable
from typing import Any

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
from l2l_tf.evaluation import bind, start
from l2l_tf.parameter_spec import ParameterSpec
from l2l_tf.problems import Problem
from l2l_tf.rules import CoordinatewiseLSTM
from l2l_tf.training import meta_gradient


class FixedProblem(Problem):
    """A workload's parameters and batches as a problem, whose task is the same for every seed."""

    name = "fixed"

    def __init__(self, workload: MetaStep):
        self.workload = workload
        self._parameters = [tf.constant(parameter) for parameter in workload.parameters]
        self._inputs = tf.constant(workload.inputs)
        self._labels = tf.constant(workload.labels)

    def initial_parameters(self, seed: tf.Tensor) -> list[tf.Tensor]:
        return list(self._parameters)

    def batch(self, seed: tf.Tensor, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        index = step % len(self.workload.labels)
        return self._inputs[index], self._labels[index]

    def loss(self, parameters: list[tf.Tensor], batch: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        value = tensorflow_losses.loss(self.workload.network, parameters, *batch)
        return value[tf.newaxis]

    def get_config(self) -> dict[str, Any]:
        return {"workload": repr(self.workload)}


def make_rule() -> CoordinatewiseLSTM:
    """Returns the rule of every workload."""
    rule = CoordinatewiseLSTM(UNITS, "log_and_sign", P, OUTPUT_SCALE)
    values = rule_weights()
    for weight in rule.trainable_variables:
        weight.assign(values[weight.name])
    return rule


def meta_step(workload: MetaStep) -> Callable[[], MetaStepResult]:
    """Returns a function that does one meta-step."""
    problem = FixedProblem(workload)
    rule = bind(make_rule(), problem).for_training(workload.num_steps)
    weights = rule.trainable_variables
    optimizer = keras.optimizers.Adam(META_LEARNING_RATE)
    optimizer.build(weights)
    seed = tf.zeros([2], tf.int32)
    first = tf.function(lambda: start(rule, problem, seed))()

    @tf.function
    def step(iterate):
        result = meta_gradient(rule, problem, seed, iterate, workload.num_steps)
        optimizer.apply(result.gradients, weights)
        return result.losses[:, 0], result.gradients, result.iterate

    def run() -> MetaStepResult:
        losses, gradients, _ = step(first)
        named = zip(weights, gradients, strict=True)
        return MetaStepResult(
            losses.numpy(), {weight.name: gradient.numpy() for weight, gradient in named}
        )

    return run


def inner_step(workload: InnerStep) -> Callable[[], np.ndarray]:
    """Returns a function that does one inner step."""
    rule = make_rule().bind([ParameterSpec("x", (workload.num_coordinates,))]).for_steps()
    step = tf.function(lambda gradient, state: rule(gradient, state))
    gradient = tf.constant(workload.gradient)
    state = rule.initial_state()

    def run() -> np.ndarray:
        nonlocal state
        delta, state = step(gradient, state)
        return delta.numpy()

    return run
