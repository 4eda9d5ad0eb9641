"""Saved rules: folders that TensorFlow, Keras and people can each use on their own."""

import contextlib
import hashlib
import io
import json
import os
import platform
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from l2l_tf.checks import check_instance
from l2l_tf.delivery.exported import exported
from l2l_tf.delivery.golden_trajectory import check_trajectory, difference, golden_trajectory
from l2l_tf.delivery.saved_files import (
    CARD_FILE,
    RULE_FILE,
    WEIGHTS_FILE,
    check_files,
    damaged,
    folder_of,
    has_card,
    read_file,
    read_json,
    read_weights,
)
from l2l_tf.files import (
    move_into_place,
    partial_path,
    remove_leftovers,
    strict_json,
    write_json,
)
from l2l_tf.rules.rebuilding import excerpt, reason, rebuilt_rule, with_advice
from l2l_tf.rules.routed import parts_of

FORMAT_VERSION = 1


def export_rule(
    rule: keras.layers.Layer,
    path: str | Path,
    card: dict[str, Any],
    variables: Sequence[Any] | None = None,
) -> Path:
    """Writes a learned rule as a folder and returns its path.

    The folder contains:

    - A SavedModel with the signatures `initial_state(num_coordinates)` and `update(gradient,
      state_0, state_1, ...)`. It also has functions of the same names that take and return the
      state as the rule does. It needs only TensorFlow.
    - `rule.json` and `weights.npz`, the configuration and weights that rebuild the Keras layer.
    - `card.json`, the given card with further entries: the format version, the software versions, a
      SHA-256 checksum of every other file, and a golden trajectory. The trajectory consists of
      gradients and the rule's deltas for them. It holds the coordinates of a rule's parts one after
      another.

    If a rule is not coordinatewise, its SavedModel is for given tensors. Its signatures are
    `initial_state()` and `update(gradient_<tensor>, ..., state_0, ...)`, which returns
    `delta_<tensor>`. `<tensor>` stands for a name made from the tensor's path. If the rule needs
    them, `update` also takes `step`, `losses`, `num_steps` and `parameter_<tensor>`. The Keras
    layer has no such limit.

    For a rule with parts (`l2l_tf.rules.RoutedRule`), the signatures take `num_coordinates_<part>`
    and `gradient_<part>` for each part, and return `delta_<part>`. The functions take and return
    dictionaries by part.

    The folder is written elsewhere first and then moved into place. It replaces an older one there.

    Args:
        rule: a learned rule, registered with Keras.
        path: the folder.
        card: the description of the rule: JSON values by name, including `name`.
        variables: for a rule that is not coordinatewise, the tensors of the SavedModel, each with a
            `path` and a `shape`, such as a model's trainable variables. None for other rules.

    Raises:
        TypeError: the rule is not a learned rule, or the card is not a dictionary.
        FileExistsError: `path` holds something other than a saved rule.
        ValueError: the rule can't be rebuilt from its configuration, the card has no name, two
            weights of the rule have the same name, the path can't be a folder's, or variables are
            missing or not allowed.
        OSError: the folder can't be written.
    """
    path = folder_of(path)
    check_destination(path)
    advice = "Hand-designed rules need no export: LearnedOptimizer takes them as they are."
    check_instance("rule", rule, keras.layers.Layer, "a learned rule, a Keras layer", advice)
    check_instance("card", card, Mapping, "a dictionary", 'Give, say, {"name": "my_rule"}.')
    if not isinstance(card.get("name", ""), str):
        raise ValueError(
            "card must have a text as name. "
            f'Received: name={card["name"]!r}. Give, say, {{"name": "my_rule"}}.'
        )
    names = [name for name, _ in _names_and_weights(rule)]
    if len(set(names)) < len(names):
        raise ValueError(
            "rule must have weights of different names, by which they are saved. "
            f"Received: weights named {names}. Name each in `add_weight`."
        )
    _check_rebuilds(rule)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    partial = partial_path(path)
    try:
        module = exported(rule, variables)
        tf.saved_model.save(module, str(partial), signatures=module.signatures())
        config = keras.saving.serialize_keras_object(rule)
        (partial / RULE_FILE).write_text(json.dumps(config, indent=2) + "\n")
        np.savez(partial / WEIGHTS_FILE, allow_pickle=False, **_named_weights(rule))
        complete_card = {
            **card,
            "format_version": FORMAT_VERSION,
            "versions": {
                "python": platform.python_version(),
                "tensorflow": tf.__version__,
                "keras": keras.__version__,
                "numpy": np.__version__,
            },
            "golden_trajectory": golden_trajectory(rule),
            "sha256": _checksums(partial),
        }
        (partial / CARD_FILE).write_text(strict_json(complete_card))
        move_into_place(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return path


def check_destination(path: str | Path) -> None:
    """Checks that a rule may be exported to a path.

    Raises:
        FileExistsError: `path` holds something other than a saved rule.
        ValueError: `path` can't be a folder's.
        OSError: the contents of the path can't be inspected.
    """
    path = folder_of(path)
    if path.name in ("", ".."):
        raise ValueError(
            "path must end in the name of the folder that is to be made. "
            f"Received: path={str(path)!r}. Choose another path."
        )
    try:
        is_empty = not os.path.lexists(path) or (path.is_dir() and not any(path.iterdir()))
        # Finds out whether the name is valid for a file, which `lexists` does not tell.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.lstat()
    except (OSError, ValueError) as error:
        # Not UnicodeEncodeError, whose constructor takes more than a message.
        kind = type(error) if isinstance(error, OSError) else ValueError
        raise kind(
            "path must be one at which a folder can be made. "
            f"Received: path={excerpt(str(path))}, where {reason(error)}. Choose another path."
        ) from error
    if not is_empty and not has_card(path):
        raise FileExistsError(
            "path must be new, empty or a saved rule to replace. "
            f"Received: path={str(path)!r}, which holds something else. Choose another path."
        )


def load_saved_rule(path: str | Path, replay: bool = True) -> keras.layers.Layer:
    """Loads the learned rule in a saved-rule folder as a Keras layer.

    Nothing named in the files is imported: only classes registered with Keras in this process are
    used. Only regular files within the folder are read.

    Args:
        path: the folder.
        replay: whether to replay and compare the golden trajectory.

    Raises:
        FileNotFoundError: there is no saved rule at the path.
        PermissionError: a file may not be read.
        ValueError: a file is missing or damaged, the card can't be read, the layer is not a rule or
            has non-finite weights, or the rule does not reproduce its golden trajectory.
    """
    path = folder_of(path)
    card = load_card(path)
    check_files(path, card["sha256"])
    config = read_json(path, RULE_FILE)
    weights = read_file(path, WEIGHTS_FILE)
    try:
        rule = _rebuilt(config, weights)
    except Exception as error:  # Constructors may raise anything for arguments from a file.
        raise _can_not_build(path, error) from error
    if replay:
        _replay(rule, card["golden_trajectory"], path)
    return rule


def load_card(path: str | Path) -> dict[str, Any]:
    """Returns the card of a saved rule.

    Raises:
        FileNotFoundError: there is no saved rule at the path.
        PermissionError: the card may not be read.
        ValueError: the card is not JSON, lacks an entry, or has another format version.
    """
    path = folder_of(path)
    if not has_card(path):
        raise FileNotFoundError(
            f"path must be the folder of a saved rule. Received: path={excerpt(str(path))}, "
            f"which has no {CARD_FILE}. Give the folder that an export wrote."
        )
    card = read_json(path, CARD_FILE)
    if not isinstance(card, dict) or "format_version" not in card:
        raise damaged(path, f"whose {CARD_FILE} can't be read")
    version = card["format_version"]
    if version != FORMAT_VERSION:
        raise ValueError(
            f"A saved rule must be of format {FORMAT_VERSION}. Received: path={str(path)!r} of "
            f"format {excerpt(version)}. Install the version of l2l_tf that wrote it."
        )
    entries = ("golden_trajectory", "sha256")
    missing = [name for name in entries if not isinstance(card.get(name), dict)]
    if missing:
        raise damaged(path, f"whose {CARD_FILE} has no entry {missing}")
    if not isinstance(card.get("name", ""), str):
        raise damaged(path, f"whose {CARD_FILE} has a name that is no string")
    return card


def update_card(path: str | Path, **entries: Any) -> None:
    """Adds or replaces entries of a saved rule's card.

    Raises:
        FileNotFoundError: there is no saved rule at the path.
        PermissionError: the card may not be read.
        ValueError: the card is damaged.
    """
    path = folder_of(path)
    card = load_card(path) | entries
    write_json(path / CARD_FILE, card)


def _check_rebuilds(rule: keras.layers.Layer) -> None:
    """Raises ValueError if a rule can't be rebuilt from its configuration."""
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(rule)))
    try:
        rebuilt_rule(config)
    except Exception as error:  # Constructors may raise anything.
        raise ValueError(
            "rule must be one that can be rebuilt from its configuration. "
            f"Received: {rule!r}, where {reason(error)}. Register its class with "
            "keras.saving.register_keras_serializable, and have get_config return the arguments "
            "of its constructor."
        ) from error


def _names_and_weights(rule: keras.layers.Layer) -> list[tuple[str, keras.Variable]]:
    """Returns a rule's weights by name. For parts, names begin with the part's name."""
    parts = {f"{name}_": part for name, part in parts_of(rule).items()} or {"": rule}
    return [
        (f"{prefix}{weight.name}", weight)
        for prefix, part in parts.items()
        for weight in part.weights
    ]


def _named_weights(rule: keras.layers.Layer) -> dict[str, np.ndarray]:
    return {name: weight.numpy() for name, weight in _names_and_weights(rule)}


def _checksums(path: Path) -> dict[str, str]:
    return {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def _rebuilt(config: Any, contents: bytes) -> keras.layers.Layer:
    """Builds a rule from its configuration and the contents of its weights file."""
    with zipfile.ZipFile(io.BytesIO(contents)) as archive:
        # Every weight takes at least one byte.
        rule = rebuilt_rule(config, sum(one.file_size for one in archive.infolist()))
        if not isinstance(rule, keras.layers.Layer):
            raise ValueError(f"{type(rule).__name__} is no learned rule, which is a Keras layer")
        weights = dict(_names_and_weights(rule))
        shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
        for name, value in read_weights(archive, shapes).items():
            weights[name].assign(value)
    return rule


def _replay(rule: keras.layers.Layer, golden: dict[str, Any], path: Path) -> None:
    try:
        gradients, expected = check_trajectory(golden)
    except ValueError as error:
        raise damaged(path, f"whose {CARD_FILE} can't be read") from error
    try:
        # Numbers too large for float32 become infinite, which the comparison will detect.
        with np.errstate(all="ignore"):
            off = difference(rule, gradients, expected)
    except Exception as error:  # The layer's input comes from the card.
        raise _can_not_build(path, error) from error
    if off is not None:
        raise ValueError(
            f"A saved rule must repeat the golden trajectory of its card. Received: "
            f"path={str(path)!r}, whose deltas are off by up to {off[0]:.3g} in a coordinate where "
            f"they reach {off[1]:.3g}. Install the versions that the card names, or export the "
            "rule again."
        )


def _can_not_build(path: Path, error: Exception) -> ValueError:
    advice = "Install the versions that its card names, or export the rule again."
    return ValueError(
        f"A saved rule must hold a layer that this version can build. Received: "
        f"path={str(path)!r}, where {with_advice(reason(error), advice)}"
    )
