"""The rules that come with the package, by name."""

import os
from pathlib import Path

import keras

from l2l_tf.delivery.export import CARD_FILE, load_saved_rule

_PACKAGE = Path(__file__).resolve().parents[1]
# An installed package holds saved_models/; in a checkout the folder lies beside the package.
_FOLDERS = (_PACKAGE / "saved_models", _PACKAGE.parent / "saved_models")


def list_rules() -> dict[str, Path]:
    """Returns the folder of each rule that comes with the package, by name."""
    return {
        card.parent.name: card.parent
        for folder in reversed(_FOLDERS)
        for card in sorted(folder.glob(f"*/{CARD_FILE}"))
    }


def find_rule(name_or_path: str | Path) -> Path:
    """Returns the folder of a saved rule, given by name or by path.

    Raises:
        FileNotFoundError: no rule of that name comes with the package and no folder is there.
        TypeError: it is neither a name nor a path.
    """
    rules = list_rules()
    if not isinstance(name_or_path, str | os.PathLike):
        raise TypeError(
            "A rule must be given by a name or a path. "
            f"Received: {name_or_path!r}. Take one of {sorted(rules)}, or a folder."
        )
    if str(name_or_path) in rules:
        return rules[str(name_or_path)]
    path = Path(name_or_path)
    if not (path / CARD_FILE).is_file():
        raise FileNotFoundError(
            f"A rule must be one of {sorted(rules)} or the folder of a saved rule. "
            f"Received: {str(name_or_path)!r}. Check the spelling, or export a rule there."
        )
    return path


def load_rule(name_or_path: str | Path, replay: bool = True) -> keras.layers.Layer:
    """Returns a saved rule as a Keras layer, checked against its card.

    Args:
        name_or_path: the name of a rule that comes with the package, or the folder of a saved rule.
        replay: whether to run the card's golden trajectory and compare.

    Raises:
        FileNotFoundError: there is no such rule.
        ValueError: the saved rule is damaged or does not repeat its golden trajectory.
    """
    return load_saved_rule(find_rule(name_or_path), replay=replay)
