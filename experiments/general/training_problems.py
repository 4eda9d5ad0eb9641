"""The problems that a rule for any network is trained on: small networks of many kinds.

Everything comes with Python and scikit-learn or is drawn, so that nothing is downloaded. No data
are those of the suite's tasks.
"""

import functools
import importlib
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras.losses import MeanSquaredError, SparseCategoricalCrossentropy

from experiments.general import networks
from experiments.general.data import (
    CHARACTERS,
    NUM_TOPICS,
    Arrays,
    labelled_words,
    next_characters,
)
from l2l_tf.data import datasets
from l2l_tf.optional import missing
from l2l_tf.problems import MixtureProblem, Problem, SupervisedProblem, WithRandomGains

# Half of the problems have initial weights that are up to this factor, in logarithms, off.
_LOG_GAIN = 0.5
_ACTIVATIONS = ("relu", "relu", "gelu", "tanh", "sigmoid")
_BATCH_SIZES = (16, 32, 64, 128)
_NUM_DRAWN_EXAMPLES = 4096
# Modules of Python whose source is text to read.
_MODULES = (
    *("argparse", "ast", "calendar", "codecs", "configparser", "csv", "datetime", "difflib"),
    *("enum", "fractions", "heapq", "inspect", "ipaddress", "locale", "optparse", "pathlib"),
    *("pickle", "random", "statistics", "tarfile"),
)


class _Draws:
    """Random choices.

    Args:
        seed: what they depend on.
        width_factor: the factor of the largest number of units.
    """

    def __init__(self, seed: Sequence[int], width_factor: float):
        # RandomState, because NumPy guarantees that its numbers never change.
        self.generator = np.random.RandomState(list(seed))
        self._width_factor = width_factor

    def one_of(self, choices: Sequence[Any]) -> Any:
        return choices[self.generator.randint(len(choices))]

    def count(self, smallest: int, largest: int) -> int:
        """Returns a whole number, uniform, both ends included."""
        return int(self.generator.randint(smallest, largest + 1))

    def size(self, smallest: int, largest: int) -> int:
        """Returns a whole number, log-uniform."""
        return round(smallest * (largest / smallest) ** self.generator.rand())

    def width(self, smallest: int, largest: int) -> int:
        """Returns a number of units, log-uniform up to the largest times the factor."""
        return self.size(smallest, round(self._width_factor * largest))

    def happens(self, share: float) -> bool:
        """Returns True in this share of cases."""
        return bool(self.generator.rand() < share)


def training_mixture(
    seed: int, num_of_each: int, kinds: Sequence[str] = (), width_factor: float = 1.0
) -> MixtureProblem:
    """Returns networks of each kind, drawn from a seed.

    Args:
        seed: decides widths, depths, activations, sizes of minibatches and data.
        num_of_each: the number of networks of each kind.
        kinds: keys of `KINDS`; all of them if there are none.
        width_factor: the factor of the largest number of units of a layer.

    Raises:
        ValueError: a kind is unknown, or there is only one network.
    """
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise ValueError(
            f"--kinds must be among {sorted(KINDS)}. "
            f"Received: {unknown}. Check the spelling, or leave the flag out for all."
        )
    if len(set(kinds)) * num_of_each == 1:
        raise ValueError(
            "--kinds must give two networks or more. "
            f"Received: --kinds={kinds[0]} with --networks_of_each_kind=1. Give more of either."
        )
    problems = [
        _drawn(kind, _Draws([seed, number, index], width_factor), f"{kind}_{index}")
        for number, kind in enumerate(KINDS)
        for index in range(num_of_each)
        if kind in (kinds or KINDS)
    ]
    return MixtureProblem(problems, name=f"networks_{seed}")


def _drawn(kind: str, draws: _Draws, name: str) -> Problem:
    problem = KINDS[kind](draws, name)
    return WithRandomGains(problem, _LOG_GAIN) if draws.happens(1 / 2) else problem


def _classifier(
    model: keras.Model,
    examples: Arrays,
    num_classes: int,
    draws: _Draws,
    name: str,
    max_batch_size: int = 128,
) -> SupervisedProblem:
    sizes = [size for size in _BATCH_SIZES if size <= max_batch_size]
    return SupervisedProblem(
        model,
        *examples,
        SparseCategoricalCrossentropy(from_logits=True),
        batch_size=draws.one_of(sizes),
        loss_unit=math.log(num_classes),
        is_logarithmic=True,
        name=name,
    )


def _regression(
    model: keras.Model, examples: Arrays, draws: _Draws, name: str
) -> SupervisedProblem:
    return SupervisedProblem(
        model,
        *examples,
        MeanSquaredError(),
        batch_size=draws.one_of(_BATCH_SIZES),
        loss_unit=float(examples.targets.var()),
        is_logarithmic=True,
        name=name,
    )


def _noisy(examples: Arrays, num_classes: int, draws: _Draws) -> Arrays:
    """Returns examples, in one case of three with a tenth of the labels at random."""
    if not draws.happens(1 / 3):
        return examples
    generator = draws.generator
    labels = np.array(examples.targets)
    chosen = generator.rand(len(labels)) < 0.1
    labels[chosen] = generator.randint(num_classes, size=chosen.sum())
    return examples._replace(targets=labels)


def _small_digits(draws: _Draws, name: str) -> SupervisedProblem:
    """A dense net on 8 x 8 digits."""
    depth = draws.count(1, 3)
    units = tuple(draws.width(12, 64) for _ in range(depth))
    model = networks.dense_net((8, 8, 1), units, 10, draws.one_of(_ACTIVATIONS))
    return _classifier(model, _noisy(_digits(), 10, draws), 10, draws, name)


def _large_digits(draws: _Draws, name: str) -> SupervisedProblem:
    """A dense net on digits that are drawn on 28 x 28 pixels."""
    depth = draws.count(1, 2)
    units = tuple(draws.width(16, 64) for _ in range(depth))
    model = networks.dense_net((28, 28, 1), units, 10, draws.one_of(_ACTIVATIONS))
    return _classifier(model, _noisy(_shifted_digits(), 10, draws), 10, draws, name)


def _teacher(draws: _Draws, name: str) -> SupervisedProblem:
    """Regression on what a random network computes."""
    num_inputs, num_outputs = draws.size(4, 32), draws.count(1, 4)
    examples = _from_teacher(draws, num_inputs, num_outputs)
    units = tuple(draws.width(16, 96) for _ in range(draws.count(1, 3)))
    model = networks.dense_net(num_inputs, units, num_outputs, draws.one_of(_ACTIVATIONS))
    return _regression(model, examples, draws, name)


def _labels(draws: _Draws, name: str) -> SupervisedProblem:
    """Classification by the largest output of a random network."""
    num_inputs, num_classes = draws.size(8, 64), draws.count(2, 10)
    examples = _from_teacher(draws, num_inputs, num_classes)
    labels = examples.targets.argmax(axis=1).astype(np.int32)
    examples = _noisy(examples._replace(targets=labels), num_classes, draws)
    units = tuple(draws.width(16, 64) for _ in range(draws.count(1, 3)))
    activation = draws.one_of(_ACTIVATIONS)
    model = networks.dense_net(num_inputs, units, num_classes, activation)
    return _classifier(model, examples, num_classes, draws, name)


def _autoencoder(draws: _Draws, name: str) -> SupervisedProblem:
    """An autoencoder of patches of photos."""
    side = draws.one_of((8, 12, 16))
    patches = _patches(side).inputs.mean(-1).reshape(-1, side * side)
    outer, inner = draws.width(32, 96), draws.width(8, 24)
    activation = draws.one_of(_ACTIVATIONS)
    model = networks.dense_net(
        side * side, (outer, inner, outer), side * side, activation, "sigmoid"
    )
    return _regression(model, Arrays(patches, patches), draws, name)


def _convolutions(draws: _Draws, name: str) -> SupervisedProblem:
    """A net of convolutions on patches of photos, or on digits."""
    activation = draws.one_of(("relu", "relu", "gelu", "tanh"))
    channels = tuple(draws.width(6, 20) for _ in range(2))
    units = draws.one_of((None, 16, 32))
    examples = draws.one_of((_patches(8), _patches(12), _small_shifted_digits()))
    model = networks.conv_net(examples.inputs.shape[1:], channels, units, activation)
    return _classifier(model, _noisy(examples, 10, draws), 10, draws, name, 32)


def _residual(draws: _Draws, name: str) -> SupervisedProblem:
    """A residual network with batch normalisation on patches of photos, or on digits."""
    width = draws.one_of((4, 6, 8))
    examples = draws.one_of((_patches(8), _digits()))
    model = networks.residual_net(examples.inputs.shape[1:], (width, 2 * width), 1)
    return _classifier(model, _noisy(examples, 10, draws), 10, draws, name, 32)


def _characters(draws: _Draws, name: str) -> SupervisedProblem:
    """A transformer that predicts the next character of Python's source."""
    length, width = draws.one_of((8, 12, 16)), draws.one_of((16, 24, 32))
    num_layers, num_heads = draws.count(1, 2), draws.one_of((1, 2, 4))
    model = networks.transformer(length, width, num_layers, num_heads)
    examples = next_characters(_sources(), length).train
    return _classifier(model, examples, len(CHARACTERS), draws, name, 32)


def _rows(draws: _Draws, name: str) -> SupervisedProblem:
    """A GRU that reads 8 x 8 digits row by row."""
    model = networks.recurrent_rows((8, 8, 1), draws.width(12, 40), unroll=True)
    return _classifier(model, _noisy(_digits(), 10, draws), 10, draws, name, 64)


def _words(draws: _Draws, name: str) -> SupervisedProblem:
    """An embedding of words and a dense layer, for which module of Python they are of."""
    length = draws.one_of((8, 16, 24))
    model = networks.text_classifier(length, draws.one_of((8, 16)), draws.width(16, 48))
    examples = labelled_words(_sources(), length, 8000).train
    return _classifier(model, examples, NUM_TOPICS, draws, name, 64)


KINDS: dict[str, Callable[[_Draws, str], SupervisedProblem]] = {
    "small_digits": _small_digits,
    "large_digits": _large_digits,
    "teacher": _teacher,
    "labels": _labels,
    "autoencoder": _autoencoder,
    "convolutions": _convolutions,
    "residual": _residual,
    "characters": _characters,
    "rows": _rows,
    "words": _words,
}


@functools.cache
def _digits() -> Arrays:
    """Returns all but the test images of scikit-learn's digits, `[n, 8, 8, 1]`."""
    digits = datasets.load("digits")
    images = np.concatenate([digits.train.images, digits.validation.images])
    labels = np.concatenate([digits.train.labels, digits.validation.labels])
    return Arrays(images.astype(np.float32) / 255, labels)


@functools.cache
def _small_shifted_digits() -> Arrays:
    """Returns the shifted digits, averaged over squares of 2 x 2 pixels."""
    digits = _shifted_digits()
    small = digits.inputs.reshape(-1, 14, 2, 14, 2, 1).mean((2, 4))
    return digits._replace(inputs=small)


@functools.cache
def _shifted_digits() -> Arrays:
    """Returns digits of 16 to 24 pixels at random places of 28 x 28 pixels, with a little noise.

    There are four of each.
    """
    generator = np.random.RandomState(0)
    digits = _digits()
    pictures, labels = [], []
    for picture, label in zip(digits.inputs[..., 0], digits.targets, strict=True):
        for _ in range(4):
            size = generator.randint(16, 25)
            # Bilinear, between the centres of pixels.
            places = np.clip((np.arange(size) + 0.5) * 8 / size - 0.5, 0, 7)
            below = np.minimum(places.astype(int), 6)
            weights = np.zeros((size, 8))
            weights[np.arange(size), below] = 1 - (places - below)
            weights[np.arange(size), below + 1] = places - below
            top, left = generator.randint(0, 29 - size, 2)
            drawn = np.zeros((28, 28))
            drawn[top : top + size, left : left + size] = weights @ picture @ weights.T
            pictures.append(np.clip(drawn + 0.05 * generator.randn(28, 28), 0, 1))
            labels.append(label)
    inputs = np.stack(pictures).astype(np.float32)[..., np.newaxis]
    return Arrays(inputs, np.array(labels, np.int32))


@functools.cache
def _patches(side: int) -> Arrays:
    """Returns patches, float32 `[n, side, side, 3]`, of the two photos of scikit-learn.

    Photos are first averaged over squares of 2 x 2 pixels. Labels say which photo a patch is of,
    and in which fifth of its height.
    """
    try:
        import sklearn.datasets
    except ImportError as error:
        raise missing("scikit-learn", "the photos that come with it") from error
    patches, labels = [], []
    for number, photo in enumerate(sklearn.datasets.load_sample_images().images):
        height, width = photo.shape[0] // 2, photo.shape[1] // 2
        pixels = photo[: 2 * height, : 2 * width].astype(np.float32) / 255
        small = pixels.reshape(height, 2, width, 2, 3).mean((1, 3))
        windows = np.lib.stride_tricks.sliding_window_view(small, (side, side), (0, 1))
        chosen = np.moveaxis(windows[::3, ::3], 2, -1)
        fifths = np.arange(len(chosen)) * 5 // len(chosen)
        labels.append(np.repeat(5 * number + fifths, chosen.shape[1]))
        patches.append(chosen.reshape(-1, side, side, 3))
    return Arrays(np.concatenate(patches), np.concatenate(labels).astype(np.int32))


@functools.cache
def _sources() -> tuple[str, ...]:
    """Returns the source of some of Python's modules."""
    return tuple(inspect.getsource(importlib.import_module(name)) for name in _MODULES)


def _from_teacher(draws: _Draws, num_inputs: int, num_outputs: int) -> Arrays:
    """Returns inputs of differing scales and the standardised, noisy outputs of a random net."""
    generator = draws.generator
    inputs = generator.standard_normal((_NUM_DRAWN_EXAMPLES, num_inputs))
    hidden = inputs
    for _ in range(draws.count(1, 2)):
        kernel = generator.standard_normal((hidden.shape[1], 24)) / math.sqrt(hidden.shape[1])
        hidden = np.tanh(1.5 * hidden @ kernel + 0.3 * generator.standard_normal(24))
    outputs = hidden @ generator.standard_normal((24, num_outputs))
    outputs = (outputs - outputs.mean(0)) / outputs.std(0)
    outputs += draws.one_of((0, 0.05, 0.3)) * generator.standard_normal(outputs.shape)
    scales = np.exp(generator.uniform(-1, 1, num_inputs)) * math.exp(generator.uniform(-1, 1))
    return Arrays((inputs * scales).astype(np.float32), outputs.astype(np.float32))
