"""Evaluation: unrolls, comparing rules, searching for learning rates."""

# Imported first, so that this package is then registered with Keras (`l2l_tf.startup`).
import keras  # noqa: F401

from l2l_tf.evaluation.evaluation import METRICS, Evaluation, evaluate
from l2l_tf.evaluation.tuning import Tuning, search, tune, tune_by_halving, tune_from
from l2l_tf.evaluation.unroll import bind, start, unroll

__all__ = [
    "METRICS",
    "Evaluation",
    "Tuning",
    "bind",
    "evaluate",
    "search",
    "start",
    "tune",
    "tune_by_halving",
    "tune_from",
    "unroll",
]
