"""How a rule is learned."""

# Before all else: Keras is then told of what can be loaded (`l2l_tf.startup`).
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
