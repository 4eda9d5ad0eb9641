"""Where shipped rules are good, and where they are not: the cases that guards are judged by."""

from collections.abc import Callable
from typing import NamedTuple

from absl import flags

from experiments.cifar.variants import VARIANTS as CIFAR_VARIANTS
from experiments.cifar.variants import of_classes
from experiments.harness.images import classification
from experiments.mnist.variants import VARIANTS, Variant, network
from l2l_tf.data import datasets
from l2l_tf.problems import Problem, Quadratic

FLAGS = flags.FLAGS


class Case(NamedTuple):
    """A rule on a problem.

    Attributes:
        rule: the name of a shipped rule.
        problems: returns the problem to tune the fallback on, and the one to report on.
        num_steps: the horizon.
        fallback: the name of the fallback (`l2l_tf.rules.BASELINES`).
        first_rate: where the search for its rate begins.
    """

    rule: str
    problems: Callable[[], tuple[Problem, Problem]]
    num_steps: int
    fallback: str
    first_rate: float


def _images(
    dataset: str, variant: Variant, initial_stddev: float | None
) -> Callable[[], tuple[Problem, Problem]]:
    """Returns a function that makes the problems of a multilayer perceptron."""

    def make() -> tuple[Problem, Problem]:
        images = datasets.load(dataset, FLAGS.data_dir if dataset == "mnist" else None)
        model = network(variant, images)
        parts = (images.validation, images.test)
        validation, test = (classification(model, images, one, initial_stddev) for one in parts)
        return validation, test

    return make


def _cifar2() -> tuple[Problem, Problem]:
    variant = CIFAR_VARIANTS["cifar2"]
    images = of_classes(datasets.load("cifar10", FLAGS.data_dir), variant.classes)
    model = variant.build(images.image_shape, images.num_classes)
    # On the training half, which the network learns by heart.
    parts = (images.validation, images.train)
    validation, train = (classification(model, images, one, 0.01) for one in parts)
    return validation, train


def _quadratics() -> tuple[Problem, Problem]:
    return Quadratic(), Quadratic()


_BASE, _RELU = VARIANTS["base"], VARIANTS["relu"]

# Where the rule is good.
COST = {
    "mnist_lstm_base": Case("mnist_lstm", _images("mnist", _BASE, 0.01), 100, "adam", 0.03),
    "mnist_rnnprop_base": Case("mnist_rnnprop", _images("mnist", _BASE, 0.01), 100, "adam", 0.03),
    "mnist_rnnprop_relu": Case("mnist_rnnprop", _images("mnist", _RELU, 0.01), 100, "adam", 0.018),
    "quadratic_lstm": Case("quadratic_lstm", _quadratics, 100, "adam", 0.18),
}
# Where it is not, or may not be: other units, Keras's initial weights, thousands of steps, images
# that are learned by heart.
RESCUE = {
    "mnist_lstm_relu": Case("mnist_lstm", _images("mnist", _RELU, 0.01), 100, "adam", 0.018),
    "mnist_lstm_keras": Case("mnist_lstm", _images("mnist", _BASE, None), 100, "adam", 0.03),
    "mnist_rnnprop_steps2000": Case(
        "mnist_rnnprop", _images("mnist", _BASE, 0.01), 2000, "adam", 0.01
    ),
    "mnist_rnnprop_digits": Case(
        "mnist_rnnprop", _images("digits", _BASE, None), 10_000, "adam", 0.01
    ),
    "cifar_lstm_cifar2": Case("cifar_lstm", _cifar2, 1000, "adam", 0.00056),
}
KINDS = {"cost": COST, "rescue": RESCUE}
CASES = {**COST, **RESCUE}
