"""Optimizers of Keras as people use them, with schedules, whose rate is to be tuned."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
from keras import optimizers

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


def muon_cosine(
    rate: float, num_steps: int, outputs: Sequence[str] = ("output",)
) -> keras.optimizers.Optimizer:
    """Returns Keras's Muon with a schedule.

    Args:
        rate: its largest rate.
        num_steps: the horizon.
        outputs: parts of the names of layers that compute outputs, which are not orthogonalised.
    """
    return optimizers.Muon(
        warmup_and_cosine(rate, num_steps),
        weight_decay=WEIGHT_DECAY,
        adam_weight_decay=WEIGHT_DECAY,
        exclude_layers=list(outputs),
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
    "muon_cosine": Baseline(muon_cosine, -4),
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
