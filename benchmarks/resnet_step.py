"""Time and memory of a training step of ResNet-20 with learned rules, beside Adam.

    python -m benchmarks.resnet_step

A step is Keras's own: a minibatch of images of CIFAR-10's size, forward and backward pass, and the
update of 272,474 parameters. Each optimizer has a process of its own, on Linux. The process reports
its peak of resident memory beyond what is resident before the optimizer is made, when TensorFlow
and the network are in place. Images and the rules' weights are random, which does not change the
cost of a step.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from benchmarks.timing import forget_peak, peak_bytes, time_steps
from l2l_tf import LearnedOptimizer
from l2l_tf.problems import resnet20
from l2l_tf.rules import CoordinatewiseLSTM, RNNprop, Route, RoutedRule


def _two_lstms() -> keras.layers.Layer:
    """Returns a rule like the paper's for convolutional networks."""
    other, kernels = (CoordinatewiseLSTM((20, 20), "log_and_sign", seed=seed) for seed in (0, 1))
    return RoutedRule(other, [Route(kernels, kind="conv")])


# The function that makes each optimizer; the others are compared with Adam.
OPTIMIZERS: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    "adam": lambda: keras.optimizers.Adam(1e-3),
    "two_lstms": lambda: LearnedOptimizer(_two_lstms()),
    "rnnprop": lambda: LearnedOptimizer(RNNprop((20, 20), seed=0)),
}

_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Number of images in a minibatch.", 2)
_NUM_STEPS = flags.DEFINE_integer("num_steps", 20, "Number of steps to time.", 1)
_MEASURE = flags.DEFINE_enum(
    "measure", None, list(OPTIMIZERS), "In a worker: the optimizer to measure."
)


def main(_: Sequence[str]) -> None:
    """Prints a line for each optimizer; in a worker, measures one."""
    if _MEASURE.value is not None:
        print(json.dumps(_measure(OPTIMIZERS[_MEASURE.value])))
        return
    measured = {name: _in_worker(name) for name in OPTIMIZERS}
    for name, one in measured.items():
        ratios = {key: one[key] / measured["adam"][key] for key in ("seconds", "bytes")}
        print(
            f"{name}: {1e3 * one['seconds']:.0f} ms ({ratios['seconds']:.2f} of Adam's), "
            f"{one['bytes'] / 1e6:.0f} MB ({ratios['bytes']:.2f})"
        )


def _in_worker(optimizer: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.resnet_step", *sys.argv[1:]]
    command.append(f"--measure={optimizer}")
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def _measure(make_optimizer: Callable[[], keras.optimizers.Optimizer]) -> dict[str, float]:
    model = resnet20()
    random = np.random.default_rng(0)
    images = tf.constant(random.random((_BATCH_SIZE.value, 32, 32, 3), np.float32))
    labels = tf.constant(random.integers(10, size=_BATCH_SIZE.value))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    before = forget_peak()
    model.compile(make_optimizer(), loss)
    model.train_on_batch(images, labels)  # The first step traces, so it takes far longer.
    times = time_steps(
        lambda: model.train_on_batch(images, labels), seconds=0, min_steps=_NUM_STEPS.value
    )
    return {"bytes": peak_bytes() - before, "seconds": float(np.median(times))}


if __name__ == "__main__":
    app.run(main)
