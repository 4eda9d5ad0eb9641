"""Saved rules, by name."""

from collections.abc import Sequence
from pathlib import Path

import keras

from experiments.harness.common import FLAGS
from l2l_tf.delivery import find_rule, load_card, load_rule


def load_rules(paths: Sequence[Path]) -> dict[str, keras.layers.Layer]:
    """Returns saved rules by the names on their cards; where names are equal, by path too."""
    names = [load_card(path).get("name", path.name) for path in paths]
    return {
        name if names.count(name) == 1 else f"{name} ({path})": load_rule(path)
        for name, path in zip(names, paths, strict=True)
    }


def untrained_rules() -> dict[str, keras.layers.Layer]:
    """Returns the rules of `--untrained` with the weights that their configurations draw, by name.

    Raises:
        FileNotFoundError: a rule does not exist.
        ValueError: a rule can't be loaded.
    """
    trained = load_rules([find_rule(rule) for rule in FLAGS.untrained])
    return {
        f"{name}, untrained": type(rule).from_config(rule.get_config())
        for name, rule in trained.items()
    }
