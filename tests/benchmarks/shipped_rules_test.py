import re
import shutil

import pytest

from benchmarks import shipped_rules
from l2l_tf.delivery.export import load_card
from l2l_tf.delivery.pretrained import list_rules
from tests.forks import run_program

# Runs the benchmark on a copy of the rule, whose card it writes.
PROGRAM = """
import sys
from pathlib import Path
from absl import app
from benchmarks import shipped_rules
from l2l_tf.delivery.pretrained import PretrainedRule

copy = Path(sys.argv.pop(1))
shipped_rules.list_rules = lambda: {"mnist_rnnprop": PretrainedRule(copy, None)}
app.run(shipped_rules.main)
"""


@pytest.mark.slow
def test_a_rule_is_timed_beside_adam_and_its_card_says_what_it_costs(tmp_path):
    copy = tmp_path / "mnist_rnnprop"
    shutil.copytree(list_rules()["mnist_rnnprop"].path, copy)
    before = load_card(copy)
    ended = run_program(PROGRAM, str(copy), "--rounds=2", "--update_cards")
    assert ended.status == 0, ended.errors
    assert re.search(r"^mnist_rnnprop +[0-9.]+ +[0-9.]+ +41\.00$", ended.output, re.MULTILINE)
    card = load_card(copy)
    cost = card.pop("cost")
    before.pop("cost", None)
    assert card == before
    # RNNprop keeps 82 numbers for each parameter, where Adam keeps two.
    assert cost["state_over_adam"] == 41.0
    assert (cost["network"], cost["num_parameters"], cost["batch_size"]) == (
        "cifar_conv",
        89834,
        64,
    )
    # Far off, one of them would not have done its step.
    assert 1 < cost["step_over_adam"] < 50
    assert cost["command"] == "python -m benchmarks.shipped_rules --rounds=2 --update_cards"


def test_every_rule_of_the_package_has_been_timed_in_the_same_way():
    kinds = set()
    for rule in list_rules().values():
        cost = load_card(rule.path)["cost"]
        kinds.add((cost["network"], cost["batch_size"], cost["threads"], cost["num_rounds"]))
    assert len(kinds) == 1
    assert shipped_rules.NETWORK in kinds.pop()
