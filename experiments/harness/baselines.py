"""The hand-designed rules that learned ones are compared with, by name."""

from collections.abc import Callable
from typing import Any

from experiments.harness.common import FLAGS
from experiments.harness.keras_optimizers import WEIGHT_DECAY, warmup_and_cosine
from l2l_tf.rules import BASELINES, NAG, SGD, AdamW, Muon, Rule
from l2l_tf.rules.hand_designed import LearningRate

# The baselines whose momentum can be chosen.
_OF_MOMENTUM = ("momentum", "nag", "nag_cosine")
# Their momentum where none is chosen.
USUAL_MOMENTUM = 0.9
_MOMENTUM = ", momentum "
# With a warm-up and a cosine decay. Muon orthogonalises every matrix, that of the output included.
_SCHEDULED: dict[str, tuple[Callable[..., Rule], dict[str, Any]]] = {
    "adamw_cosine": (AdamW, {"weight_decay": WEIGHT_DECAY}),
    "muon_cosine": (Muon, {"weight_decay": WEIGHT_DECAY}),
    "nag_cosine": (NAG, {}),
}
BASELINE_NAMES = sorted([*BASELINES, *_SCHEDULED])


def with_momentum(baseline: str, momentum: float) -> str:
    """Returns the name of a baseline with this momentum. One without momentum keeps its name."""
    if baseline not in _OF_MOMENTUM or momentum == USUAL_MOMENTUM:
        return baseline
    return f"{baseline}{_MOMENTUM}{momentum}"


def kind_and_momentum(name: str) -> tuple[str, float]:
    """Returns a baseline's name without its momentum, and the momentum: the usual one if none."""
    kind, _, momentum = name.partition(_MOMENTUM)
    return kind, float(momentum or USUAL_MOMENTUM)


def has_schedule(name: str) -> bool:
    """Returns whether a baseline has a warm-up and a decay, and not one rate for all steps."""
    return kind_and_momentum(name)[0] in _SCHEDULED


def make_baseline(name: str) -> Callable[[LearningRate], Rule]:
    """Returns a baseline as a function of its rate. Schedules are for the horizon `--num_steps`.

    Args:
        name: one of `BASELINE_NAMES`, or the result of `with_momentum`.
    """
    kind, momentum = kind_and_momentum(name)
    if kind in _SCHEDULED:
        make, options = _SCHEDULED[kind]
        if kind in _OF_MOMENTUM:
            options = {**options, "momentum": momentum}
        schedule = warmup_and_cosine(1.0, FLAGS.num_steps)
        return lambda rate: make(rate, **options, schedule=schedule)
    if kind in _OF_MOMENTUM:
        return lambda rate: SGD(rate, momentum=momentum, nesterov=kind == "nag")
    return BASELINES[kind]
