"""Meta-gradient estimators."""

from l2l_tf.training.estimators.backpropagation import TruncatedBackpropagation
from l2l_tf.training.estimators.estimator import Estimate, GradientEstimator, Run
from l2l_tf.training.estimators.evolution import EvolutionStrategies

__all__ = [
    "Estimate",
    "EvolutionStrategies",
    "GradientEstimator",
    "Run",
    "TruncatedBackpropagation",
]
