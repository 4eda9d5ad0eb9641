import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import tensorflow as tf

from l2l_tf.data.datasets import DATASETS, Dataset, downsampled, load, with_classes
from tests.real_data import needs_data


def _parts(dataset: Dataset) -> list:
    return [dataset.train, dataset.validation, dataset.test]


def _sorted_rows(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns images with their labels as rows, in an order that does not depend on theirs."""
    rows = np.concatenate([images.reshape(len(images), -1), labels[:, np.newaxis]], axis=1)
    return rows[np.lexsort(rows.T)]


# Digits, which every machine has


def test_digits_are_in_three_parts_of_the_stated_types():
    dataset = load("digits")
    assert dataset.name == "digits"
    assert dataset.num_classes == 10
    assert dataset.image_shape == (8, 8, 1)
    assert [part.images.shape for part in _parts(dataset)] == [
        (600, 8, 8, 1),
        (600, 8, 8, 1),
        (597, 8, 8, 1),
    ]
    for images, labels in _parts(dataset):
        assert images.dtype == np.uint8
        assert labels.dtype == np.int32
        assert labels.shape == images.shape[:1]


def test_each_digit_of_scikit_learn_is_in_one_part_with_its_label():
    dataset, raw = load("digits"), sklearn.datasets.load_digits()
    images = np.concatenate([part.images for part in _parts(dataset)])
    labels = np.concatenate([part.labels for part in _parts(dataset)])
    # From 0..255 back to 0..16: no brightness is lost.
    levels = np.rint(images * (16 / 255))
    np.testing.assert_array_equal(
        _sorted_rows(levels, labels), _sorted_rows(raw.images, raw.target)
    )
    assert images.max() == 255


def test_each_part_of_the_digits_has_each_digit_about_equally_often():
    # A tenth of 600 is 60; the digits come as 0, 1, 2, ..., so that every other one, say, would not
    # do. Five standard deviations of a binomial count are 37.
    for part in _parts(load("digits")):
        counts = np.bincount(part.labels, minlength=10)
        assert (abs(counts - 60) < 37).all()


def test_the_parts_are_the_same_ones_each_time_and_will_be():
    first, second = load("digits"), load("digits")
    for one, other in zip(_parts(first), _parts(second), strict=True):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)
    # Written down from the first release: another cut would make other tasks of the same seeds.
    assert [part.labels[:8].tolist() for part in _parts(first)] == [
        [6, 0, 0, 5, 5, 8, 3, 1],
        [6, 3, 5, 2, 9, 9, 0, 9],
        [6, 1, 6, 0, 6, 4, 0, 1],
    ]


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"^name must"):
        load("imagenet")


def test_each_pixel_of_a_smaller_image_is_the_mean_of_a_square():
    dataset = load("digits")
    smaller = downsampled(dataset, 4)
    assert smaller.image_shape == (2, 2, 1)
    for part, small in zip(_parts(dataset), _parts(smaller), strict=True):
        assert small.images.dtype == np.uint8
        np.testing.assert_array_equal(small.labels, part.labels)
        for row in range(2):
            for column in range(2):
                square = part.images[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4, 0]
                mean = square.astype(np.float64).mean(axis=(1, 2))
                assert abs(small.images[:, row, column, 0] - mean).max() <= 0.5


def test_squares_of_one_pixel_leave_a_data_set_as_it_is():
    dataset = load("digits")
    for part, same in zip(_parts(dataset), _parts(downsampled(dataset, 1)), strict=True):
        np.testing.assert_array_equal(same.images, part.images)


@pytest.mark.parametrize("factor", [3, 0, -2])
def test_images_that_squares_do_not_cover_are_refused(factor):
    with pytest.raises(ValueError) as raised:
        downsampled(load("digits"), factor)
    assert str(raised.value) == (
        "factor must be a positive divisor of the images' height and width. "
        f"Received: factor={factor} with images of 8 x 8 pixels. Choose 1 to leave them."
    )


def test_of_some_classes_all_images_stay_in_their_parts_under_new_labels():
    dataset = load("digits")
    chosen = with_classes(dataset, [7, 0, 3])
    assert chosen.num_classes == 3
    assert chosen.name == "digits_classes_7_0_3"
    for part, kept in zip(_parts(dataset), _parts(chosen), strict=True):
        assert kept.labels.dtype == np.int32
        assert kept.labels.max() == 2
        assert len(kept.labels) == sum(np.sum(part.labels == old) for old in (7, 0, 3))
        for new, old in enumerate((7, 0, 3)):
            np.testing.assert_array_equal(
                kept.images[kept.labels == new], part.images[part.labels == old]
            )
        # In the order in which they were.
        rows = [tuple(image.ravel()) for image in part.images]
        positions = [rows.index(tuple(image.ravel())) for image in kept.images]
        assert positions == sorted(positions)


@pytest.mark.parametrize("classes", [[], [3], [1, 1], [-1, 2], [4, 10]])
def test_classes_that_are_none_or_fewer_than_two_are_refused(classes):
    with pytest.raises(ValueError) as raised:
        with_classes(load("digits"), classes)
    assert str(raised.value) == (
        "classes must be two or more different ones of 0..9. "
        f"Received: classes={classes}. Choose among those of 'digits'."
    )


# Data that TensorFlow Datasets has prepared


def _missing(name: str, version: str, folder: Path) -> str:
    return (
        f"data_dir must be a folder in which TensorFlow Datasets has prepared {name!r}. "
        f"Received: data_dir='{folder}', where there is no {name}/{version}. Either prepare it, "
        'where there is a network, with `python -c "import tensorflow_datasets; '
        f"tensorflow_datasets.load('{name}:{version}', data_dir='{folder}')\"`, or name the folder "
        "that holds it (data_dir, or the variable TFDS_DATA_DIR); or take 'digits', "
        "which come with scikit-learn."
    )


@pytest.mark.parametrize(("name", "version"), [("mnist", "3.0.1"), ("cifar10", "3.0.2")])
def test_missing_data_get_a_sentence_that_says_both_ways_out(name, version, tmp_path):
    with pytest.raises(FileNotFoundError) as raised:
        load(name, tmp_path)
    assert str(raised.value) == _missing(name, version, tmp_path)
    assert not list(tmp_path.iterdir())


def test_half_prepared_data_count_as_missing(tmp_path):
    (tmp_path / "mnist" / "3.0.1").mkdir(parents=True)
    with pytest.raises(FileNotFoundError) as raised:
        load("mnist", tmp_path)
    assert str(raised.value) == _missing("mnist", "3.0.1", tmp_path)


def test_data_are_looked_for_as_told_then_by_the_variable_then_where_tfds_puts_them(
    tmp_path, monkeypatch
):
    def looked_in(data_dir) -> str:
        with pytest.raises(FileNotFoundError) as raised:
            load("mnist", data_dir)
        return str(raised.value)

    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "variable"))
    assert looked_in(str(tmp_path / "told")) == _missing("mnist", "3.0.1", tmp_path / "told")
    assert looked_in(None) == _missing("mnist", "3.0.1", tmp_path / "variable")
    monkeypatch.delenv("TFDS_DATA_DIR")
    default = tmp_path / "home" / "tensorflow_datasets"
    assert looked_in(None) == _missing("mnist", "3.0.1", default)


@pytest.mark.slow
def test_prepared_data_are_read_as_they_were_written(tmp_path):
    import tensorflow_datasets as tfds

    def examples(first: int, num_images: int) -> tf.data.Dataset:
        index = tf.range(first, first + num_images)
        images = tf.cast(tf.tile(index[:, None, None, None], [1, 28, 28, 1]), tf.uint8)
        labels = tf.cast(index % 10, tf.int64)
        return tf.data.Dataset.from_tensor_slices({"image": images, "label": labels})

    tfds.dataset_builders.store_as_tfds_dataset(
        name="mnist",
        version="3.0.1",
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(28, 28, 1)),
                "label": tfds.features.ClassLabel(num_classes=10),
            }
        ),
        split_datasets={"train": examples(0, 31), "test": examples(100, 7)},
        data_dir=tmp_path,
    )
    dataset = load("mnist", tmp_path)
    assert dataset.num_classes == 10
    assert [len(part.labels) for part in _parts(dataset)] == [16, 15, 7]
    brightness = [part.images[:, 0, 0, 0].tolist() for part in _parts(dataset)]
    assert sorted(brightness[0] + brightness[1]) == list(range(31))
    assert sorted(brightness[2]) == list(range(100, 107))
    for images, labels in _parts(dataset):
        np.testing.assert_array_equal(labels, images[:, 0, 0, 0] % 10)
        assert (images == images[:, :1, :1]).all()


@needs_data("mnist")
@pytest.mark.slow
def test_mnist_is_mnist():
    dataset = load("mnist")
    assert dataset.num_classes == 10
    assert [part.images.shape for part in _parts(dataset)] == [
        (30000, 28, 28, 1),
        (30000, 28, 28, 1),
        (10000, 28, 28, 1),
    ]
    # The number of images of each digit, and the mean and the deviation of the brightness of all
    # training images, as published in many places.
    training = np.concatenate([dataset.train.labels, dataset.validation.labels])
    assert np.bincount(training).tolist() == [
        *(5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
    ]
    assert np.bincount(dataset.test.labels).tolist() == [
        *(980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)
    ]
    images = np.concatenate([dataset.train.images, dataset.validation.images])
    np.testing.assert_allclose(images.mean() / 255, 0.1307, atol=5e-5)
    np.testing.assert_allclose(images.std() / 255, 0.3081, atol=5e-5)


@needs_data("cifar10")
@pytest.mark.slow
def test_cifar10_is_cifar10():
    dataset = load("cifar10")
    assert dataset.num_classes == 10
    assert [part.images.shape for part in _parts(dataset)] == [
        (25000, 32, 32, 3),
        (25000, 32, 32, 3),
        (10000, 32, 32, 3),
    ]
    training = np.concatenate([dataset.train.labels, dataset.validation.labels])
    assert np.bincount(training).tolist() == [5000] * 10
    assert np.bincount(dataset.test.labels).tolist() == [1000] * 10
    # The mean brightness of each channel, as published in many places.
    images = np.concatenate([dataset.train.images, dataset.validation.images])
    means = images.mean(axis=(0, 1, 2)) / 255
    np.testing.assert_allclose(means, [0.4914, 0.4822, 0.4465], atol=5e-5)


@pytest.mark.slow
def test_importing_the_package_imports_neither_tensorflow_datasets_nor_any_data():
    # Keras itself imports scikit-learn where there is one, but not its data sets.
    script = (
        "import sys, l2l_tf, l2l_tf.data.datasets\n"
        "print([m for m in ('tensorflow_datasets', 'sklearn.datasets') if m in sys.modules])"
    )
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert result.stdout.strip() == "[]"


def test_every_data_set_can_be_named():
    assert sorted(DATASETS) == ["cifar10", "digits", "mnist"]
