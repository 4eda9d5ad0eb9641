import json
from pathlib import Path

import pytest

from experiments import rules_table
from l2l_tf.delivery.export import load_card
from l2l_tf.delivery.pretrained import PretrainedRule, list_rules
from l2l_tf.delivery.use import RuleUse

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("path", rules_table.DOCUMENTS, ids=lambda path: path.name)
def test_documents_have_the_table_of_the_cards(path):
    document = path.read_text()
    assert rules_table.table() in document
    assert rules_table.with_table(document) == document


@pytest.mark.parametrize("name", list(list_rules()))
def test_cards_say_what_the_files_say_from_which_rules_are_made_again(name):
    entry = json.loads((ROOT / "experiments" / "configs" / f"{name}.use.json").read_text())
    assert load_card(ROOT / "saved_models" / name)["use"] == entry
    flags = (ROOT / "experiments" / "configs" / f"{name}.flags").read_text()
    assert f"--use=experiments/configs/{name}.use.json\n" in flags


def _list(monkeypatch, uses, cost):
    listed = {name: PretrainedRule(Path(name), use) for name, use in uses.items()}
    monkeypatch.setattr(rules_table, "list_rules", lambda: listed)
    monkeypatch.setattr(rules_table, "load_card", lambda path: cost)


def test_general_rules_stand_first(monkeypatch):
    uses = {
        "pixels": RuleUse("pixels", False, None, 128, learned_on="a photo"),
        "narrow": RuleUse("one net", True, 0.01, 100, ("relu", "tanh"), "wide", "digits"),
        "wide": RuleUse("networks", True, None, (200, 2000), learned_on="many networks"),
    }
    _list(monkeypatch, uses, {"cost": {"step_over_adam": 3.44, "state_over_adam": 40.0}})
    assert rules_table.table() == (
        "| rule | good for | not for | learned on | initial weights "
        "| step (Adam = 1) | state (Adam = 1) |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
        "| `wide` | networks |  | many networks; 200 to 2000 steps | any | 3.4 | 40 |\n"
        "| `narrow` | one net | relu; tanh | digits; 100 steps | N(0, 0.01²) | 3.4 | 40 |\n"
        "| `pixels` | pixels |  | a photo; 128 steps | any | 3.4 | 40 |\n"
    )
    document = rules_table.with_table("a\n<!-- rules -->\nold\n<!-- end of rules -->\nb\n")
    assert document == (f"a\n<!-- rules -->\n\n{rules_table.table()}\n<!-- end of rules -->\nb\n")


def test_a_document_without_a_place_for_the_table_is_refused():
    with pytest.raises(ValueError, match="must have a place for the table"):
        rules_table.with_table("# A document\n")


def test_a_card_that_does_not_say_what_its_rule_is_for_or_costs_is_named(monkeypatch):
    _list(monkeypatch, {"mute": None}, {})
    with pytest.raises(ValueError, match=r"\['mute'\] without 'use'"):
        rules_table.table()
    _list(monkeypatch, {"mute": RuleUse("networks", True, None, 100)}, {})
    with pytest.raises(ValueError, match=r"\['mute'\] without 'cost'.*shipped_rules"):
        rules_table.table()
