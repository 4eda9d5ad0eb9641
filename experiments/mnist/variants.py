"""The networks and horizons of the MNIST experiment, by name."""

from typing import NamedTuple

import keras

from l2l_tf.data import Dataset
from l2l_tf.problems import mlp


class Variant(NamedTuple):
    """A network and a horizon.

    Attributes:
        heading: its name in tables and figures.
        units: the number of units in each hidden layer.
        num_layers: the number of hidden layers.
        activation: the activation of the hidden layers.
        num_steps: the horizon.
        figures: the paper's figures that show it, in the order of their steps.
    """

    heading: str
    units: int = 20
    num_layers: int = 1
    activation: str = "sigmoid"
    num_steps: int = 100
    figures: tuple[str, ...] = ()


VARIANTS = {
    "base": Variant("base", figures=("fig4_mnist",)),
    "steps200": Variant(
        "base, 200 steps", num_steps=200, figures=("fig4_mnist", "fig4_mnist_100_200")
    ),
    "units40": Variant("40 units", units=40, figures=("fig5_40units",)),
    "layers2": Variant("2 layers", num_layers=2, figures=("fig5_2layers",)),
    "relu": Variant("ReLU", activation="relu", figures=("fig5_relu",)),
    "steps2000": Variant(
        "base, 2000 steps", num_steps=2000, figures=("fig4_mnist", "fig4_mnist_100_200")
    ),
    "relu_steps2000": Variant(
        "ReLU, 2000 steps", activation="relu", num_steps=2000, figures=("fig5_relu",)
    ),
}


def network(variant: Variant, dataset: Dataset) -> keras.Model:
    """Returns a variant's network for the images and classes of a data set."""
    return mlp(
        dataset.image_shape,
        variant.units,
        variant.num_layers,
        variant.activation,
        dataset.num_classes,
    )
