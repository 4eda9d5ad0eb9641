"""Problems: functions to optimise, and the seeds that name their tasks."""

# Imported first, so that this package is then registered with Keras (`l2l_tf.startup`).
import keras  # noqa: F401

from l2l_tf.problems.accuracy import accuracy
from l2l_tf.problems.augmented import RandomlyScaled, WithConvexTerm, WithRandomGains
from l2l_tf.problems.classification import ClassificationProblem
from l2l_tf.problems.feature_networks import feature_model
from l2l_tf.problems.mixture import MixtureProblem
from l2l_tf.problems.networks import conv_net, mlp, resnet20
from l2l_tf.problems.problem import Problem, StackedProblem, WrappedProblem
from l2l_tf.problems.quadratic import Quadratic
from l2l_tf.problems.seeds import task_seeds
from l2l_tf.problems.style_transfer import StyleTransferProblem
from l2l_tf.problems.supervised import SupervisedProblem

__all__ = [
    "ClassificationProblem",
    "MixtureProblem",
    "Problem",
    "Quadratic",
    "RandomlyScaled",
    "StackedProblem",
    "StyleTransferProblem",
    "SupervisedProblem",
    "WithConvexTerm",
    "WithRandomGains",
    "WrappedProblem",
    "accuracy",
    "conv_net",
    "feature_model",
    "mlp",
    "resnet20",
    "task_seeds",
]
