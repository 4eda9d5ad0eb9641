"""What `benchmarks.general_rule` times: the rule beside Keras's Adam and Muon."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from benchmarks.networks import MLP, ConvNet, Network
from benchmarks.optimizer_steps import apply_step, gradients_for, training_step
from experiments.general.tasks import TASKS
from l2l_tf import LearnedOptimizer
from l2l_tf.rules import GeneralRule

# Networks whose optimizers' `apply` is timed alone.
APPLIED: dict[str, Network] = {
    "mlp_10k": MLP((100, 90, 10)),
    "mlp_100k": MLP((784, 120, 64, 10)),
    "mlp_1m": MLP((784, 1000, 200, 10)),
    "mlp_10m": MLP((784, 5000, 1200, 10)),
    "conv_10k": ConvNet(num_channels=10, num_units=26),
    "conv_100k": ConvNet(num_channels=36, num_units=56),
    "conv_1m": ConvNet(num_channels=120, num_units=140),
    "conv_10m": ConvNet(num_channels=400, num_units=300),
}
# Tasks of `experiments.general` whose whole steps are timed.
TRAINED = ("cifar_conv", "char_transformer", "cifar_resnet20")
OPTIMIZERS = ("adam", "muon", "general")
# The limits that the project sets itself: networks, what the rule is compared with, the ratio.
BARS = (
    (("mlp_1m", "conv_1m"), "adam", 4.0),
    (("mlp_1m", "conv_1m"), "muon", 1.2),
    (("cifar_conv", "cifar_resnet20"), "adam", 1.15),
)
# The rule's horizon, which does not change what a step costs.
_NUM_STEPS = 10**6


def make(name: str) -> keras.optimizers.Optimizer:
    """Returns an optimizer by its name among `OPTIMIZERS`."""
    if name == "general":
        return LearnedOptimizer(GeneralRule(seed=0), num_steps=_NUM_STEPS)
    if name == "muon":
        return keras.optimizers.Muon(1e-3, exclude_layers=["output"])
    return keras.optimizers.Adam(1e-3)


def steps_on(
    network: str, optimizers: dict[str, keras.optimizers.Optimizer], compiler: str
) -> tuple[dict[str, Callable[[], Any]], int]:
    """Returns each optimizer's step on variables of its own, and the number of parameters."""
    if network in APPLIED:
        parameters = APPLIED[network].initial_parameters(np.random.default_rng(0))
        gradients = gradients_for(parameters)
        applied = {
            name: apply_step(optimizer, parameters, gradients, compiler)
            for name, optimizer in optimizers.items()
        }
        return applied, sum(parameter.size for parameter in parameters)
    task = TASKS[network]
    models = {name: task.model(0) for name in optimizers}
    inputs, targets = _minibatch(models[OPTIMIZERS[0]], task.batch_size)
    steps = {
        name: training_step(optimizer, models[name], task.loss(), inputs, targets, compiler)
        for name, optimizer in optimizers.items()
    }
    variables = models[OPTIMIZERS[0]].trainable_variables
    return steps, sum(int(np.prod(variable.shape)) for variable in variables)


def _minibatch(model: keras.Model, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns random inputs and classes, which do not change what a step costs."""
    random = np.random.default_rng(0)
    shape, num_classes = (batch_size, *model.input_shape[1:]), model.output_shape[-1]
    is_text = model.inputs[0].dtype == "int32"
    inputs = random.integers(num_classes, size=shape) if is_text else random.random(shape)
    classes = (batch_size, *model.output_shape[1:-1])
    return inputs.astype(model.inputs[0].dtype), random.integers(num_classes, size=classes)


def bars_of(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the ratios that have limits; null for one whose measurement failed."""
    return [
        {
            "name": "general",
            "network": row["network"],
            "compiler": row["compiler"],
            "other": other,
            "ratio": None if "error" in row else row["ratios"][other]["ratio"],
            "limit": limit,
        }
        for row in rows
        for networks, other, limit in BARS
        if row["network"] in networks
    ]
