"""The problems on which rules are analysed, by name."""

from collections.abc import Callable
from typing import Any

import keras
from absl import flags

from experiments.general.training_problems import training_mixture
from experiments.harness import images
from experiments.mnist.variants import VARIANTS, network
from experiments.style import problems as style
from l2l_tf.data import datasets
from l2l_tf.problems import ClassificationProblem, Problem, Quadratic, conv_net

FLAGS = flags.FLAGS

# The standard deviation of initial parameters in the paper's problems.
_INITIAL_STDDEV = 0.01


def _images(
    build: Callable[[datasets.Dataset], keras.Model], initial_stddev: float | None
) -> Callable[[], Problem]:
    def make() -> Problem:
        dataset = images.load_dataset()
        name = "narrow" if initial_stddev else "keras"
        model = build(dataset)
        return ClassificationProblem(
            model,
            *dataset.train,
            batch_size=FLAGS.batch_size,
            initial_stddev=initial_stddev,
            name=f"{dataset.name}_{model.name}_{name}",
        )

    return make


def _mnist(variant: str, initial_stddev: float | None) -> Callable[[], Problem]:
    return _images(lambda dataset: network(VARIANTS[variant], dataset), initial_stddev)


def _conv_net(dataset: datasets.Dataset) -> keras.Model:
    return conv_net(dataset.image_shape, dataset.num_classes)


def _cifar() -> Problem:
    dataset = datasets.load("cifar10", FLAGS.data_dir)
    model = _conv_net(dataset)
    return images.classification(model, dataset, dataset.train, _INITIAL_STDDEV)


def _style() -> Problem:
    photos, painting = style.load_photos()
    return style.style_parts(style.load_features(), photos, painting, FLAGS.image_size).train


# Images are those of --dataset. Those ending with "keras" have Keras's default initial weights, the
# others N(0, 0.01^2).
PROBLEMS: dict[str, Callable[[], Problem]] = {
    "mnist": _mnist("base", _INITIAL_STDDEV),
    "mnist_relu": _mnist("relu", _INITIAL_STDDEV),
    "mnist_layers2": _mnist("layers2", _INITIAL_STDDEV),
    "mnist_keras": _mnist("base", None),
    "mnist_relu_keras": _mnist("relu", None),
    "conv_keras": _images(_conv_net, None),
    # On which cifar_lstm was trained: `cifar10_shifts` of the CIFAR experiment.
    "cifar": _cifar,
    "quadratic": lambda: Quadratic(num_functions=16),
    "style": _style,
    # One of those that the general rule is trained on.
    "networks": lambda: training_mixture(0, 2, ["small_digits"]).components[0],
}

# The beginnings of the names of problems on which rules are trained.
_OWN = {
    "mnist": "mnist",
    "cifar10": "cifar",
    "quadratic": "quadratic",
    "style": "style",
    "networks": "networks",
    "digits": "mnist",
}


flags.DEFINE_list(
    "problem",
    [],
    f"Problems, of {', '.join(sorted(PROBLEMS))}. For analysis, also own: each rule's own, the "
    "default there.",
)
flags.DEFINE_integer("num_coordinates", 128, "Number of coordinates to record, about.", 1)


def own_problem(card: dict[str, Any]) -> str:
    """Returns the name of the problem on which a rule was trained, or the nearest to it.

    Raises:
        ValueError: the card does not say, or names another problem.
    """
    trained_on = str(card.get("training", {}).get("problem"))
    for beginning, name in _OWN.items():
        if trained_on.startswith(beginning):
            return name
    raise ValueError(
        f"--problem must be given for a rule whose own is not among {sorted(PROBLEMS)}. "
        f"Received: --problem=None with the rule {card.get('name')!r}, which was trained on "
        f"{trained_on!r}. Name one of them."
    )
