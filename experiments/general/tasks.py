"""The tasks of the suite: networks of the kinds that people train, their data and their horizons.

What is looked at while a rule is made is the validation split. The test split is for rules that are
finished. The two share no network and no example.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable

import keras
import numpy as np
from absl import flags
from keras.losses import MeanSquaredError, SparseCategoricalCrossentropy
from keras.metrics import SparseCategoricalAccuracy

from experiments.general import networks
from experiments.general.data import (
    Data,
    arm_positions,
    characters,
    friedman,
    grey,
    images,
    pixels,
    topics_of_words,
)
from l2l_tf.files import strict_json

SPLITS = ("validation", "test")

flags.DEFINE_enum(
    "split",
    "validation",
    SPLITS,
    "Tasks to run: those that are looked at while a rule is made, or those for a finished rule.",
)
flags.DEFINE_list("tasks", [], "Names of tasks of the split. By default, all of them.")

FLAGS = flags.FLAGS


@dataclasses.dataclass(frozen=True)
class Task:
    """A network to train for a given number of minibatches.

    Attributes:
        name: its name.
        split: one of `SPLITS`.
        build: returns a new model. Its weights depend on Keras's global seed alone.
        load: returns the data, given the folder of TensorFlow Datasets.
        loss: returns a Keras loss. What the model's layers add to it counts too.
        batch_size: the number of examples of a minibatch.
        num_steps: the horizon, at which optimizers are judged.
        metric: returns a Keras metric for test examples; None if there is none.
        version: a number to raise when a layer or loss computes something else, which a
            fingerprint does not see.
    """

    name: str
    split: str
    build: Callable[[], keras.Model]
    load: Callable[[str | None], Data]
    loss: Callable[[], keras.losses.Loss]
    batch_size: int
    num_steps: int
    metric: Callable[[], keras.metrics.Metric] | None = None
    version: int = 1

    def model(self, seed: int) -> keras.Model:
        """Returns a new model with the initial weights of a seed.

        Models that were built before are forgotten by Keras, which thus names layers alike.
        """
        # Looking for what can be freed, each time, would take longer than building a model.
        keras.utils.clear_session(free_memory=False)
        keras.utils.set_random_seed(seed)
        return self.build()

    def minibatches(self, num_examples: int, seed: int) -> np.ndarray:
        """Returns the examples of each minibatch, int32 `[T, B]`: epochs, each in a new order."""
        generator = np.random.RandomState(seed)
        size = self.num_steps * self.batch_size
        num_epochs = -(-size // num_examples)
        orders = [generator.permutation(num_examples) for _ in range(num_epochs)]
        drawn = np.concatenate(orders)[:size].astype(np.int32)
        return drawn.reshape(self.num_steps, self.batch_size)

    def fingerprint(self, data: Data) -> str:
        """Returns a short text that another network, loss, horizon or data would change."""
        definition = {
            "name": self.name,
            "model": self.model(0).to_json(),
            "loss": keras.losses.serialize(self.loss()),
            "metric": None if self.metric is None else self.metric().get_config(),
            "batch_size": self.batch_size,
            "num_steps": self.num_steps,
            "version": self.version,
            "data": [_digest(array) for part in data for array in part],
        }
        return short_hash(strict_json(definition))


def short_hash(text: str) -> str:
    """Returns twelve characters that identify a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _digest(array: np.ndarray) -> str:
    """Returns the hash of an array's values, in steps that no rounding error reaches."""
    steps = np.rint(np.asarray(array, np.float32) * 256).astype(np.int32)
    return hashlib.sha256(repr(array.shape).encode() + steps.tobytes()).hexdigest()[:12]


def _logits() -> keras.losses.Loss:
    return SparseCategoricalCrossentropy(from_logits=True)


def _accuracy() -> keras.metrics.Metric:
    return SparseCategoricalAccuracy("accuracy")


_MNIST = (28, 28, 1)
_CIFAR = (32, 32, 3)
_CIFAR_16 = (16, 16, 3)

_VALIDATION = (
    Task(
        "mnist_mlp20_sigmoid",
        "validation",
        lambda: networks.dense_net(_MNIST, (20,), 10, "sigmoid"),
        lambda folder: images("mnist", "validation", folder),
        _logits,
        batch_size=128,
        num_steps=200,
        metric=_accuracy,
    ),
    Task(
        "mnist_mlp64x2_relu",
        "validation",
        lambda: networks.dense_net(_MNIST, (64, 64), 10),
        lambda folder: images("mnist", "validation", folder),
        _logits,
        batch_size=64,
        num_steps=500,
        metric=_accuracy,
    ),
    Task(
        "friedman_regression",
        "validation",
        lambda: networks.dense_net(10, (48, 48), 1),
        lambda folder: friedman(),
        MeanSquaredError,
        batch_size=64,
        num_steps=1000,
    ),
    Task(
        "cifar16_conv",
        "validation",
        lambda: networks.conv_net(_CIFAR_16, (16, 32), 64),
        lambda folder: images("cifar10", "validation", folder, 2),
        _logits,
        batch_size=64,
        num_steps=500,
        metric=_accuracy,
    ),
    Task(
        "char_transformer32",
        "validation",
        lambda: networks.transformer(length=24, width=32, num_layers=2, num_heads=2),
        lambda folder: characters("validation", 24),
        _logits,
        batch_size=32,
        num_steps=500,
        metric=_accuracy,
    ),
    Task(
        "cifar16_autoencoder",
        "validation",
        lambda: networks.dense_net(256, (128, 24, 128), 256, output_activation="sigmoid"),
        lambda folder: pixels(grey(images("cifar10", "validation", folder, 2))),
        MeanSquaredError,
        batch_size=64,
        num_steps=1000,
    ),
    Task(
        "mnist14_gru",
        "validation",
        lambda: networks.recurrent_rows((14, 14, 1), 32),
        lambda folder: images("mnist", "validation", folder, 2),
        _logits,
        batch_size=64,
        num_steps=300,
        metric=_accuracy,
    ),
    Task(
        "cifar16_resnet8",
        "validation",
        lambda: networks.residual_net(_CIFAR_16, (8, 16, 32), 1),
        lambda folder: images("cifar10", "validation", folder, 2),
        _logits,
        batch_size=64,
        num_steps=400,
        metric=_accuracy,
    ),
)

# From cheap to costly.
_TEST = (
    Task(
        "mnist_mlp_sigmoid",
        "test",
        lambda: networks.dense_net(_MNIST, (100,), 10, "sigmoid"),
        lambda folder: images("mnist", "test", folder),
        _logits,
        batch_size=128,
        num_steps=500,
        metric=_accuracy,
    ),
    Task(
        "text_classifier",
        "test",
        lambda: networks.text_classifier(length=24, width=64, units=64),
        lambda folder: topics_of_words(24),
        _logits,
        batch_size=64,
        num_steps=200,
        metric=_accuracy,
    ),
    Task(
        "tabular_regression",
        "test",
        lambda: networks.dense_net(8, (128, 128), 2),
        lambda folder: arm_positions(),
        MeanSquaredError,
        batch_size=128,
        num_steps=2000,
    ),
    Task(
        "mnist_mlp_relu",
        "test",
        lambda: networks.dense_net(_MNIST, (128, 64), 10),
        lambda folder: images("mnist", "test", folder),
        _logits,
        batch_size=64,
        num_steps=1000,
        metric=_accuracy,
    ),
    Task(
        "mnist_conv",
        "test",
        lambda: networks.conv_net(_MNIST, (16, 32), 64),
        lambda folder: images("mnist", "test", folder),
        _logits,
        batch_size=64,
        num_steps=300,
        metric=_accuracy,
    ),
    Task(
        "mnist_autoencoder",
        "test",
        lambda: networks.dense_net(784, (128, 32, 128), 784, output_activation="sigmoid"),
        lambda folder: pixels(images("mnist", "test", folder)),
        MeanSquaredError,
        batch_size=128,
        num_steps=1000,
    ),
    Task(
        "mnist_vae",
        "test",
        lambda: networks.variational_autoencoder(784, 128, 8),
        lambda folder: pixels(images("mnist", "test", folder)),
        networks.PixelLikelihood,
        batch_size=64,
        num_steps=1000,
    ),
    Task(
        "char_gru",
        "test",
        lambda: networks.recurrent_characters(length=32, width=32, units=96),
        lambda folder: characters("test", 32),
        _logits,
        batch_size=32,
        num_steps=500,
        metric=_accuracy,
    ),
    Task(
        "cifar_conv",
        "test",
        lambda: networks.conv_net(_CIFAR, (16, 32, 64), 64),
        lambda folder: images("cifar10", "test", folder),
        _logits,
        batch_size=64,
        num_steps=1000,
        metric=_accuracy,
    ),
    Task(
        "char_transformer",
        "test",
        lambda: networks.transformer(length=32, width=64, num_layers=3, num_heads=4),
        lambda folder: characters("test", 32),
        _logits,
        batch_size=32,
        num_steps=1000,
        metric=_accuracy,
    ),
    Task(
        "cifar_resnet20",
        "test",
        lambda: networks.residual_net(_CIFAR, (16, 32, 64), 3),
        lambda folder: images("cifar10", "test", folder),
        _logits,
        batch_size=32,
        num_steps=1000,
        metric=_accuracy,
    ),
)

TASKS = {task.name: task for task in (*_VALIDATION, *_TEST)}


def chosen_tasks() -> list[Task]:
    """Returns the tasks that `--split` and `--tasks` name.

    Raises:
        ValueError: one of them is unknown, or of the other split.
    """
    own = [task.name for task in TASKS.values() if task.split == FLAGS.split]
    unknown = sorted(set(FLAGS.tasks) - set(own))
    if unknown:
        raise ValueError(
            f"--tasks must be among {own}, which are those of --split={FLAGS.split}. "
            f"Received: {unknown}. Check the spelling and the split, or leave the flag out for all."
        )
    return _named(dict.fromkeys(FLAGS.tasks) or own)


def _named(names: Iterable[str]) -> list[Task]:
    return [TASKS[name] for name in names]
