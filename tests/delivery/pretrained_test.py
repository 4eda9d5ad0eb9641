import re
from pathlib import Path

import numpy as np
import pytest

import l2l_tf
from l2l_tf.delivery import pretrained
from l2l_tf.delivery.export import export_rule, load_card
from l2l_tf.delivery.pretrained import find_rule, list_rules, load_rule
from l2l_tf.rules.coordinatewise_lstm import CoordinatewiseLSTM


@pytest.fixture(scope="module")
def shipped(tmp_path_factory) -> tuple[Path, Path]:
    """The folders of an installed package and of a checkout, with two rules each, one in both."""
    installed, checkout = (
        tmp_path_factory.mktemp("shipped") / name / "saved_models"
        for name in ("installed", "checkout")
    )
    for folder, names in ((installed, ("both", "alone")), (checkout, ("both", "cifar"))):
        for name in names:
            # The number of units tells the rules apart.
            rule = CoordinatewiseLSTM(units=(1 if folder == installed else 2,), seed=0)
            export_rule(rule, folder / name, {"name": name})
    (checkout / "notes").mkdir()
    return installed, checkout


@pytest.fixture
def folders(shipped, monkeypatch) -> tuple[Path, Path]:
    monkeypatch.setattr(pretrained, "_FOLDERS", shipped)
    return shipped


def test_rules_of_the_package_are_listed_by_name_with_their_folders(folders):
    installed, checkout = folders
    assert list_rules() == {
        "alone": (installed / "alone", None),
        "both": (installed / "both", None),
        "cifar": (checkout / "cifar", None),
    }


def test_a_folder_that_is_not_there_holds_no_rules(monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained, "_FOLDERS", (tmp_path / "nowhere",))
    assert list_rules() == {}


def test_rules_are_looked_for_in_the_package_and_beside_it():
    package = Path(l2l_tf.__file__).parent
    assert (package / "saved_models", package.parent / "saved_models") == pretrained._FOLDERS


def test_every_rule_that_comes_with_the_package_can_be_loaded_and_has_a_card():
    for name, (folder, _) in list_rules().items():
        load_rule(name)
        card = load_card(list_rules()[name])
        assert load_card(folder) == card
        assert card["name"] == name
        assert card["licence"] == "Apache-2.0"
        assert {"command", "commit", "seed", "problem"} <= card["training"].keys()
        # Commands are to be given again elsewhere: no path leads out of the checkout.
        assert not re.findall(r"=(?:/|\.\./|~)[^\"]*", (folder / "card.json").read_text())


def test_a_rule_is_loaded_by_name_from_wherever_one_stands(folders, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert load_rule("alone").units == (1,)
    assert load_rule("cifar").units == (2,)


def test_of_two_rules_of_one_name_the_installed_one_is_loaded(folders):
    assert find_rule("both") == folders[0] / "both"
    assert load_rule("both").units == (1,)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_rule_is_loaded_by_path(folders, kind, tmp_path):
    rule = CoordinatewiseLSTM(units=(3,), output_stddev=1.0, seed=4)
    path = export_rule(rule, tmp_path / "own", {"name": "own"})
    reloaded = load_rule(kind(path))
    for one, other in zip(rule.weights, reloaded.weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_path_that_begins_with_a_dot_is_never_taken_for_a_name(folders, monkeypatch, tmp_path):
    export_rule(CoordinatewiseLSTM(units=(3,)), tmp_path / "alone", {"name": "own"})
    monkeypatch.chdir(tmp_path)
    assert load_rule("alone").units == (1,)
    assert load_rule("./alone").units == (3,)


@pytest.mark.parametrize("load", [find_rule, load_rule])
@pytest.mark.parametrize("name", ["alone_lstm", "notes", Path("some/where")])
def test_an_unknown_name_is_refused_with_the_known_ones(folders, load, name):
    with pytest.raises(FileNotFoundError) as raised:
        load(name)
    assert str(raised.value) == (
        "A rule must be one of ['alone', 'both', 'cifar'] or the folder of a saved rule. "
        f"Received: '{name}'. Check the spelling, or export a rule there."
    )


def test_what_is_neither_a_name_nor_a_path_is_refused(folders):
    with pytest.raises(TypeError) as raised:
        load_rule(None)
    assert str(raised.value) == (
        "A rule must be given by a name or a path. Received: None. "
        "Take one of ['alone', 'both', 'cifar'], or a folder."
    )


def test_a_damaged_rule_is_refused_by_name_too(shipped, monkeypatch, tmp_path):
    export_rule(CoordinatewiseLSTM(units=(1,)), tmp_path / "broken", {"name": "broken"})
    (tmp_path / "broken" / "weights.npz").unlink()
    monkeypatch.setattr(pretrained, "_FOLDERS", (tmp_path,))
    with pytest.raises(ValueError) as raised:
        load_rule("broken")
    assert str(raised.value) == (
        f"A saved rule must be whole. Received: path='{tmp_path / 'broken'}', where weights.npz "
        "is missing. Export or copy the rule again."
    )


@pytest.mark.parametrize("replay", [True, False])
def test_the_golden_trajectory_is_replayed_unless_told_otherwise(folders, monkeypatch, replay):
    replayed = []
    monkeypatch.setattr(
        "l2l_tf.delivery.export._replay", lambda rule, golden, path: replayed.append(path)
    )
    load_rule("alone", replay=replay)
    assert replayed == [folders[0] / "alone"] * replay
