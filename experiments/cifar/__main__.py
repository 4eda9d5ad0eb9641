"""Does a rule trained on a convolutional network beat tuned ones, also on classes not seen?

Andrychowicz et al. 2016, section 3.3 and figure 7, arXiv 1606.04474; and a residual network, He et
al. 2016, arXiv 1512.03385.
"""

import functools

import numpy as np
import tensorflow as tf
from absl import flags

from experiments.cifar.variants import HELD_OUT, VARIANTS, Variant, of_classes, published_curves
from experiments.harness import common, pipeline
from experiments.harness.images import classification, load_dataset
from l2l_tf.data import Dataset, Examples
from l2l_tf.evaluation import Evaluation
from l2l_tf.problems import ClassificationProblem, accuracy
from l2l_tf.reporting.figures import ReferenceCurve
from l2l_tf.rules import FlatLayout

flags.DEFINE_enum("variant", "cifar10", sorted(VARIANTS), "Classes, network and horizon.")
flags.DEFINE_bool(
    "held_out_labels",
    False,
    "Train the rule on the classes that neither CIFAR-5 nor CIFAR-2 has, like the paper's "
    "LSTM-sub. Comparisons use the classes of --variant.",
)
flags.DEFINE_float("initial_stddev", 0.01, "Standard deviation of initial parameters.", 0)

FLAGS = flags.FLAGS
FLAGS.set_default("dataset", "cifar10")
# The paper has one LSTM for the kernels of convolutions and one for everything else.
FLAGS.set_default("parts", ["conv"])


def main(strategy: tf.distribute.Strategy) -> None:
    """Runs the experiment that the flags describe."""
    variant = VARIANTS[FLAGS.variant]
    FLAGS.set_default("num_steps", variant.num_steps)
    _check_held_out(variant)
    references = _references(variant)
    dataset = load_dataset()
    problems = _problems(dataset, variant)
    title = variant.heading if FLAGS.dataset == "cifar10" else problems.validation.name
    pipeline.train_and_evaluate("cifar", problems, strategy, title, references)


def _problems(dataset: Dataset, variant: Variant) -> pipeline.Problems:
    own = of_classes(dataset, variant.classes)
    train, tuning, test = _parts(own, variant)
    rule_train, rule_validation = train, tuning
    if FLAGS.held_out_labels:
        rule_train, rule_validation, _ = _parts(of_classes(dataset, HELD_OUT), variant)
    return pipeline.Problems(
        rule_train,
        rule_validation,
        # The paper does not say which images its curves were measured on.
        {"test images": test, "training half": train},
        tuning,
        # On the images that minibatches are drawn from, this would be no test accuracy.
        {"training half": functools.partial(_test_accuracy, train, own.test)},
    )


def _parts(dataset: Dataset, variant: Variant) -> list[ClassificationProblem]:
    model = variant.build(dataset.image_shape, dataset.num_classes)
    parts = (dataset.train, dataset.validation, dataset.test)
    return [classification(model, dataset, part, FLAGS.initial_stddev) for part in parts]


def _test_accuracy(
    problem: ClassificationProblem,
    test: Examples,
    rule_name: str,
    seeds: tf.Tensor,
    evaluation: Evaluation,
) -> dict[str, float]:
    """Returns the accuracy on test images after the last step, averaged over tasks."""
    del rule_name  # The same for all rules.
    layout = FlatLayout(problem.parameter_shapes)
    accuracies = [
        accuracy(problem, layout.unflatten(tf.constant(vector)), seed, FLAGS.num_steps + 1, *test)
        for seed, vector in zip(seeds, evaluation.parameters, strict=True)
    ]
    return {"test_accuracy": float(np.mean(accuracies))}


def _references(variant: Variant) -> list[ReferenceCurve]:
    if FLAGS.reference_curves is None:
        return []
    if variant.figure is None or FLAGS.dataset != "cifar10" or FLAGS.downsampling != 1:
        raise ValueError(
            "--reference_curves must go with CIFAR-10 and a network that the paper's figure 7 "
            f"shows. Received: --reference_curves={FLAGS.reference_curves} with "
            f"--variant={FLAGS.variant}, --dataset={FLAGS.dataset}, "
            f"--downsampling={FLAGS.downsampling}. Leave out the one or the other."
        )
    return published_curves(variant)


def _check_held_out(variant: Variant) -> None:
    if FLAGS.held_out_labels and not variant.leaves_classes_out:
        raise ValueError(
            "--held_out_labels must go with a variant that leaves classes out. Received: "
            f"--variant={FLAGS.variant}, which has all. Choose cifar5 or cifar2, with _shifts or "
            "without."
        )


if __name__ == "__main__":
    common.run(main)
