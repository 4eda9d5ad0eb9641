"""Learned optimizers for TensorFlow and Keras.

    import l2l_tf

    model.compile(optimizer=l2l_tf.load("mnist_rnnprop"), loss="sparse_categorical_crossentropy")

    rule = l2l_tf.load_rule("mnist_rnnprop")
    state = rule.initial_state(num_coordinates)
    delta, state = rule(gradient, state)

The subpackages build on each other in this order: `data` (data sets and photos), `problems`
(functions to optimise), `rules` (update rules), `evaluation` (comparing and tuning rules),
`training` (meta-training), `delivery` (saving, loading and using rules), `analysis` (what a rule
has learned), `reporting` (tables and figures). They and TensorFlow are imported on first use.
Importing Keras imports them too, so that Keras can load files that refer to them.
"""

import importlib
from typing import TYPE_CHECKING, Any

from l2l_tf.startup import prepare_imports

if TYPE_CHECKING:
    from l2l_tf.delivery import (
        GuardReport,
        LearnedOptimizer,
        LossGuard,
        NumStepsFromFit,
        export_rule,
        list_rules,
        load,
        load_rule,
    )
    from l2l_tf.evaluation import evaluate, tune
    from l2l_tf.training import MetaTrainer, MetaTrainingSettings

__version__ = "0.2.0"

__all__ = [
    "GuardReport",
    "LearnedOptimizer",
    "LossGuard",
    "MetaTrainer",
    "MetaTrainingSettings",
    "NumStepsFromFit",
    "evaluate",
    "export_rule",
    "list_rules",
    "load",
    "load_rule",
    "tune",
]

# The subpackage that defines each name.
_HOMES = {
    "GuardReport": "l2l_tf.delivery",
    "LearnedOptimizer": "l2l_tf.delivery",
    "LossGuard": "l2l_tf.delivery",
    "MetaTrainer": "l2l_tf.training",
    "MetaTrainingSettings": "l2l_tf.training",
    "NumStepsFromFit": "l2l_tf.delivery",
    "evaluate": "l2l_tf.evaluation",
    "export_rule": "l2l_tf.delivery",
    "list_rules": "l2l_tf.delivery",
    "load": "l2l_tf.delivery",
    "load_rule": "l2l_tf.delivery",
    "tune": "l2l_tf.evaluation",
}
_SUBPACKAGES = (
    "analysis",
    "data",
    "delivery",
    "evaluation",
    "problems",
    "reporting",
    "rules",
    "training",
)

prepare_imports()


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return importlib.import_module(f"l2l_tf.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'l2l_tf' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_SUBPACKAGES, "__version__"})
