"""The rule to train, configured by flags."""

from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
from absl import flags

from l2l_tf.delivery import load_rule
from l2l_tf.rules import (
    NTMBFGS,
    NTMLBFGS,
    CoordinatewiseLSTM,
    DistilledRule,
    GeneralRule,
    GlobalAveragingLSTM,
    RNNprop,
    Route,
    RoutedRule,
)
from l2l_tf.rules.memory_rule import HEADS
from l2l_tf.rules.preprocess import PREPROCESSORS
from l2l_tf.rules.routed import parts_of
from l2l_tf.rules.routing import KINDS


class LearnedRule(NamedTuple):
    """A kind of learned rule.

    Attributes:
        make: its class, which takes a seed besides the flags.
        own_flags: the flags that it has, of those that not all kinds have.
        source: where it comes from.
    """

    make: Callable[..., keras.layers.Layer]
    own_flags: tuple[str, ...]
    source: str


_OF_LSTMS = ("units", "output_scale")
_OF_INPUTS = ("preprocessing", "p")
_OF_MEMORIES = (*_OF_LSTMS, *_OF_INPUTS, "num_averaged", "heads", "initial_scale")
_APPENDIX = "Andrychowicz et al. 2016, appendix D, arXiv 1606.04474"
# A trained rule's name ends with the key of its kind.
LEARNED_RULES = {
    "lstm": LearnedRule(
        CoordinatewiseLSTM,
        (*_OF_LSTMS, *_OF_INPUTS),
        "Andrychowicz et al. 2016, arXiv 1606.04474",
    ),
    "lstm_gac": LearnedRule(
        GlobalAveragingLSTM,
        (*_OF_LSTMS, *_OF_INPUTS, "num_averaged"),
        _APPENDIX,
    ),
    "ntm_bfgs": LearnedRule(NTMBFGS, _OF_MEMORIES, _APPENDIX),
    "ntm_lbfgs": LearnedRule(NTMLBFGS, (*_OF_MEMORIES, "history_size"), _APPENDIX),
    "rnnprop": LearnedRule(RNNprop, _OF_LSTMS, "Lv, Jiang and Li 2017, arXiv 1703.03633"),
    "distilled": LearnedRule(
        DistilledRule,
        ("output_scale",),
        "our own, after Jacobs 1988 (delta-bar-delta) and Riedmiller and Braun 1993 (Rprop)",
    ),
    "general": LearnedRule(
        GeneralRule,
        ("num_hidden",),
        "our own, with the directions of Adam (Kingma and Ba 2014, arXiv 1412.6980) and Muon "
        "(K. Jordan 2024)",
    ),
}

flags.DEFINE_enum("learned_rule", "lstm", sorted(LEARNED_RULES), "Kind of rule to train.")
flags.DEFINE_list(
    "parts",
    [],
    "Kinds of variables (conv, dense, vector) that each get a part of the rule with weights of "
    "its own, beside one part for all other variables. By default, one rule for all variables.",
)
flags.DEFINE_list("units", ["20", "20"], "Number of units in each LSTM layer of the rule.")
flags.DEFINE_integer("num_hidden", 16, "general: units of its controller's hidden layer.", 1)
flags.DEFINE_float("output_scale", 0.1, "Factor from the rule's output to a delta.")
flags.DEFINE_enum(
    "preprocessing",
    "none",
    sorted(PREPROCESSORS),
    "lstm, lstm_gac, ntm_bfgs, ntm_lbfgs: preprocessing of what the rule's LSTM sees.",
)
flags.DEFINE_float(
    "p", 10, "lstm, lstm_gac, ntm_bfgs, ntm_lbfgs: constant of log-and-sign preprocessing."
)
flags.DEFINE_integer(
    "num_averaged",
    5,
    "lstm_gac, ntm_bfgs, ntm_lbfgs: units of each LSTM layer that are averaged over coordinates.",
    0,
)
flags.DEFINE_enum(
    "heads",
    "hand_set",
    HEADS,
    "ntm_bfgs, ntm_lbfgs: whether heads begin as those of BFGS or L-BFGS, or at random.",
)
flags.DEFINE_float(
    "initial_scale",
    0.01,
    "ntm_bfgs, ntm_lbfgs: the inverse Hessian before the first step, times the identity.",
)
flags.DEFINE_integer("history_size", 10, "ntm_lbfgs: the number of writes that are kept.", 1)

FLAGS = flags.FLAGS


def chosen_rule() -> LearnedRule:
    """Returns the rule that `--learned_rule` names.

    Raises:
        ValueError: a flag of another rule is set.
    """
    chosen = LEARNED_RULES[FLAGS.learned_rule]
    owners: dict[str, list[str]] = {}
    for name, rule in LEARNED_RULES.items():
        for flag in rule.own_flags:
            owners.setdefault(flag, []).append(name)
    for flag, names in owners.items():
        # Do not ask whether the flag is present: a run's file of flags holds all of them.
        if flag not in chosen.own_flags and FLAGS[flag].value != FLAGS[flag].default:
            which = f"not {names[0]}, which alone has it"
            if len(names) > 1:
                which = f"none of {', '.join(names)}, which alone have it"
            raise ValueError(
                f"--{flag} must be left out where --learned_rule is {which}. "
                f"Received: --{flag}={FLAGS[flag].value} with "
                f"--learned_rule={FLAGS.learned_rule}. Leave one of the two out."
            )
    return chosen


def make_learned_rule() -> keras.layers.Layer:
    """Returns a new rule, configured by flags, with the weights of `--initial_rule` if given.

    Raises:
        FileNotFoundError: `--initial_rule` does not exist.
        ValueError: a flag of another rule is set, one is out of range, `--parts` are unknown, or
            `--initial_rule` is a rule of another kind than the other flags describe.
    """
    rule = _make_new_rule()
    if FLAGS.initial_rule is not None:
        initial = load_rule(FLAGS.initial_rule)
        if _kind(initial) != _kind(rule):
            raise ValueError(
                "--initial_rule must be a rule of the kind that is trained. Received: "
                f"--initial_rule={FLAGS.initial_rule}, which is {_kind(initial)}, to train "
                f"{_kind(rule)}. Give its settings as flags."
            )
        rule.set_weights(initial.get_weights())
    return rule


def _kind(rule: keras.layers.Layer) -> str:
    """Returns a rule's configuration without its weights and their origin."""
    if named := parts_of(rule):
        parts = [f"{name}: {_kind(part)}" for name, part in named.items()]
        return f"{type(rule).__name__}({', '.join(parts)})"
    own = {"name", "seed", "output_stddev", "dtype", "trainable"}
    settings = [f"{key}={value!r}" for key, value in rule.get_config().items() if key not in own]
    return f"{type(rule).__name__}({', '.join(settings)})"


def _make_new_rule() -> keras.layers.Layer:
    chosen = chosen_rule()
    try:
        units = [int(units) for units in FLAGS.units]
    except ValueError as error:
        raise ValueError(
            "--units must be integers, one for each LSTM layer. "
            f"Received: --units={','.join(FLAGS.units)}. Give, say, --units=20,20."
        ) from error
    own = {flag: FLAGS[flag].value for flag in chosen.own_flags}
    if "units" in own:
        own["units"] = units

    def make(seed: int) -> keras.layers.Layer:
        return chosen.make(seed=seed, **own)

    kinds = FLAGS.parts
    if not set(kinds) <= KINDS.keys() or len(set(kinds)) < len(kinds):
        raise ValueError(
            f"--parts must be different ones of {sorted(KINDS)}. "
            f"Received: --parts={','.join(kinds)}. Leave it out for one rule for all variables."
        )
    other = make(FLAGS.seed)
    if not kinds:
        return other
    seeds = np.random.SeedSequence(FLAGS.seed).generate_state(len(kinds))
    routes = [Route(make(int(seed)), kind) for kind, seed in zip(kinds, seeds, strict=True)]
    return RoutedRule(other, routes)
