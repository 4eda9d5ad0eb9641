"""Memory of a meta-step on the pixels of a picture, compared with its parts.

    python -m benchmarks.style_memory

A meta-step through VGG19 must not keep the network's maps of each step. It may take as much memory
as two parts together: one forward and backward pass of the network, and a meta-step of the same
rule on as many coordinates of a loss that costs nothing. The bar is a ratio of at most 1.3 to their
sum.

Each number is the peak of resident memory of a process of its own, on Linux, beyond what is
resident before its first step, when TensorFlow, the network and its weights are in place. Weights
are random, which does not change the memory. `--chunk_size=4096` makes the rule take so little that
kept maps would show.
"""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from benchmarks.timing import forget_peak, peak_bytes, time_steps
from l2l_tf.data.photos import bundled_photos
from l2l_tf.evaluation import bind, start
from l2l_tf.problems import Problem, StyleTransferProblem, feature_model, task_seeds
from l2l_tf.problems.feature_networks import FEATURE_NETWORKS
from l2l_tf.rules import CoordinatewiseLSTM
from l2l_tf.training import meta_gradient

LARGEST_RATIO = 1.3
PARTS = ("pass", "rule", "meta_step")

_NETWORK = flags.DEFINE_enum(
    "network", "vgg19", sorted(FEATURE_NETWORKS), "Network whose maps count."
)
_SIDE = flags.DEFINE_integer("image_size", 64, "Pixels of each side of the picture.", 32, 213)
_NUM_STEPS = flags.DEFINE_integer("unroll_length", 32, "Steps of the unroll.", 1)
_UNITS = flags.DEFINE_list("units", ["20", "20"], "Units of each LSTM layer.")
_CHUNK_SIZE = flags.DEFINE_integer(
    "chunk_size", None, "Number of coordinates that the rule takes at once.", 0
)
_NUM_REPEATS = flags.DEFINE_integer("repeats", 3, "Number of repetitions of each measurement.", 1)
_MEASURE = flags.DEFINE_enum("measure", None, PARTS, "In a worker: the part to measure.")


class Bowl(Problem):
    """The pixels of a style problem with a loss that costs nothing: their mean square."""

    name = "bowl"
    is_stochastic = False

    def __init__(self, problem: StyleTransferProblem):
        self.problem = problem

    def initial_parameters(self, seed: tf.Tensor) -> list[tf.Tensor]:
        return self.problem.initial_parameters(seed)

    def batch(self, seed: tf.Tensor, step: tf.Tensor) -> tuple[()]:
        return ()

    def loss(self, parameters: list[tf.Tensor], batch: tuple[()]) -> tf.Tensor:
        return tf.reduce_mean(tf.square(parameters[0]), axis=[1, 2, 3])

    def get_config(self) -> dict[str, Any]:
        return {"problem": self.problem.get_config()}


def main(_: Sequence[str]) -> None:
    """Prints bytes and seconds of each part, and the ratio; in a worker, measures one part."""
    if _MEASURE.value is not None:
        print(json.dumps(_measure(_MEASURE.value)))
        return
    measured = {part: _in_worker(part) for part in PARTS}
    for part, one in measured.items():
        print(f"{part}: {one['bytes'] / 1e6:.0f} MB, {one['seconds']:.3g} s")
    kept = _NUM_STEPS.value * measured["pass"]["bytes_of_maps"]
    print(f"maps of all steps, if they were kept: {kept / 1e6:.0f} MB")
    shares = measured["pass"]["bytes"] + measured["rule"]["bytes"]
    ratio = measured["meta_step"]["bytes"] / shares
    verdict = "met" if ratio <= LARGEST_RATIO else "not met"
    print(f"meta_step / (pass + rule): {ratio:.2f}; bar: at most {LARGEST_RATIO}, {verdict}")


def _in_worker(part: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.style_memory", *sys.argv[1:], f"--measure={part}"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def _measure(part: str) -> dict[str, float]:
    problem = _problem()
    before = forget_peak()
    step = _pass(problem) if part == "pass" else _meta_step(problem, part)
    times = time_steps(step, seconds=0, min_steps=_NUM_REPEATS.value, warm_up=True)
    return {
        "bytes": peak_bytes() - before,
        "seconds": float(np.median(times)),
        "bytes_of_maps": _bytes_of_maps(problem.features),
    }


def _bytes_of_maps(model: keras.Model) -> int:
    """Returns the bytes of the outputs of a network's layers for one picture."""
    network = model.get_layer(index=-1)
    shape = (1, _SIDE.value, _SIDE.value, 3)
    maps = keras.Model(network.inputs, [layer.output for layer in network.layers[1:]])
    specs = maps.compute_output_spec([keras.KerasTensor(shape)])
    return sum(4 * math.prod(one.shape) for one in tf.nest.flatten(specs))


def _problem() -> StyleTransferProblem:
    tiles, style = bundled_photos()
    chosen = FEATURE_NETWORKS[_NETWORK.value]
    layers = dict.fromkeys([*chosen.content_layers, *chosen.style_layers])
    return StyleTransferProblem(
        feature_model(_NETWORK.value, list(layers), "random"),
        tiles,
        style[: _SIDE.value, : _SIDE.value],
        (_SIDE.value, _SIDE.value),
        content_layers=dict.fromkeys(chosen.content_layers, 1.0),
        style_layers=dict.fromkeys(chosen.style_layers, 0.2),
    )


def _pass(problem: StyleTransferProblem) -> Callable[[], Any]:
    """Returns a function that does one forward and backward pass."""
    seed = task_seeds(0, "train", 0, 1)[0]

    @tf.function(autograph=False)
    def gradient(parameters: tf.Tensor, batch: Any) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            loss = problem.loss([parameters], batch)
        return tape.gradient(loss, parameters)

    (parameters,) = problem.initial_parameters(seed)
    batch = tf.function(lambda: problem.batch(seed, tf.constant(0)), autograph=False)()
    return lambda: gradient(parameters, batch).numpy()


def _meta_step(problem: StyleTransferProblem, part: str) -> Callable[[], Any]:
    """Returns a function that does the next meta-step of an endless trajectory."""
    judged: Problem = Bowl(problem) if part == "rule" else problem
    seed = task_seeds(0, "train", 0, 1)[0]
    units = [int(one) for one in _UNITS.value]
    lstm = CoordinatewiseLSTM(units, "log_and_sign", output_stddev=0.01, seed=0)
    rule = bind(lstm, judged).for_training(_NUM_STEPS.value, _CHUNK_SIZE.value)
    weights = rule.trainable_variables
    optimizer = keras.optimizers.Adam(1e-3, global_clipnorm=1.0)
    optimizer.build(weights)
    iterate = tf.function(lambda: start(rule, judged, seed), autograph=False)()

    @tf.function(autograph=False)
    def meta_step(iterate: Any) -> Any:
        result = meta_gradient(rule, judged, seed, iterate, _NUM_STEPS.value)
        optimizer.apply(result.gradients, weights)
        return result.iterate

    def run() -> None:
        nonlocal iterate
        iterate = meta_step(iterate)
        iterate.parameters.numpy()

    return run


if __name__ == "__main__":
    app.run(main)
