"""Image classification problems, configured by flags."""

import keras
from absl import flags

from experiments.harness.path_flags import define_path
from l2l_tf.data import datasets
from l2l_tf.problems import ClassificationProblem

flags.DEFINE_enum(
    "dataset",
    "mnist",
    sorted(datasets.DATASETS),
    "Data set of images; digits needs no download.",
)
define_path(
    "data_dir",
    None,
    "Folder in which TensorFlow Datasets has prepared the images. By default, TFDS_DATA_DIR.",
)
flags.DEFINE_integer(
    "downsampling",
    1,
    "Side of the squares of pixels that are averaged to one pixel, for cheaper tasks at the "
    "start of training.",
    1,
)
flags.DEFINE_integer("batch_size", 128, "Number of images in a minibatch.", 1)

FLAGS = flags.FLAGS


def load_dataset() -> datasets.Dataset:
    """Returns the data set that `--dataset` names.

    Raises:
        FileNotFoundError: the data are not in the expected folder.
        ValueError: a folder is named for data that need none, or `--downsampling` does not divide
            the images' sides.
    """
    if FLAGS.dataset == "digits" and FLAGS.data_dir is not None:
        raise ValueError(
            "--data_dir must go with images that TensorFlow Datasets prepares: digits come with "
            "scikit-learn. "
            f"Received: --data_dir={FLAGS.data_dir}. Leave one of the two out."
        )
    dataset = datasets.load(FLAGS.dataset, FLAGS.data_dir)
    if any(side % FLAGS.downsampling for side in dataset.image_shape[:2]):
        raise ValueError(
            "--downsampling must divide the sides of the images. "
            f"Received: --downsampling={FLAGS.downsampling} with images of "
            f"{' x '.join(map(str, dataset.image_shape[:2]))} pixels. Leave it out, or choose a "
            "divisor."
        )
    return datasets.downsampled(dataset, FLAGS.downsampling)


def classification(
    model: keras.Model,
    dataset: datasets.Dataset,
    examples: datasets.Examples,
    initial_stddev: float | None,
) -> ClassificationProblem:
    """Returns the problem of a model on one part of a data set, named after both."""
    return ClassificationProblem(
        model,
        *examples,
        batch_size=FLAGS.batch_size,
        initial_stddev=initial_stddev,
        name=f"{dataset.name}_{model.name}",
    )
