"""The classes, networks and horizons of the CIFAR experiment, by name."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import keras

from experiments.harness.references import reference_curves
from l2l_tf.data import Dataset
from l2l_tf.data.datasets import with_classes
from l2l_tf.problems import conv_net, resnet20
from l2l_tf.reporting.figures import ReferenceCurve

_ALL = tuple(range(10))
# The paper does not say which classes CIFAR-5 and CIFAR-2 have. Here, CIFAR-2 is a part of CIFAR-5,
# so that a rule that has seen no class of CIFAR-5 has seen none of CIFAR-2.
_FIVE, _TWO = _ALL[:5], _ALL[:2]
HELD_OUT = _ALL[5:]
# Our rules for those of the paper.
_IN_THE_PLACE_OF = {"lstm": "cifar_lstm", "lstm-sub": "cifar_lstm_sub"}


class Variant(NamedTuple):
    """Some of the classes of a data set, a network and a horizon.

    Attributes:
        heading: its name in figures.
        classes: the classes of the data set that are used.
        build: makes the network from an image's shape and a number of classes.
        num_steps: the horizon.
        figure: the paper's figure that shows it, if there is one.
    """

    heading: str
    classes: tuple[int, ...] = _ALL
    build: Callable[..., keras.Model] = conv_net
    num_steps: int = 1000
    figure: str | None = None

    @property
    def leaves_classes_out(self) -> bool:
        """Whether classes remain for `--held_out_labels` to train on."""
        return not set(self.classes) & set(HELD_OUT)


# As in the paper's text: batch normalisation has scales, and all parameters come from one Gaussian.
# So scales start around 0, and training starts on a plateau.
_paper_net = partial(conv_net, scale_mean=0.0)

VARIANTS = {
    "cifar10": Variant("CIFAR-10", build=_paper_net, figure="fig7_cifar10"),
    "cifar5": Variant("CIFAR-5", _FIVE, _paper_net, figure="fig7_cifar5"),
    "cifar2": Variant("CIFAR-2", _TWO, _paper_net, figure="fig7_cifar2"),
    # As in the code that the paper's authors published: batch normalisation only shifts.
    "cifar10_shifts": Variant("CIFAR-10, shifts alone"),
    "cifar5_shifts": Variant("CIFAR-5, shifts alone", _FIVE),
    "cifar2_shifts": Variant("CIFAR-2, shifts alone", _TWO),
    "resnet20": Variant("CIFAR-10, ResNet-20", build=resnet20, num_steps=500),
}


def published_curves(variant: Variant) -> list[ReferenceCurve]:
    """Returns the paper's curves of a variant from the file that `--reference_curves` names.

    There are none without that flag, or if no figure of the paper shows the variant.

    Raises:
        ValueError: there is no such file, or it lacks the figure.
    """
    if variant.figure is None:
        return []
    curves = reference_curves(variant.figure)
    return [curve._replace(ours=_IN_THE_PLACE_OF.get(curve.rule)) for curve in curves]


def of_classes(dataset: Dataset, classes: tuple[int, ...]) -> Dataset:
    """Returns the images of some classes of a data set, or the whole data set as it is."""
    return dataset if len(classes) == dataset.num_classes else with_classes(dataset, classes)
