"""How do learned rules do in `fit`, on a plain Keras model, beside tuned optimizers of Keras?

Each optimizer trains the same network on images, by default scikit-learn's digits. All start from
the same initial weights, by default those that Keras draws, and see the same minibatches. The
learning rate of Keras's optimizers is chosen on runs of their own. Learned rules are not tuned.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from experiments.harness import common, tuned_rates
from experiments.harness.images import load_dataset
from experiments.harness.keras_optimizers import BASELINES, muon_cosine
from experiments.harness.saved_rules import load_rules
from experiments.keras_fit.workloads import OUTPUTS, WORKLOADS, Workload
from l2l_tf.data import datasets
from l2l_tf.delivery import LearnedOptimizer, find_rule, list_rules
from l2l_tf.evaluation import Evaluation, Tuning
from l2l_tf.files import write_json
from l2l_tf.reporting import Row, format_table, result_row
from l2l_tf.reporting.figures import Panel, draw_curves

flags.DEFINE_enum(
    "network",
    "mlp20_sigmoid",
    sorted(WORKLOADS),
    "Network to train.",
    # Style transfer has a flag of this name, and tests import both.
    allow_override=True,
)
flags.DEFINE_integer("num_epochs", 20, "Number of epochs of each run.", 1)
flags.DEFINE_integer(
    "steps_per_epoch", None, "Number of minibatches in an epoch. By default, all of the data.", 1
)
flags.DEFINE_float(
    "initial_stddev",
    None,
    "Draw all initial weights from N(0, initial_stddev^2), instead of using Keras's defaults.",
    0,
)

FLAGS = flags.FLAGS

# What it reads of the flags that experiments share.
_READ = {
    *("output_dir", "rule", "seed", "num_tasks", "threads_per_operation"),
    *("baselines", "num_tuning_tasks"),
}
# Half decades: the learning rates that are tried for each optimizer of Keras.
LEARNING_RATES = tuple(float(f"{10 ** (k / 2):.4g}") for k in range(-8, 2))

# Each is made from its rate and the number of steps.
OPTIMIZERS: dict[str, Callable[[float, int], keras.optimizers.Optimizer]] = {
    **{name: baseline.make for name, baseline in BASELINES.items()},
    "momentum": lambda rate, num_steps: keras.optimizers.SGD(rate, momentum=0.9),
    "muon_cosine": lambda rate, num_steps: muon_cosine(rate, num_steps, OUTPUTS),
    "nag": lambda rate, num_steps: keras.optimizers.SGD(rate, momentum=0.9, nesterov=True),
    "rmsprop": lambda rate, num_steps: keras.optimizers.RMSprop(rate),
    "sgd": lambda rate, num_steps: keras.optimizers.SGD(rate),
}


def main(strategy: tf.distribute.Strategy) -> None:
    """Runs the experiment that the flags describe."""
    del strategy  # The comparison runs on one device.
    modules = [module.__name__ for module in (common, tuned_rates)]
    common.check_all_read("keras_fit", modules, _READ, "runs are of --num_epochs.")
    FLAGS.set_default("dataset", "digits")
    FLAGS.set_default("baselines", ["adam", "adamw_cosine", "muon_cosine"])
    FLAGS.set_default("num_tasks", 3)
    FLAGS.set_default("num_tuning_tasks", 1)
    output_dir = Path(FLAGS.output_dir)
    dataset = load_dataset()
    workload = WORKLOADS[FLAGS.network]
    rules = load_rules([find_rule(rule) for rule in FLAGS.rule or default_rules()])
    baselines = tuned_rates.chosen_baselines(OPTIMIZERS)
    seeds = [FLAGS.seed + index for index in range(FLAGS.num_tasks)]
    # Seeds beyond those that results are reported on.
    tuning_seeds = [seeds[-1] + 1 + index for index in range(FLAGS.num_tuning_tasks)]
    progress = keras.utils.Progbar(len(rules) + len(baselines), unit_name="optimizer")
    num_steps = _num_steps(dataset)
    rows = []
    for name, rule in rules.items():
        make_learned = functools.partial(LearnedOptimizer, rule, num_steps=num_steps)
        rows.append(_row(name, workload, dataset, make_learned, seeds))
        progress.update(len(rows))
    for name in baselines:
        make = functools.partial(_make, name, num_steps)
        tuning = _tune(make, workload, dataset, tuning_seeds)
        tuned = functools.partial(make, tuning.best)
        rows.append(_row(name, workload, dataset, tuned, seeds, tuning))
        progress.update(len(rows))
    results = {
        "experiment": "keras_fit",
        "problem": f"{dataset.name}_{FLAGS.network}",
        "num_epochs": FLAGS.num_epochs,
        "steps_per_epoch": FLAGS.steps_per_epoch,
        "num_steps": num_steps,
        "batch_size": FLAGS.batch_size,
        "initial_stddev": FLAGS.initial_stddev,
        "num_tasks": FLAGS.num_tasks,
        "seed": FLAGS.seed,
        "rows": rows,
        **common.origin("keras_fit"),
    }
    write_json(output_dir / "results.json", results)
    title = f"`fit` of {FLAGS.network} on {dataset.name}, from {_initial_weights()}"
    draw_curves(output_dir / "keras_fit.png", [Panel(title, rows)], unit="epoch")
    common.write_flags(output_dir / "flags.txt")
    print(f"\nTraining loss: {title}")
    print(format_table(rows))
    print(f"Wrote results.json and keras_fit.png to {output_dir}")


def default_rules() -> list[str]:
    """Returns the names of the package's rules for Keras models with any initial weights."""
    return [name for name, rule in list_rules().items() if rule.use and rule.use.is_general]


def _make(name: str, num_steps: int, rate: float) -> keras.optimizers.Optimizer:
    return OPTIMIZERS[name](rate, num_steps)


def _num_steps(dataset: datasets.Dataset) -> int:
    """Returns the number of steps of a run."""
    num_minibatches = -(-len(dataset.train.images) // FLAGS.batch_size)
    return FLAGS.num_epochs * (FLAGS.steps_per_epoch or num_minibatches)


def _initial_weights() -> str:
    if FLAGS.initial_stddev is None:
        return "Keras's initial weights"
    return f"weights of N(0, {FLAGS.initial_stddev:g}^2)"


def _row(
    name: str,
    workload: Workload,
    dataset: datasets.Dataset,
    make: Callable[[], keras.optimizers.Optimizer],
    seeds: list[int],
    tuning: Tuning | None = None,
) -> Row:
    """Returns the runs of one optimizer, in the form of `results.json`."""
    runs = [_run(workload, dataset, make(), seed) for seed in seeds]
    losses = np.stack([losses for losses, _ in runs], axis=1)
    row = result_row(name, Evaluation(losses), tuning, learned=tuning is None)
    if workload.is_classification:
        row["test_accuracy"] = float(np.mean([accuracy for _, accuracy in runs]))
    return row


def _tune(
    make: Callable[[float], keras.optimizers.Optimizer],
    workload: Workload,
    dataset: datasets.Dataset,
    seeds: list[int],
) -> Tuning:
    """Returns the learning rate with the lowest training loss at the end."""
    final_losses = [
        float(np.mean([_run(workload, dataset, make(rate), seed)[0][-1] for seed in seeds]))
        for rate in LEARNING_RATES
    ]
    best = LEARNING_RATES[int(np.argmin(final_losses))]
    return Tuning(best, LEARNING_RATES, tuple(final_losses))


def _minibatches(examples: tuple[np.ndarray, np.ndarray], seed: int) -> tf.data.Dataset:
    """Returns shuffled minibatches, endlessly if epochs have a given length."""
    dataset = tf.data.Dataset.from_tensor_slices(examples)
    dataset = dataset.shuffle(len(examples[0]), seed).batch(FLAGS.batch_size)
    return dataset if FLAGS.steps_per_epoch is None else dataset.repeat()


class _LossOfEachEpoch(keras.callbacks.Callback):
    """Records the loss on all training images, before training and after each epoch."""

    def __init__(self, examples: tuple[Any, Any]):
        super().__init__()
        self._examples = examples
        self.losses: list[float] = []

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._note()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._note()

    def _note(self) -> None:
        logs = self.model.evaluate(*self._examples, batch_size=1024, verbose=0, return_dict=True)
        self.losses.append(logs["loss"] if np.isfinite(logs["loss"]) else np.inf)


def _run(
    workload: Workload,
    dataset: datasets.Dataset,
    optimizer: keras.optimizers.Optimizer,
    seed: int,
) -> tuple[np.ndarray, float | None]:
    """Returns the training loss of each epoch, `[E + 1]`, and the accuracy on test images.

    The accuracy is None if the network does not classify.
    """
    keras.utils.set_random_seed(seed)
    model = workload.build(dataset)
    if FLAGS.initial_stddev is not None:
        generator = np.random.default_rng(seed)
        for weight in model.trainable_variables:
            weight.assign(generator.normal(0, FLAGS.initial_stddev, weight.shape))
    # Keras traces a step that makes variables twice.
    optimizer.build(model.trainable_variables)
    # From here on, this is what any user of Keras writes.
    metrics = ["accuracy"] if workload.is_classification else []
    model.compile(optimizer, loss=workload.loss, metrics=metrics)
    examples = workload.examples(dataset.train)
    losses = _LossOfEachEpoch(examples)
    model.fit(
        _minibatches(examples, seed),
        epochs=FLAGS.num_epochs,
        steps_per_epoch=FLAGS.steps_per_epoch,
        shuffle=False,  # The minibatches are shuffled already.
        verbose=0,
        callbacks=[losses],
    )
    logs = model.evaluate(
        *workload.examples(dataset.test), batch_size=1024, verbose=0, return_dict=True
    )
    return np.array(losses.losses), logs.get("accuracy")


if __name__ == "__main__":
    common.run(main)
