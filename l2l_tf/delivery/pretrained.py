"""Rules shipped with the package, by name."""

import os
from pathlib import Path
from typing import NamedTuple

import keras

from l2l_tf.delivery.export import load_card, load_saved_rule
from l2l_tf.delivery.saved_files import CARD_FILE, folder_of, has_card
from l2l_tf.delivery.use import RuleUse
from l2l_tf.rules.rebuilding import excerpt

_PACKAGE = Path(__file__).resolve().parents[1]
# An installed package contains saved_models/. In a checkout, the folder is next to the package.
_FOLDERS = (_PACKAGE / "saved_models", _PACKAGE.parent / "saved_models")


class PretrainedRule(NamedTuple):
    """A rule shipped with the package. It can be used as a path, that of its folder.

    Attributes:
        path: its folder.
        use: its intended use. None if its card does not say.
    """

    path: Path
    use: RuleUse | None

    def __fspath__(self) -> str:
        return str(self.path)


def list_rules() -> dict[str, PretrainedRule]:
    """Returns the rules shipped with the package, by name, with their folders and uses.

    Raises:
        ValueError: a card is damaged.
    """
    return {name: PretrainedRule(path, use_of(path)) for name, path in _folders().items()}


def use_of(path: Path) -> RuleUse | None:
    """Returns the intended use of a saved rule from its card, or None if there is none.

    Raises:
        FileNotFoundError: there is no saved rule at the path.
        ValueError: the card is damaged.
    """
    entry = load_card(path).get("use")
    try:
        return None if entry is None else RuleUse.from_json(entry)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"A saved rule must be whole. Received: path={str(path)!r}, whose {CARD_FILE} has a "
            f"wrong entry 'use': {error}"
        ) from error


def _folders() -> dict[str, Path]:
    """Returns the folders of the rules shipped with the package, by name."""
    return {
        card.parent.name: card.parent
        for folder in reversed(_FOLDERS)
        for card in sorted(folder.glob(f"*/{CARD_FILE}"))
    }


def find_rule(name_or_path: str | Path) -> Path:
    """Returns the folder of a saved rule, given by name or by path.

    Raises:
        FileNotFoundError: no shipped rule has that name, and there is no saved rule at that path.
        PermissionError: the folder can't be inspected.
        TypeError: it is neither a name nor a path.
    """
    rules = _folders()
    if not isinstance(name_or_path, str | os.PathLike):
        raise TypeError(
            "A rule must be given by a name or a path. "
            f"Received: {excerpt(name_or_path)}. Take one of {sorted(rules)}, or a folder."
        )
    if str(name_or_path) in rules:
        return rules[str(name_or_path)]
    path = folder_of(name_or_path) if name_or_path != "" else None
    if path is None or not has_card(path):
        raise FileNotFoundError(
            f"A rule must be one of {sorted(rules)} or the folder of a saved rule. "
            f"Received: {excerpt(str(name_or_path))}. Check the spelling, or export a rule there."
        )
    return path


def load_rule(name_or_path: str | Path, replay: bool = True) -> keras.layers.Layer:
    """Returns a saved rule as a Keras layer, checked against its card.

    Args:
        name_or_path: the name of a rule shipped with the package, or the folder of a saved rule.
        replay: whether to replay and compare the card's golden trajectory.

    Raises:
        FileNotFoundError: there is no such rule.
        PermissionError: one of its files may not be read.
        ValueError: the saved rule is damaged or does not reproduce its golden trajectory.
    """
    return load_saved_rule(find_rule(name_or_path), replay=replay)
