import json
from pathlib import Path

import pytest

from experiments import rules_table
from l2l_tf.delivery.export import load_card
from l2l_tf.delivery.pretrained import PretrainedRule, list_rules
from l2l_tf.delivery.use import RuleUse

ROOT = Path(__file__).resolve().parents[2]


def test_the_readme_has_the_table_of_the_cards():
    assert f"\n{rules_table.table()}" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", list(list_rules()))
def test_cards_say_what_the_files_say_from_which_rules_are_made_again(name):
    entry = json.loads((ROOT / "experiments" / "configs" / f"{name}.use.json").read_text())
    assert load_card(ROOT / "saved_models" / name)["use"] == entry
    flags = (ROOT / "experiments" / "configs" / f"{name}.flags").read_text()
    assert f"--use=experiments/configs/{name}.use.json\n" in flags


def test_general_rules_stand_first(monkeypatch):
    rules = {
        "pixels": RuleUse("pixels", False, None, 128),
        "narrow": RuleUse("one network", True, 0.01, 100, ("relu", "tanh"), "wide"),
        "wide": RuleUse("networks", True, None, (200, 2000)),
    }
    listed = {name: PretrainedRule(Path(name), use) for name, use in rules.items()}
    monkeypatch.setattr(rules_table, "list_rules", lambda: listed)
    assert rules_table.table() == (
        "| rule | trains | initial weights | learned on | fails with |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| `wide` | networks | any | 200 to 2000 steps |  |\n"
        "| `narrow` | one network | N(0, 0.01²) | 100 steps | relu, tanh |\n"
        "| `pixels` | pixels | any | 128 steps |  |\n"
    )


def test_a_card_that_does_not_say_what_its_rule_is_for_is_named(monkeypatch):
    listed = {"mute": PretrainedRule(Path("mute"), None)}
    monkeypatch.setattr(rules_table, "list_rules", lambda: listed)
    with pytest.raises(ValueError, match=r"\['mute'\] without 'use'"):
        rules_table.table()
