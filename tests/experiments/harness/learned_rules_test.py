"""Rules as flags describe them."""

import pytest
from absl.testing import flagsaver

from experiments.harness.common import FLAGS
from experiments.harness.learned_rules import LEARNED_RULES, make_learned_rule
from l2l_tf.rules import NTMBFGS, NTMLBFGS, GlobalAveragingLSTM

INPUTS = {"preprocessing": "log_and_sign", "p": 4.0}
MEMORY = {"num_averaged": 2, "heads": "random", "initial_scale": 0.3}


@pytest.fixture(autouse=True)
def _flags():
    if not FLAGS.is_parsed():
        FLAGS(["test", "--output_dir=unused"])


def _made(learned_rule: str, **flags):
    with flagsaver.flagsaver(learned_rule=learned_rule, units=["4"], seed=1, **flags):
        return make_learned_rule()


@pytest.mark.parametrize("name", LEARNED_RULES)
def test_every_kind_is_made_from_the_defaults(name):
    with flagsaver.flagsaver(learned_rule=name):
        assert isinstance(make_learned_rule(), LEARNED_RULES[name].make)


@pytest.mark.parametrize(
    ("name", "kind", "settings"),
    [
        ("lstm_gac", GlobalAveragingLSTM, {**INPUTS, "num_averaged": 3}),
        ("ntm_bfgs", NTMBFGS, {**INPUTS, **MEMORY}),
        ("ntm_lbfgs", NTMLBFGS, {**INPUTS, **MEMORY, "history_size": 3}),
    ],
)
def test_rules_of_appendix_d_have_the_settings_of_their_flags(name, kind, settings):
    rule = _made(name, output_scale=0.5, **settings)
    assert type(rule) is kind
    expected = {**settings, "units": [4], "output_scale": 0.5, "seed": 1}
    assert expected.items() <= rule.get_config().items()


@pytest.mark.parametrize(
    ("name", "flags", "flag"),
    [
        ("lstm", {"num_averaged": 2}, "num_averaged"),
        ("lstm_gac", {"heads": "random"}, "heads"),
        ("ntm_bfgs", {"history_size": 3}, "history_size"),
    ],
)
def test_a_flag_of_another_kind_is_refused(name, flags, flag):
    with pytest.raises(ValueError, match=f"^--{flag} must be left out where --learned_rule is"):
        _made(name, **flags)
