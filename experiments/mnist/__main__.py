"""Does a rule trained on one small network beat tuned baselines on it, and on other networks?

Andrychowicz et al. 2016, section 3.2 and figures 4 (centre, right), 5 and 6, arXiv 1606.04474.
"""

from typing import Any

import tensorflow as tf
from absl import flags

from experiments.harness import common, pipeline
from experiments.harness.images import classification, load_dataset
from experiments.harness.references import reference_curves
from experiments.mnist.figure6 import figure6
from experiments.mnist.variants import VARIANTS, Variant, network
from l2l_tf.data import Dataset
from l2l_tf.problems import MixtureProblem
from l2l_tf.problems.networks import ACTIVATIONS
from l2l_tf.reporting.figures import ReferenceCurve

flags.DEFINE_enum(
    "variant",
    "base",
    sorted(VARIANTS),
    "Network and horizon. The next three flags override parts of it.",
)
flags.DEFINE_integer("num_hidden_units", None, "Number of units in each hidden layer.", 1)
flags.DEFINE_integer("num_hidden_layers", None, "Number of hidden layers.", 1)
flags.DEFINE_enum("activation", None, ACTIVATIONS, "Activation of the hidden layers.")
flags.DEFINE_list(
    "also_variants",
    [],
    "With --mode=train: further networks, each as often trained on and validated on as the first.",
)
flags.DEFINE_float("initial_stddev", 0.01, "Standard deviation of initial parameters.", 0)
flags.DEFINE_bool(
    "figure6",
    False,
    "Evaluate rules on networks of 5 to 50 units in one and in two layers, instead of --variant.",
)

FLAGS = flags.FLAGS


def main(strategy: tf.distribute.Strategy) -> None:
    """Runs the experiment that the flags describe."""
    if FLAGS.figure6:
        _check_figure6()
        dataset = load_dataset()
        figure6(lambda *layers: _problems(dataset, Variant("figure 6", *layers)))
        return
    variant = _variant()
    FLAGS.set_default("num_steps", variant.num_steps)
    references = _references(variant)
    _check_also(variant)
    dataset = load_dataset()
    problems = _problems(dataset, variant)
    title = problems.train.name.replace("_", ", ", 1)
    if FLAGS.also_variants:
        problems = _mixed(problems, dataset)
    pipeline.train_and_evaluate("mnist", problems, strategy, title, references)


def _variant() -> Variant:
    named = VARIANTS[FLAGS.variant]
    return named._replace(
        units=FLAGS.num_hidden_units or named.units,
        num_layers=FLAGS.num_hidden_layers or named.num_layers,
        activation=FLAGS.activation or named.activation,
    )


def _check_also(variant: Variant) -> None:
    also = FLAGS.also_variants
    fitting = [
        name
        for name, one in VARIANTS.items()
        if one.num_steps == variant.num_steps and name != FLAGS.variant
    ]
    if len(set(also)) < len(also) or not set(also) <= set(fitting):
        raise ValueError(
            f"--also_variants must be other networks of the same horizon, among {fitting}. "
            f"Received: --also_variants={','.join(also)} with --variant={FLAGS.variant}. Name "
            "each once."
        )
    changing = [
        name for name in ("random_scale_range", "num_convex_dimensions") if FLAGS[name].value
    ]
    if also and (FLAGS.mode != "train" or changing):
        raise ValueError(
            "--also_variants must go with --mode=train, and with losses as they are. "
            f"Received: --also_variants={','.join(also)} with --mode={FLAGS.mode}"
            f"{''.join(f' and --{name}={FLAGS[name].value}' for name in changing)}. Leave one or "
            "the other out."
        )


def _mixed(problems: pipeline.Problems, dataset: Dataset) -> pipeline.Problems:
    others = [_problems(dataset, VARIANTS[name]) for name in FLAGS.also_variants]
    name = "_and_".join([problems.train.name, *FLAGS.also_variants])
    # Training alone takes mixtures, and nothing else is done with them.
    train: Any
    validation: Any
    train, validation = (
        MixtureProblem([getattr(one, part) for one in (problems, *others)], name=name)
        for part in ("train", "validation")
    )
    return problems._replace(train=train, validation=validation)


def _references(variant: Variant) -> list[ReferenceCurve]:
    published = VARIANTS[FLAGS.variant]
    if FLAGS.reference_curves is None:
        return []
    if variant != published or FLAGS.dataset != "mnist" or FLAGS.downsampling != 1:
        raise ValueError(
            "--reference_curves must go with MNIST and a network that the paper's figures show. "
            f"Received: --reference_curves={FLAGS.reference_curves} with other images or another "
            f"network than --variant={FLAGS.variant} names. Leave out the one or the other."
        )
    return reference_curves(*published.figures)


def _check_figure6() -> None:
    if FLAGS.mode != "evaluate" or FLAGS.update_card:
        raise ValueError(
            "--figure6 must go with --mode=evaluate, and without --update_card: it "
            f"compares trained rules, and no card shows it. Received: --mode={FLAGS.mode}, "
            f"--update_card={FLAGS.update_card}. Train and score rules in another run."
        )
    contradicting = [
        f"--{name}={FLAGS[name].value}"
        for name in ("variant", "num_hidden_units", "num_hidden_layers", "activation")
        if FLAGS[name].present
    ]
    if contradicting:
        raise ValueError(
            "--figure6 must go without flags that choose a network: it compares twenty. "
            f"Received: {', '.join(contradicting)}. Leave one or the other out."
        )


def _problems(dataset: Dataset, variant: Variant) -> pipeline.Problems:
    model = network(variant, dataset)
    parts = (dataset.train, dataset.validation, dataset.test)
    train, validation, test = (
        classification(model, dataset, part, FLAGS.initial_stddev) for part in parts
    )
    # The paper does not say which images its curves were measured on.
    return pipeline.Problems(train, validation, {"test images": test, "training half": train})


if __name__ == "__main__":
    common.run(main)
