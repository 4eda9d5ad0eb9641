"""How do learned rules do in `fit`, on a plain Keras model, beside tuned optimizers of Keras?

Each optimizer trains the same network on images, by default scikit-learn's digits, from the same
initial weights and on the same minibatches. The learning rate of Keras's is chosen on runs of their
own.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from experiments import common
from experiments.comparison import load_rules
from experiments.images import load_dataset
from experiments.tuned_rates import chosen_baselines
from l2l_tf.delivery.export import load_card
from l2l_tf.delivery.learned_optimizer import LearnedOptimizer
from l2l_tf.delivery.pretrained import find_rule, list_rules
from l2l_tf.files import write_json
from l2l_tf.problems import datasets
from l2l_tf.problems.networks import mlp
from l2l_tf.reporting.figures import Panel, draw_curves
from l2l_tf.reporting.results import Row, format_table, result_row
from l2l_tf.training.evaluation import Evaluation
from l2l_tf.training.tuning import Tuning

flags.DEFINE_integer("num_epochs", 20, "Epochs of each run.", 1)

FLAGS = flags.FLAGS

# Half decades: what is tried for each optimizer of Keras.
LEARNING_RATES = tuple(float(f"{10 ** (k / 2):.4g}") for k in range(-8, 2))

OPTIMIZERS: dict[str, Callable[[float], keras.optimizers.Optimizer]] = {
    "adam": keras.optimizers.Adam,
    "momentum": lambda rate: keras.optimizers.SGD(rate, momentum=0.9),
    "nag": lambda rate: keras.optimizers.SGD(rate, momentum=0.9, nesterov=True),
    "rmsprop": keras.optimizers.RMSprop,
    "sgd": keras.optimizers.SGD,
}


def main(strategy: tf.distribute.Strategy) -> None:
    """Runs the experiment as the flags say."""
    del strategy  # What is compared runs on one device.
    FLAGS.set_default("dataset", "digits")
    FLAGS.set_default("baselines", ["adam", "momentum"])
    FLAGS.set_default("num_tasks", 3)
    FLAGS.set_default("num_tuning_tasks", 1)
    output_dir = Path(FLAGS.output_dir)
    dataset = load_dataset()
    rules = load_rules([find_rule(rule) for rule in FLAGS.rule] or default_rules())
    baselines = chosen_baselines()
    seeds = [FLAGS.seed + index for index in range(FLAGS.num_tasks)]
    # Beyond those that results are reported on.
    tuning_seeds = [seeds[-1] + 1 + index for index in range(FLAGS.num_tuning_tasks)]
    progress = keras.utils.Progbar(len(rules) + len(baselines), unit_name="optimizer")
    rows = []
    for name, rule in rules.items():
        rows.append(_row(name, dataset, functools.partial(LearnedOptimizer, rule), seeds))
        progress.update(len(rows))
    for name in baselines:
        make = OPTIMIZERS[name]
        tuning = _tune(make, dataset, tuning_seeds)
        tuned = functools.partial(make, tuning.learning_rate)
        rows.append(_row(name, dataset, tuned, seeds, tuning))
        progress.update(len(rows))
    results = {
        "experiment": "keras_fit",
        "problem": f"{FLAGS.dataset}_mlp20_sigmoid",
        "num_epochs": FLAGS.num_epochs,
        "batch_size": FLAGS.batch_size,
        "num_tasks": FLAGS.num_tasks,
        "seed": FLAGS.seed,
        "rows": rows,
        **common.origin("keras_fit"),
    }
    write_json(output_dir / "results.json", results)
    title = f"Keras `fit` on {FLAGS.dataset}, mlp20_sigmoid: training loss"
    draw_curves(output_dir / "keras_fit.png", [Panel(title, rows)], unit="epoch")
    common.write_flags(output_dir / "flags.txt")
    print(format_table(rows))
    for row in rows:
        print(f"{row['rule']}: {row['test_accuracy']:.1%} of the test images right")
    print(f"Wrote results.json and keras_fit.png to {output_dir}")


def default_rules() -> list[Path]:
    """Returns the rules of the package that were trained on images; if none was, all of them."""
    rules = list_rules().values()
    images = [path for path in rules if _problem_of(path).startswith(tuple(datasets.DATASETS))]
    if not images:
        print("No rule of the package was trained on images; here is how those that it has do.")
    return images or list(rules)


def _problem_of(path: Path) -> str:
    return str(load_card(path).get("training", {}).get("problem", ""))


def _row(
    name: str,
    dataset: datasets.Dataset,
    make: Callable[[], keras.optimizers.Optimizer],
    seeds: list[int],
    tuning: Tuning | None = None,
) -> Row:
    """Returns the runs of one optimizer, as `results.json` says it."""
    runs = [_run(dataset, make(), seed) for seed in seeds]
    losses = np.stack([losses for losses, _ in runs], axis=1)
    row = result_row(name, Evaluation(losses), tuning, learned=tuning is None)
    return row | {"test_accuracy": float(np.mean([accuracy for _, accuracy in runs]))}


def _tune(
    make: Callable[[float], keras.optimizers.Optimizer],
    dataset: datasets.Dataset,
    seeds: list[int],
) -> Tuning:
    """Returns the learning rate with the lowest training loss at the end."""
    final_losses = [
        float(np.mean([_run(dataset, make(rate), seed)[0][-1] for seed in seeds]))
        for rate in LEARNING_RATES
    ]
    best = LEARNING_RATES[int(np.argmin(final_losses))]
    return Tuning(best, LEARNING_RATES, tuple(final_losses))


class _LossOfEachEpoch(keras.callbacks.Callback):
    """Takes the loss on all training images, before training and after each epoch."""

    def __init__(self, examples: tuple[Any, Any]):
        super().__init__()
        self._examples = examples
        self.losses: list[float] = []

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._note()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._note()

    def _note(self) -> None:
        loss, _ = self.model.evaluate(*self._examples, batch_size=1024, verbose=0)
        self.losses.append(loss if np.isfinite(loss) else np.inf)


def _run(
    dataset: datasets.Dataset, optimizer: keras.optimizers.Optimizer, seed: int
) -> tuple[np.ndarray, float]:
    """Returns the training losses, epoch by epoch `[E + 1]`, and the accuracy on test images."""
    keras.utils.set_random_seed(seed)
    model = mlp(dataset.image_shape, num_classes=dataset.num_classes)
    # From here on it is what any user of Keras writes.
    model.compile(
        optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    images, labels = _prepared(dataset.train)
    losses = _LossOfEachEpoch((images, labels))
    model.fit(
        images,
        labels,
        batch_size=FLAGS.batch_size,
        epochs=FLAGS.num_epochs,
        verbose=0,
        callbacks=[losses],
    )
    _, accuracy = model.evaluate(*_prepared(dataset.test), batch_size=1024, verbose=0)
    return np.array(losses.losses), accuracy


def _prepared(examples: datasets.Examples) -> tuple[np.ndarray, np.ndarray]:
    """Returns images float32 in [0, 1] and labels."""
    return examples.images.astype(np.float32) / 255, examples.labels


if __name__ == "__main__":
    common.run(main)
