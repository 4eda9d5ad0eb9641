"""Arrays of the suite's tasks: images, drawn numbers, and text that comes with Python."""

import functools
import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from l2l_tf.data import datasets

# Characters of texts, by number; what is not among them counts as a space.
CHARACTERS = " \n" + string.ascii_letters + string.digits + string.punctuation
NUM_TOPICS = 20
# Words that texts are made of, the most frequent ones, and one number for all others.
NUM_WORDS = 2000
NUM_TEST_EXAMPLES = 2000


class Arrays(NamedTuple):
    """Examples.

    Attributes:
        inputs: what the model takes, `[n, ...]`.
        targets: what its loss compares its outputs with, `[n, ...]`.
    """

    inputs: np.ndarray
    targets: np.ndarray


class Data(NamedTuple):
    """The arrays of a task.

    Attributes:
        train: what the model is trained on.
        test: what it has not seen.
    """

    train: Arrays
    test: Arrays


def images(name: str, split: str, data_dir: str | None, downsampling: int = 1) -> Data:
    """Returns images, float32 `[n, h, w, c]` in [0, 1], and their classes.

    The validation and the test split of the suite share no image: each has one half of the training
    images, and test images of its own.

    Args:
        name: a key of `datasets.DATASETS`.
        split: "validation" or "test".
        data_dir: the folder in which TensorFlow Datasets has prepared its data.
        downsampling: the side of the squares of pixels that are averaged.
    """
    dataset = _dataset(name, data_dir, downsampling)
    train = dataset.train if split == "test" else dataset.validation
    num_test = min(NUM_TEST_EXAMPLES, len(dataset.test.labels) // 2)
    start = 0 if split == "test" else num_test
    test = datasets.Examples(*(part[start : start + num_test] for part in dataset.test))
    return Data(_scaled(train), _scaled(test))


def pixels(data: Data) -> Data:
    """Returns images as flat vectors, float32 `[n, h w c]`, that are their own targets."""
    flat = [part.inputs.reshape(len(part.inputs), -1) for part in data]
    return Data(*(Arrays(one, one) for one in flat))


def grey(data: Data) -> Data:
    """Returns the mean over the channels of images, float32 `[n, h, w, 1]`."""
    return Data(*(part._replace(inputs=part.inputs.mean(-1, keepdims=True)) for part in data))


@functools.cache
def _dataset(name: str, data_dir: str | None, downsampling: int) -> datasets.Dataset:
    dataset = datasets.load(name, None if name == "digits" else data_dir)
    return datasets.downsampled(dataset, downsampling)


def _scaled(examples: datasets.Examples) -> Arrays:
    return Arrays(examples.images.astype(np.float32) / 255, examples.labels)


def arm_positions(num_links: int = 8, num_examples: int = 16384) -> Data:
    """Returns the angles of a planar arm's joints and where its end is.

    Angles are uniform on [-1, 1] radians, `[n, L]`, each relative to the link before; links are
    1 / L long. Positions, `[n, 2]`, are standardised and have noise of standard deviation 0.05.

    Args:
        num_links: L.
        num_examples: the number of training examples; those for testing are drawn after them.
    """
    generator = np.random.RandomState(0)
    num_all = num_examples + NUM_TEST_EXAMPLES
    angles = generator.uniform(-1, 1, (num_all, num_links))
    directions = np.cumsum(angles, axis=1)
    positions = np.stack([np.cos(directions).mean(1), np.sin(directions).mean(1)], axis=1)
    return _drawn(angles, positions, 0.05, generator)


def friedman(num_examples: int = 8192) -> Data:
    """Returns the regression problem "Friedman 1" of ten inputs, five of which do nothing.

    Inputs are uniform on [-1, 1], `[n, 10]`. Targets, `[n, 1]`, are standardised and have noise of
    standard deviation 0.05.
    Source: Friedman 1991, "Multivariate adaptive regression splines", section 4.3; inputs there are
    uniform on [0, 1], to which the formula moves them here too.

    Args:
        num_examples: the number of training examples; those for testing are drawn after them.
    """
    generator = np.random.RandomState(1)
    inputs = generator.uniform(-1, 1, (num_examples + NUM_TEST_EXAMPLES, 10))
    unit = (inputs + 1) / 2
    targets = (
        10 * np.sin(np.pi * unit[:, 0] * unit[:, 1])
        + 20 * (unit[:, 2] - 0.5) ** 2
        + 10 * unit[:, 3]
        + 5 * unit[:, 4]
    )
    return _drawn(inputs, targets[:, np.newaxis], 0.05, generator)


def _drawn(
    inputs: np.ndarray, targets: np.ndarray, noise: float, generator: np.random.RandomState
) -> Data:
    standardised = (targets - targets.mean(0)) / targets.std(0)
    noisy = standardised + noise * generator.standard_normal(targets.shape)
    arrays = Arrays(inputs.astype(np.float32), noisy.astype(np.float32))
    train, test = (
        Arrays(*(array[part] for array in arrays))
        for part in (slice(None, -NUM_TEST_EXAMPLES), slice(-NUM_TEST_EXAMPLES, None))
    )
    return Data(train, test)


def characters(split: str, length: int) -> Data:
    """Returns stretches of text and, for each of their characters, the one that follows.

    Both are int32 `[n, length]` of numbers of `CHARACTERS`. Stretches for training begin eight
    characters apart. The last tenth of each topic is for testing. The suite's two splits have
    topics of their own.
    """
    return next_characters(_topics()[0 if split == "test" else 1 :: 2], length)


def next_characters(texts: Sequence[str], length: int) -> Data:
    """Returns stretches of texts and the characters that follow, as `characters` does."""
    numbers = {character: number for number, character in enumerate(CHARACTERS)}
    parts: list[list[np.ndarray]] = [[], []]
    for text in texts:
        coded = np.array([numbers.get(character, 0) for character in text], np.int32)
        for part, own in zip(parts, np.split(coded, [len(coded) * 9 // 10]), strict=True):
            if len(own) > length:
                windows = np.lib.stride_tricks.sliding_window_view(own, length + 1)
                part.append(windows[::8])
    train, test = (np.concatenate(part) for part in parts)
    chosen = np.random.RandomState(0).permutation(len(test))[:NUM_TEST_EXAMPLES]
    return Data(*(Arrays(part[:, :-1], part[:, 1:]) for part in (train, test[chosen])))


def topics_of_words(length: int = 24, num_examples: int = 20000) -> Data:
    """Returns stretches of words of the `NUM_TOPICS` longest topics, and which topic they are of.

    Words are int32 `[n, length]` in 0..`NUM_WORDS` - 1, of which 0 is for all rare ones. Stretches
    begin at random places. The last fifth of each topic is for testing.
    """
    return labelled_words(_topics()[:NUM_TOPICS], length, num_examples)


def labelled_words(texts: Sequence[str], length: int, num_examples: int) -> Data:
    """Returns stretches of words and the number of their text, as `topics_of_words` does."""
    words = [re.findall(r"[a-z_]+|[^\sa-z_]", text.lower()) for text in texts]
    parts = [(text[: len(text) * 4 // 5], text[len(text) * 4 // 5 :]) for text in words]
    counts = Counter(word for text, _ in parts for word in text)
    # Equally frequent words in the order of the alphabet.
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    numbers = {word: number for number, word in enumerate(ranked[: NUM_WORDS - 1], start=1)}
    generator = np.random.RandomState(0)

    def drawn(of_texts: list[list[str]], count: int) -> Arrays:
        labels = generator.randint(len(of_texts), size=count).astype(np.int32)
        coded = [np.array([numbers.get(word, 0) for word in text], np.int32) for text in of_texts]
        starts = [generator.randint(len(coded[label]) - length + 1) for label in labels]
        windows = [
            coded[label][start : start + length]
            for label, start in zip(labels, starts, strict=True)
        ]
        return Arrays(np.stack(windows), labels)

    train, test = (list(part) for part in zip(*parts, strict=True))
    return Data(drawn(train, num_examples), drawn(test, NUM_TEST_EXAMPLES))


@functools.cache
def _topics() -> list[str]:
    """Returns the topics of Python's language reference, the longest first.

    Some are parts of others. These are left out.
    """
    from pydoc_data.topics import topics  # Half a megabyte.

    kept: list[str] = []
    for _, text in sorted(topics.items(), key=lambda item: (-len(item[1]), item[0])):
        middle = text[len(text) // 2 :][:100]
        if not any(middle in longer for longer in kept):
            kept.append(text)
    return kept
