"""Learned optimizers for TensorFlow and Keras.

    import l2l_tf

    model.compile(optimizer=l2l_tf.load("mnist_rnnprop"), loss="sparse_categorical_crossentropy")

    rule = l2l_tf.load_rule("mnist_rnnprop")
    state = rule.initial_state(num_coordinates)
    delta, state = rule(gradient, state)

The subpackages stand in the order in which they build on each other: `problems` (what is
optimised), `rules` (what updates), `training` (how a rule is learned and judged), `delivery` (how a
rule is saved, loaded and used), `reporting` (how results are read). They, and TensorFlow, are
imported when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from l2l_tf.startup import quiet_tensorflow

if TYPE_CHECKING:
    from l2l_tf.delivery import LearnedOptimizer, export_rule, list_rules, load, load_rule

__version__ = "0.1.0"

__all__ = ["LearnedOptimizer", "export_rule", "list_rules", "load", "load_rule"]

_SUBPACKAGES = ("delivery", "problems", "reporting", "rules", "training")

quiet_tensorflow()


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return importlib.import_module(f"l2l_tf.{name}")
    if name in __all__:
        return getattr(importlib.import_module("l2l_tf.delivery"), name)
    raise AttributeError(f"module 'l2l_tf' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, *_SUBPACKAGES])
