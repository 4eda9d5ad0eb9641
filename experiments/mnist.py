"""Does a rule learned on one small network beat tuned hand-designed ones on it, and on others?

Andrychowicz et al. 2016, section 3.2 and figures 4 (centre, right) and 5, arXiv 1606.04474.
"""

from typing import NamedTuple

import keras
import tensorflow as tf
from absl import flags

from experiments import common, pipeline
from experiments.references import reference_curves
from l2l_tf.problems import datasets
from l2l_tf.problems.classification import ClassificationProblem
from l2l_tf.problems.networks import ACTIVATIONS, mlp


class Variant(NamedTuple):
    """A network and a horizon, and the paper's figures that show them."""

    units: int = 20
    num_layers: int = 1
    activation: str = "sigmoid"
    num_steps: int = 100
    figures: tuple[str, ...] = ()


VARIANTS = {
    "base": Variant(figures=("fig4_mnist",)),
    "units40": Variant(units=40, figures=("fig5_40units",)),
    "layers2": Variant(num_layers=2, figures=("fig5_2layers",)),
    "relu": Variant(activation="relu", figures=("fig5_relu",)),
    "steps200": Variant(num_steps=200, figures=("fig4_mnist", "fig4_mnist_100_200")),
}

flags.DEFINE_enum(
    "variant", "base", sorted(VARIANTS), "Network and horizon; the next three flags change it."
)
flags.DEFINE_integer("num_hidden_units", None, "Units of each hidden layer.", 1)
flags.DEFINE_integer("num_hidden_layers", None, "Hidden layers.", 1)
flags.DEFINE_enum("activation", None, ACTIVATIONS, "Activation of the hidden layers.")
flags.DEFINE_enum("dataset", "mnist", ("digits", "mnist"), "Images; digits need no download.")
flags.DEFINE_string(
    "data_dir",
    None,
    "Folder in which TensorFlow Datasets has prepared MNIST; without it, TFDS_DATA_DIR.",
)
flags.DEFINE_integer("batch_size", 128, "Images of a minibatch.", 1)
flags.DEFINE_float("initial_stddev", 0.01, "Standard deviation of initial parameters.", 0)
flags.DEFINE_enum(
    "test_part", "test", ("test", "train"), "Images that rules are compared on in the end."
)

FLAGS = flags.FLAGS


def main(strategy: tf.distribute.Strategy) -> None:
    """Runs the experiment as the flags say."""
    variant = _variant()
    FLAGS.set_default("num_steps", variant.num_steps)
    dataset = datasets.load(FLAGS.dataset, FLAGS.data_dir)
    model = mlp(
        dataset.image_shape,
        variant.units,
        variant.num_layers,
        variant.activation,
        dataset.num_classes,
    )
    problems = pipeline.Problems(
        train=_problem(model, dataset.train),
        validation=_problem(model, dataset.validation),
        test=_problem(model, getattr(dataset, FLAGS.test_part)),
    )
    title = f"{FLAGS.dataset}, {model.name}"
    references = reference_curves(*variant.figures) if variant.figures else ()
    pipeline.train_and_evaluate("mnist", problems, strategy, title, references)


def _variant() -> Variant:
    named = VARIANTS[FLAGS.variant]
    changed = named._replace(
        units=FLAGS.num_hidden_units or named.units,
        num_layers=FLAGS.num_hidden_layers or named.num_layers,
        activation=FLAGS.activation or named.activation,
    )
    is_published = FLAGS.dataset == "mnist" and changed == named
    return changed if is_published else changed._replace(figures=())


def _problem(model: keras.Model, examples: datasets.Examples) -> ClassificationProblem:
    return ClassificationProblem(
        model,
        *examples,
        batch_size=FLAGS.batch_size,
        initial_stddev=FLAGS.initial_stddev,
        name=f"{FLAGS.dataset}_{model.name}",
    )


if __name__ == "__main__":
    common.run(main)
