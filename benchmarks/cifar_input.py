"""Milliseconds of a meta-step on CIFAR-10, and on made-up images that are already in memory.

The benchmark uses the paper's network and its two LSTMs, minibatches of 128 and unrolls of 20. The
difference is what it costs to draw minibatches from the images. The bar is a ratio of at most 1.2.

    TFDS_DATA_DIR=FOLDER python -m benchmarks.cifar_input
"""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from benchmarks.timing import time_steps
from l2l_tf.data import datasets
from l2l_tf.evaluation import bind, start
from l2l_tf.problems import ClassificationProblem, Problem, conv_net, task_seeds
from l2l_tf.rules import CoordinatewiseLSTM, Route, RoutedRule
from l2l_tf.training import meta_gradient

LARGEST_RATIO = 1.2

_NUM_STEPS = 20
_NUM_ROUNDS = 40


class MadeUp(ClassificationProblem):
    """A network on the same minibatch at each step: noise, in the dtype of its computations."""

    def batch(self, seed: tf.Tensor, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        random = np.random.default_rng(0)
        shape = (self.batch_size, *self.model.input_shape[1:])
        images = tf.constant(255 * random.random(shape, np.float32))
        num_classes = self.model.output_shape[1]
        return images, tf.constant(random.integers(num_classes, size=shape[0]), tf.int32)


def compare(dataset: datasets.Dataset, num_rounds: int) -> dict[str, np.ndarray]:
    """Returns the seconds of each meta-step on images of a data set and on made-up ones.

    The two take turns, so that whatever else the machine does affects both.

    Args:
        dataset: the source of the images.
        num_rounds: the number of meta-steps of each that are timed.
    """
    model = conv_net(dataset.image_shape, dataset.num_classes)
    steps = {
        "real": _meta_step(ClassificationProblem(model, *dataset.train)),
        "synthetic": _meta_step(MadeUp(model, *dataset.train)),
    }
    for step in steps.values():
        step()  # The first meta-step traces, so it takes far longer.
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(num_rounds):
        for name, step in steps.items():
            seconds[name] += time_steps(step, seconds=0)
    return {name: np.array(times) for name, times in seconds.items()}


def _meta_step(problem: Problem) -> Callable[[], None]:
    """Returns a function that does the next meta-step of an endless trajectory."""

    def lstm(seed: int) -> CoordinatewiseLSTM:
        return CoordinatewiseLSTM((20, 20), "log_and_sign", output_scale=0.1, seed=seed)

    routed = RoutedRule(lstm(0), [Route(lstm(1), kind="conv")])
    rule = bind(routed, problem).for_training(_NUM_STEPS)
    weights = rule.trainable_variables
    optimizer = keras.optimizers.Adam(1e-3, global_clipnorm=1.0)
    optimizer.build(weights)
    seed = task_seeds(0, "train", 0, 1)[0]

    @tf.function(autograph=False)
    def step(iterate):
        result = meta_gradient(rule, problem, seed, iterate, _NUM_STEPS)
        optimizer.apply(result.gradients, weights)
        return result.iterate

    iterate = tf.function(lambda: start(rule, problem, seed), autograph=False)()

    def run() -> None:
        nonlocal iterate
        iterate = step(iterate)
        iterate.parameters.numpy()

    return run


def main() -> None:
    """Prints medians, quartiles and the ratio of the medians."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    seconds = compare(datasets.load("cifar10"), _NUM_ROUNDS)
    for name, times in seconds.items():
        low, median, high = 1e3 * np.quantile(times, [0.25, 0.5, 0.75])
        print(f"{name}: {median:.0f} ms (quartiles {low:.0f} to {high:.0f})")
    ratio = np.median(seconds["real"]) / np.median(seconds["synthetic"])
    verdict = "met" if ratio <= LARGEST_RATIO else "not met"
    print(f"real / synthetic: {ratio:.3f}; bar: at most {LARGEST_RATIO}, {verdict}")


if __name__ == "__main__":
    main()
