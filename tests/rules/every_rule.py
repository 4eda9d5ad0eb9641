"""A small instance of every rule, for the conformance suite."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from l2l_tf.rules import (
    BASELINES,
    NAG,
    NTMBFGS,
    NTMLBFGS,
    SGD,
    AdamW,
    CoordinatewiseLSTM,
    DistilledRule,
    GeneralRule,
    GlobalAveragingLSTM,
    Guarded,
    Muon,
    NAdam,
    RNNprop,
    Route,
    RoutedRule,
)
from tests.rules.tensor_rule import TensorRule


def _lstm(seed: int, dtype: str) -> CoordinatewiseLSTM:
    return CoordinatewiseLSTM((4, 3), output_stddev=0.3, seed=seed, dtype=dtype)


def _general(seed: int, dtype: str) -> GeneralRule:
    """Returns a rule whose controller does something, unlike that of an untrained one."""
    rule = GeneralRule(num_hidden=3, seed=seed, dtype=dtype)
    draw = np.random.default_rng(seed)
    rule.set_weights([one + 0.1 * draw.standard_normal(one.shape) for one in rule.get_weights()])
    return rule


def _cosine() -> keras.optimizers.schedules.LearningRateSchedule:
    return keras.optimizers.schedules.CosineDecay(1.0, 50)


_OF_MEMORY = {"initial_scale": 0.03, "units": (4,), "num_averaged": 2, "output_stddev": 0.1}

# Learned rules of a seed and a dtype.
LEARNED: dict[str, Callable[[int, str], Any]] = {
    "lstm": _lstm,
    "log_and_sign_lstm": lambda seed, dtype: CoordinatewiseLSTM(
        (4,), "log_and_sign", p=5.0, output_stddev=0.3, seed=seed, dtype=dtype
    ),
    "rnnprop": lambda seed, dtype: RNNprop(
        (4,), input_units=3, output_stddev=0.3, epsilon=1e-3, seed=seed, dtype=dtype
    ),
    "distilled": lambda seed, dtype: DistilledRule(epsilon=1e-3, dtype=dtype),
    "global_averaging_lstm": lambda seed, dtype: GlobalAveragingLSTM(
        (4, 3), 2, output_stddev=0.3, seed=seed, dtype=dtype
    ),
    "ntm_bfgs": lambda seed, dtype: NTMBFGS(seed=seed, dtype=dtype, **_OF_MEMORY),
    "ntm_lbfgs": lambda seed, dtype: NTMLBFGS(2, seed=seed, dtype=dtype, **_OF_MEMORY),
    "routed": lambda seed, dtype: RoutedRule(
        _lstm(seed, dtype), [Route(_lstm(seed + 1, dtype), name="kernel|parameter_0|pair")]
    ),
    "tensor": lambda seed, dtype: TensorRule(dtype=dtype),
    "general": _general,
    "routed_to_tensors": lambda seed, dtype: RoutedRule(
        _lstm(seed, dtype), [Route(TensorRule(dtype=dtype), name="kernel|parameter_0|pair")]
    ),
    "guarded": lambda seed, dtype: Guarded(
        _lstm(seed, dtype), SGD(0.05), "budget", theta=0.5, budget=0.1
    ),
}
HAND_DESIGNED: dict[str, Callable[[], Any]] = {
    name: lambda make=make: make(0.05) for name, make in BASELINES.items()
} | {
    "nag_with_schedule": lambda: NAG(0.05, schedule=_cosine()),
    "adamw": lambda: AdamW(0.05, schedule=_cosine()),
    "nadam": lambda: NAdam(0.05),
    "muon": lambda: Muon(0.05),
    "guarded_sgd": lambda: Guarded(SGD(0.3, momentum=0.9), AdamW(0.05), theta=2.0),
}


def make(name: str, seed: int = 0, dtype: str = "float32") -> Any:
    """Returns a rule by its name; hand-designed ones have no seed and no dtype."""
    return LEARNED[name](seed, dtype) if name in LEARNED else HAND_DESIGNED[name]()


EVERY_RULE = [*LEARNED, *HAND_DESIGNED]
