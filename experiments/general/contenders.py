"""The contenders: tuned optimizers of Keras, and learned rules that nobody tunes."""

from collections.abc import Callable
from typing import NamedTuple

import keras
from keras import optimizers

import l2l_tf
from experiments.general.tasks import short_hash
from l2l_tf.delivery import find_rule
from l2l_tf.files import strict_json
from l2l_tf.rules import GeneralRule

# Warm-up takes this share of the horizon.
WARMUP_SHARE = 0.05
# What is taken of each weight at a step, over the rate. Lion's best rates are about a tenth of the
# others', so that with ten times as much its decay is the same.
WEIGHT_DECAY = 0.01
LION_WEIGHT_DECAY = 0.1


class Baseline(NamedTuple):
    """An optimizer of Keras whose rate is to be tuned.

    Attributes:
        make: returns it, given a rate and the horizon.
        middle: where the grid of rates has its middle, in half decades: 10^(middle / 2).
    """

    make: Callable[[float, int], keras.optimizers.Optimizer]
    middle: int


def warmup_and_cosine(rate: float, num_steps: int) -> optimizers.schedules.LearningRateSchedule:
    """Returns a schedule that rises linearly to a rate and falls to 0 along a cosine."""
    num_warmup = _num_warmup(num_steps)
    return optimizers.schedules.CosineDecay(
        # With 0, the first step would be none.
        initial_learning_rate=rate / num_warmup,
        decay_steps=max(1, num_steps - num_warmup),
        warmup_target=rate,
        warmup_steps=num_warmup,
    )


def _num_warmup(num_steps: int) -> int:
    return max(1, round(WARMUP_SHARE * num_steps))


def _nesterov(momentum: float) -> Callable[[float, int], keras.optimizers.Optimizer]:
    return lambda rate, num_steps: optimizers.SGD(
        warmup_and_cosine(rate, num_steps), momentum=momentum, nesterov=True
    )


BASELINES = {
    "adam": Baseline(lambda rate, num_steps: optimizers.Adam(rate), -5),
    "adamw_cosine": Baseline(
        lambda rate, num_steps: optimizers.AdamW(
            warmup_and_cosine(rate, num_steps), weight_decay=WEIGHT_DECAY
        ),
        -5,
    ),
    "nag_cosine": Baseline(_nesterov(0.9), -2),
    "nag95_cosine": Baseline(_nesterov(0.95), -2),
    # Matrices alone are orthogonalised. Embeddings, outputs (as Keras advises), kernels of
    # convolutions and of attention, and vectors get AdamW's steps at the same rate.
    "muon_cosine": Baseline(
        lambda rate, num_steps: optimizers.Muon(
            warmup_and_cosine(rate, num_steps),
            weight_decay=WEIGHT_DECAY,
            adam_weight_decay=WEIGHT_DECAY,
            exclude_layers=["output"],
        ),
        -4,
    ),
    "lion_cosine": Baseline(
        lambda rate, num_steps: optimizers.Lion(
            warmup_and_cosine(rate, num_steps), weight_decay=LION_WEIGHT_DECAY
        ),
        -7,
    ),
    # Keras takes its weight decay from other weights than the paper does, so it has none. The paper
    # evaluates an average of weights, for which Keras 3.15 has no method: as after `fit`, the
    # weights that are evaluated are those that are trained.
    "schedule_free_adamw": Baseline(
        lambda rate, num_steps: optimizers.ScheduleFreeAdamW(
            rate, warmup_steps=_num_warmup(num_steps)
        ),
        -4,
    ),
    "adam_cosine": Baseline(
        lambda rate, num_steps: optimizers.Adam(warmup_and_cosine(rate, num_steps)), -5
    ),
}
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
