"""Learned optimizers for TensorFlow and Keras.

    import l2l_tf

    model.compile(optimizer=l2l_tf.load("mnist_rnnprop"), loss="sparse_categorical_crossentropy")

    rule = l2l_tf.load_rule("mnist_rnnprop")
    state = rule.initial_state(num_coordinates)
    delta, state = rule(gradient, state)

The subpackages stand in the order in which they build on each other: `problems` (what is
optimised), `rules` (what updates), `training` (how a rule is learned and judged), `delivery` (how a
rule is saved, loaded and used), `reporting` (how results are read).
"""

from l2l_tf.startup import import_tensorflow

import_tensorflow()

from l2l_tf.delivery import (  # noqa: E402
    LearnedOptimizer,
    export_rule,
    list_rules,
    load,
    load_rule,
)

__version__ = "0.1.0"

__all__ = ["LearnedOptimizer", "export_rule", "list_rules", "load", "load_rule"]
