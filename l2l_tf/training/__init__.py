"""How a rule is learned and judged."""

# Before all else: Keras is then told of what can be loaded (`l2l_tf.startup`).
import keras  # noqa: F401

from l2l_tf.training.delta_factors import tune_deltas
from l2l_tf.training.estimators import (
    EvolutionStrategies,
    GradientEstimator,
    TruncatedBackpropagation,
)
from l2l_tf.training.evaluation import Evaluation, evaluate
from l2l_tf.training.meta_gradient import meta_gradient
from l2l_tf.training.meta_settings import MetaTrainingSettings
from l2l_tf.training.meta_trainer import MetaTrainer
from l2l_tf.training.nesterov_rates import add_nesterov
from l2l_tf.training.tuning import Tuning, tune, tune_by_halving, tune_from
from l2l_tf.training.unroll import bind, start, unroll

__all__ = [
    "Evaluation",
    "EvolutionStrategies",
    "GradientEstimator",
    "MetaTrainer",
    "MetaTrainingSettings",
    "TruncatedBackpropagation",
    "Tuning",
    "add_nesterov",
    "bind",
    "evaluate",
    "meta_gradient",
    "start",
    "tune",
    "tune_by_halving",
    "tune_deltas",
    "tune_from",
    "unroll",
]
