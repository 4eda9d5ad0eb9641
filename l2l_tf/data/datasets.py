"""Labelled images in memory: MNIST, CIFAR-10, and digits that need no download."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from l2l_tf.checks import check_one_of
from l2l_tf.files import checked_path
from l2l_tf.optional import missing

# Versions of the data sets in TensorFlow Datasets. In another version, the images may come in
# another order, so that the same seeds would give other tasks.
_TFDS_VERSIONS = {"mnist": "3.0.1", "cifar10": "3.0.2"}
# The default folder of TensorFlow Datasets.
_DEFAULT_DATA_DIR = "~/tensorflow_datasets"


class Examples(NamedTuple):
    """Labelled images.

    Attributes:
        images: uint8 `[n, h, w, c]`, brightness in 0..255.
        labels: int32 `[n]`, classes numbered from 0.
    """

    images: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set in three parts that share no image.

    The original training images are split at random into two halves, always the same ones. If their
    number is odd, the halves differ by one image.

    Attributes:
        name: a key of `DATASETS`, followed by the selected classes if not all are used.
        train: the half that rules are trained on.
        validation: the half that rules and learning rates are chosen on.
        test: the original test images.
        num_classes: the number of classes.
    """

    name: str
    train: Examples
    validation: Examples
    test: Examples
    num_classes: int

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Height, width and channels of an image."""
        return self.train.images.shape[1:]


def load(name: str, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Returns a data set, read from disk. Downloads nothing.

    Args:
        name: a key of `DATASETS`. "mnist" (28 x 28 x 1, 60,000 training images) and "cifar10"
            (32 x 32 x 3, 50,000) are read as prepared by TensorFlow Datasets, "digits" (8 x 8 x 1,
            1,200) from scikit-learn.
        data_dir: the folder in which TensorFlow Datasets has prepared its data. The default is the
            environment variable TFDS_DATA_DIR if it is set, or else `~/tensorflow_datasets`.
            "digits" needs no folder.

    Raises:
        ValueError: the name is unknown, or the folder's path is not in UTF-8.
        FileNotFoundError: the data are not in that folder.
    """
    check_one_of("name", name, DATASETS)
    training, test, num_classes = DATASETS[name](name, data_dir)
    # RandomState, because NumPy guarantees that its numbers never change. Those of newer generators
    # may change between versions.
    order = np.random.RandomState(0).permutation(len(training.labels))
    train, validation = (
        Examples(training.images[half], training.labels[half]) for half in np.array_split(order, 2)
    )
    return Dataset(name, train, validation, test, num_classes)


def downsampled(dataset: Dataset, factor: int) -> Dataset:
    """Returns a data set of smaller images: each pixel is the mean of a square of pixels.

    Args:
        dataset: the data set.
        factor: the side of the squares, in pixels. Means are rounded to whole brightness levels.

    Raises:
        ValueError: the factor is below 1, or does not divide the images' height and width.
    """
    height, width, _ = dataset.image_shape
    if factor < 1 or height % factor or width % factor:
        raise ValueError(
            "factor must be a positive divisor of the images' height and width. "
            f"Received: factor={factor} with images of {height} x {width} pixels. "
            "Choose 1 to leave them."
        )

    def smaller(examples: Examples) -> Examples:
        images = examples.images
        rows, columns = height // factor, width // factor
        squares = images.reshape(len(images), rows, factor, columns, factor, images.shape[-1])
        return examples._replace(images=np.rint(squares.mean(axis=(2, 4))).astype(np.uint8))

    return dataclasses.replace(
        dataset,
        train=smaller(dataset.train),
        validation=smaller(dataset.validation),
        test=smaller(dataset.test),
    )


def with_classes(dataset: Dataset, classes: Sequence[int]) -> Dataset:
    """Returns the images of some classes of a data set, with the classes renumbered from 0.

    Each image stays in its part, and images keep their order. Classes are numbered in the order
    given. The name lists them: "digits_classes_0_1".

    Args:
        dataset: the data set.
        classes: two or more distinct classes from 0..num_classes - 1.

    Raises:
        ValueError: there are fewer than two classes, or one is repeated or out of range.
    """
    chosen = list(classes)
    if (
        len(chosen) < 2
        or len(set(chosen)) < len(chosen)
        or not set(chosen) <= set(range(dataset.num_classes))
    ):
        raise ValueError(
            f"classes must be two or more different ones of 0..{dataset.num_classes - 1}. "
            f"Received: classes={chosen}. Choose among those of {dataset.name!r}."
        )

    def part(examples: Examples) -> Examples:
        kept = np.isin(examples.labels, chosen)
        new_labels = np.zeros(dataset.num_classes, np.int32)
        new_labels[chosen] = np.arange(len(chosen))
        return Examples(examples.images[kept], new_labels[examples.labels[kept]])

    return dataclasses.replace(
        dataset,
        name=f"{dataset.name}_classes_{'_'.join(map(str, chosen))}",
        train=part(dataset.train),
        validation=part(dataset.validation),
        test=part(dataset.test),
        num_classes=len(chosen),
    )


_Parts = tuple[Examples, Examples, int]


def _read_prepared(name: str, data_dir: str | os.PathLike[str] | None) -> _Parts:
    """Returns training images, test images and number of classes from TensorFlow Datasets."""
    given = data_dir or os.environ.get("TFDS_DATA_DIR") or _DEFAULT_DATA_DIR
    root = checked_path(given, "data_dir")
    folder = root / name / _TFDS_VERSIONS[name]
    if not (folder / "dataset_info.json").is_file():
        raise FileNotFoundError(
            f"data_dir must be a folder in which TensorFlow Datasets has prepared {name!r}. "
            f"Received: data_dir={str(root)!r}, where there is no {name}/{folder.name}. Either "
            'prepare it, where there is a network, with `python -c "import tensorflow_datasets; '
            f"tensorflow_datasets.load('{name}:{folder.name}', data_dir='{root}')\"`, or name the "
            "folder that holds it (data_dir, or the variable TFDS_DATA_DIR); or take 'digits', "
            "which come with scikit-learn."
        )
    # Imported here, since it takes a second and using rules needs no data.
    try:
        import tensorflow_datasets
    except ModuleNotFoundError as error:
        raise missing("tensorflow-datasets", "the data sets that it prepares") from error

    builder = tensorflow_datasets.builder_from_directory(folder)
    training, test = (
        Examples(part["image"].numpy(), part["label"].numpy().astype(np.int32))
        for part in builder.as_dataset(split=["train", "test"], batch_size=-1)
    )
    return training, test, builder.info.features["label"].num_classes


def _read_digits(name: str, data_dir: str | os.PathLike[str] | None) -> _Parts:
    """Returns the same for scikit-learn's digits: 1,200 and 597 images, split at random."""
    try:
        import sklearn.datasets
    except ModuleNotFoundError as error:
        raise missing("scikit-learn", "the digits that come with it") from error

    digits = sklearn.datasets.load_digits()
    # Brightness is in 0..16. The labels run 0, 1, 2, ... for long stretches.
    images = np.rint(digits.images[..., np.newaxis] * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int32)
    order = np.random.RandomState(0).permutation(len(labels))
    training, test = (
        Examples(images[part], labels[part]) for part in np.split(order, [_NUM_TRAINING_DIGITS])
    )
    return training, test, len(digits.target_names)


_NUM_TRAINING_DIGITS = 1200

# The reader of each data set.
DATASETS: dict[str, Callable[[str, str | os.PathLike[str] | None], _Parts]] = {
    "mnist": _read_prepared,
    "cifar10": _read_prepared,
    "digits": _read_digits,
}
