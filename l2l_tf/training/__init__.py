"""Meta-training of learned rules."""

# Imported first, so that this package is then registered with Keras (`l2l_tf.startup`).
import keras  # noqa: F401

from l2l_tf.training.callbacks import MetaProgressBar, MetaTensorBoard
from l2l_tf.training.estimators import (
    EvolutionStrategies,
    GradientEstimator,
    TruncatedBackpropagation,
)
from l2l_tf.training.meta_gradient import meta_gradient
from l2l_tf.training.meta_settings import MetaTrainingSettings
from l2l_tf.training.meta_trainer import MetaTrainer

__all__ = [
    "EvolutionStrategies",
    "GradientEstimator",
    "MetaProgressBar",
    "MetaTensorBoard",
    "MetaTrainer",
    "MetaTrainingSettings",
    "TruncatedBackpropagation",
    "meta_gradient",
]
