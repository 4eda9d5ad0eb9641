"""How a rule is judged: unrolls, evaluations, the search for learning rates."""

# Before all else: Keras is then told of what can be loaded (`l2l_tf.startup`).
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
