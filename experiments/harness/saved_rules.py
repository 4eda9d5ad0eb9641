"""Saved rules, by name."""

from collections.abc import Sequence
from pathlib import Path

import keras

from l2l_tf.delivery import load_card, load_rule


def load_rules(paths: Sequence[Path]) -> dict[str, keras.layers.Layer]:
    """Returns saved rules by the names on their cards; where names are equal, by path too."""
    names = [load_card(path).get("name", path.name) for path in paths]
    return {
        name if names.count(name) == 1 else f"{name} ({path})": load_rule(path)
        for name, path in zip(names, paths, strict=True)
    }
