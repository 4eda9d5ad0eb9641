"""The hand-designed rules that learned ones are compared with, by name."""

from collections.abc import Callable

from experiments.harness.common import FLAGS
from experiments.harness.keras_optimizers import WEIGHT_DECAY, warmup_and_cosine
from l2l_tf.rules import BASELINES, NAG, SGD, AdamW, Muon, Rule
from l2l_tf.rules.hand_designed import LearningRate

# The momentum of those in BASELINES that have one.
USUAL_MOMENTUM = 0.9
_IS_NESTEROV = {"momentum": False, "nag": True}
_MOMENTUM = ", momentum "
# With a warm-up and a cosine decay. Muon orthogonalises every matrix, that of the output included.
_SCHEDULED = {
    "adamw_cosine": lambda rate, schedule: AdamW(rate, WEIGHT_DECAY, schedule=schedule),
    "muon_cosine": lambda rate, schedule: Muon(rate, WEIGHT_DECAY, schedule=schedule),
    "nag_cosine": lambda rate, schedule: NAG(rate, schedule=schedule),
}
BASELINE_NAMES = sorted([*BASELINES, *_SCHEDULED])


def with_momentum(baseline: str, momentum: float) -> str:
    """Returns the name of a baseline with this momentum. One without momentum keeps its name."""
    if baseline not in _IS_NESTEROV or momentum == USUAL_MOMENTUM:
        return baseline
    return f"{baseline}{_MOMENTUM}{momentum}"


def kind_and_momentum(name: str) -> tuple[str, float]:
    """Returns a baseline's name without its momentum, and the momentum: the usual one if none."""
    kind, _, momentum = name.partition(_MOMENTUM)
    return kind, float(momentum or USUAL_MOMENTUM)


def make_baseline(name: str) -> Callable[[LearningRate], Rule]:
    """Returns a baseline as a function of its rate. Schedules are for the horizon `--num_steps`.

    Args:
        name: one of `BASELINE_NAMES`, or the result of `with_momentum`.
    """
    kind, momentum = kind_and_momentum(name)
    if kind != name:
        return lambda rate: SGD(rate, momentum=momentum, nesterov=_IS_NESTEROV[kind])
    if kind in _SCHEDULED:
        schedule = warmup_and_cosine(1.0, FLAGS.num_steps)
        return lambda rate: _SCHEDULED[kind](rate, schedule)
    return BASELINES[kind]
