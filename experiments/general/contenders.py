"""The contenders: tuned optimizers of Keras, and learned rules that nobody tunes."""

from collections.abc import Callable

import keras
from keras import optimizers

import l2l_tf
from experiments.general.tasks import short_hash
from experiments.harness.keras_optimizers import BASELINES
from l2l_tf.delivery import find_rule
from l2l_tf.files import strict_json
from l2l_tf.rules import GeneralRule

# Those that run unless others are named: adam_cosine is too close to adamw_cosine.
DEFAULT_BASELINES = [name for name in BASELINES if name != "adam_cosine"]
# Learned rules before anything is learned, by name. They show what learning adds.
UNTRAINED: dict[str, Callable[[], keras.layers.Layer]] = {
    "general_untrained": lambda: GeneralRule(seed=0),
}
# The optimizers that people take first.
FIRST_THREE = ("adam", "adamw_cosine", "nag_cosine")


def check_rule(rule: str) -> None:
    """Raises FileNotFoundError unless `untuned_optimizer` knows a rule."""
    if rule not in UNTRAINED:
        find_rule(rule)


def untuned_optimizer(rule: str, num_steps: int) -> keras.optimizers.Optimizer:
    """Returns the optimizer of a rule for a run of `num_steps` steps.

    Args:
        rule: a key of `UNTRAINED`, or the name or the folder of a saved rule.
        num_steps: the number of steps that it will take.
    """
    if rule in UNTRAINED:
        return l2l_tf.LearnedOptimizer(UNTRAINED[rule](), num_steps=num_steps)
    return l2l_tf.load(rule, num_steps=num_steps)


def fingerprint(optimizer: keras.optimizers.Optimizer) -> str:
    """Returns a short text that other settings of an optimizer, or other weights, would change."""
    definition = optimizers.serialize(optimizer)
    del definition["config"]["name"]
    return short_hash(strict_json(definition))
