"""A saved rule: one folder that TensorFlow, Keras and a reader can each use alone."""

import hashlib
import json
import math
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import keras
import numpy as np
import tensorflow as tf

from l2l_tf.files import strict_json, write_json
from l2l_tf.rules.routed import RoutedRule

FORMAT_VERSION = 1
CARD_FILE = "card.json"
RULE_FILE = "rule.json"
WEIGHTS_FILE = "weights.npz"

# The golden trajectory: steps, coordinates, and how far a replay's deltas may be off, relative to
# the largest: float32 rounding grows over the steps and differs between processors.
_NUM_GOLDEN_STEPS = 8
_NUM_GOLDEN_COORDINATES = 5
_GOLDEN_TOLERANCE = 1e-4


def export_rule(rule: keras.layers.Layer, path: str | Path, card: dict[str, Any]) -> Path:
    """Writes a learned rule as a folder and returns its path.

    The folder holds
        a SavedModel with the signatures `initial_state(num_coordinates)` and `update(gradient,
            state_0, state_1, ...)`, and functions of the same names that take and return the
            state as the rule does: it needs nothing but TensorFlow;
        `rule.json` and `weights.npz`: the configuration and weights that rebuild the Keras layer;
        `card.json`: the given card with the format's version, the versions of the software, a
            SHA-256 checksum of every other file, and a golden trajectory: gradients and the deltas
            that the rule answers them with; the coordinates of a rule's parts stand one after the
            other.
    Of a rule with parts (`l2l_tf.rules.RoutedRule`), the signatures take `num_coordinates_<part>`
    and `gradient_<part>` and return `delta_<part>`, for each; the functions, dictionaries by part.
    It is written beside its place and moved into it whole; an older folder there is replaced.

    Args:
        rule: a learned rule, registered with Keras.
        path: the folder.
        card: what there is to say of the rule: JSON values by name, `name` among them.

    Raises:
        FileExistsError: `path` holds something that is no saved rule.
        ValueError: two weights of the rule have the same name.
    """
    path = Path(path)
    check_destination(path)
    names = [name for name, _ in _names_and_weights(rule)]
    if len(set(names)) < len(names):
        raise ValueError(
            "rule must have weights of different names, by which they are saved. "
            f"Received: weights named {names}. Name each in `add_weight`."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        module = _ExportedRule(rule)
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
            "golden_trajectory": _golden_trajectory(rule),
            "sha256": _checksums(partial),
        }
        (partial / CARD_FILE).write_text(strict_json(complete_card))
        _move_into_place(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return path


def check_destination(path: str | Path) -> None:
    """Makes sure that a rule may be exported to a path.

    Raises:
        FileExistsError: `path` holds something that is no saved rule.
    """
    path = Path(path)
    is_empty = not path.exists() or (path.is_dir() and not any(path.iterdir()))
    if not is_empty and not (path / CARD_FILE).exists():
        raise FileExistsError(
            "path must be new, empty or a saved rule to replace. "
            f"Received: path={str(path)!r}, which holds something else. Choose another path."
        )


def load_saved_rule(path: str | Path, replay: bool = True) -> keras.layers.Layer:
    """Returns the learned rule that a saved-rule folder holds, as a Keras layer.

    Args:
        path: the folder.
        replay: whether to run the golden trajectory and compare.

    Raises:
        FileNotFoundError: there is no saved rule at the path.
        ValueError: a file is missing or damaged, the card can't be read, or the rule does not
            repeat its golden trajectory.
    """
    path = Path(path)
    card = load_card(path)
    _check_files(path, card)
    try:
        config = json.loads((path / RULE_FILE).read_text())
        rule = keras.saving.deserialize_keras_object(config)
        weights = dict(_names_and_weights(rule))
        # Given a path, NumPy would leave the file of a broken archive open.
        with (path / WEIGHTS_FILE).open("rb") as file, np.load(file) as archive:
            if different := sorted(weights.keys() ^ set(archive.files)):
                raise ValueError(f"layer and {WEIGHTS_FILE} do not both have {different}")
            for name, weight in weights.items():
                value = archive[name]
                if value.shape != tuple(weight.shape):
                    raise ValueError(
                        f"{name} has the shape {value.shape} in {WEIGHTS_FILE} and "
                        f"{tuple(weight.shape)} in the layer"
                    )
                weight.assign(value)
    except (ValueError, TypeError, KeyError, AttributeError, BadZipFile, EOFError) as error:
        raise ValueError(
            f"A saved rule must hold a layer that this version can build. Received: "
            f"path={str(path)!r}, where {error}. Install the versions that its card names, or "
            "export the rule again."
        ) from error
    if replay:
        _replay(rule, card["golden_trajectory"], path)
    return rule


def load_card(path: str | Path) -> dict[str, Any]:
    """Returns the card of a saved rule.

    Raises:
        FileNotFoundError: there is no saved rule at the path.
        ValueError: the card is no JSON, lacks an entry, or is of a later format.
    """
    path = Path(path)
    if not (path / CARD_FILE).is_file():
        raise FileNotFoundError(
            f"path must be the folder of a saved rule. Received: path={str(path)!r}, which has no "
            f"{CARD_FILE}. Give the folder that an export wrote."
        )
    try:
        card = json.loads((path / CARD_FILE).read_text())
        version = card["format_version"]
    except (ValueError, TypeError, KeyError) as error:
        raise _damaged(path, f"whose {CARD_FILE} can't be read") from error
    if version != FORMAT_VERSION:
        raise ValueError(
            f"A saved rule must be of format {FORMAT_VERSION}. Received: path={str(path)!r} of "
            f"format {version}. Install the version of l2l_tf that wrote it."
        )
    entries = ("golden_trajectory", "sha256")
    missing = [name for name in entries if not isinstance(card.get(name), dict)]
    if missing:
        raise _damaged(path, f"whose {CARD_FILE} has no entry {missing}")
    return card


def update_card(path: str | Path, **entries: Any) -> None:
    """Adds entries to the card of a saved rule, or replaces them.

    Raises:
        FileNotFoundError: there is no saved rule at the path.
        ValueError: the card is damaged.
    """
    path = Path(path)
    card = load_card(path) | entries
    write_json(path / CARD_FILE, card)


class _ExportedRule(tf.Module):
    """A rule as TensorFlow functions of any number of coordinates."""

    def __init__(self, rule: keras.layers.Layer):
        super().__init__()
        self.rule_weights = [weight.value for weight in rule.weights]
        one = rule.initial_state(_for_each_part(rule, lambda _: 1))
        two = rule.initial_state(_for_each_part(rule, lambda _: 2))
        state_spec = tf.nest.map_structure(_spec_of_any_count, one, two)
        dtype = rule.compute_dtype
        gradient_spec = _for_each_part(
            rule, lambda suffix: tf.TensorSpec([None], dtype, name=f"gradient{suffix}")
        )
        count_spec = _for_each_part(
            rule, lambda suffix: tf.TensorSpec([], tf.int32, name=f"num_coordinates{suffix}")
        )
        self.initial_state = tf.function(
            rule.initial_state, input_signature=[count_spec], autograph=False
        )
        self.update = tf.function(
            lambda gradient, state: rule(gradient, state),
            input_signature=[gradient_spec, state_spec],
            autograph=False,
        )
        self._specs = {"num_coordinates": count_spec, "gradient": gradient_spec}
        self._state_spec = state_spec
        # Of each part, what its tensors are called by; "" for a rule without parts.
        self._suffixes = tf.nest.flatten(_for_each_part(rule, lambda suffix: suffix))

    def signatures(self) -> dict[str, Any]:
        """Returns the functions with named tensors in and out, as SavedModel signatures must be."""

        def initial_state(**num_coordinates):
            counts = self._packed("num_coordinates", num_coordinates)
            return _named_state(self.initial_state(counts))

        def update(**inputs):
            leaves = [inputs[name] for name in _named_state(self._state_spec)]
            state = tf.nest.pack_sequence_as(self._state_spec, leaves)
            delta, state = self.update(self._packed("gradient", inputs), state)
            return self._named("delta", delta) | _named_state(state)

        state_specs = {
            name: tf.TensorSpec(spec.shape, spec.dtype, name=name)
            for name, spec in _named_state(self._state_spec).items()
        }
        return {
            "initial_state": tf.function(initial_state, autograph=False).get_concrete_function(
                **self._named("num_coordinates", self._specs["num_coordinates"])
            ),
            "update": tf.function(update, autograph=False).get_concrete_function(
                **self._named("gradient", self._specs["gradient"]), **state_specs
            ),
        }

    def _named(self, name: str, values: Any) -> dict[str, Any]:
        """Returns what there is of each part as one dictionary of named tensors."""
        leaves = tf.nest.flatten(values)
        return {f"{name}{end}": leaf for end, leaf in zip(self._suffixes, leaves, strict=True)}

    def _packed(self, name: str, named: dict[str, Any]) -> Any:
        """Returns what `_named` made a dictionary of."""
        leaves = [named[f"{name}{end}"] for end in self._suffixes]
        return tf.nest.pack_sequence_as(self._specs[name], leaves)


def _for_each_part(rule: keras.layers.Layer, make: Callable[[str], Any]) -> Any:
    """Returns what is made for "", or by part's name for "_<part>" of a rule with parts."""
    if isinstance(rule, RoutedRule):
        return {name: make(f"_{name}") for name in rule.parts}
    return make("")


def _named_state(state: Any) -> dict[str, Any]:
    return {f"state_{index}": part for index, part in enumerate(tf.nest.flatten(state))}


def _spec_of_any_count(one: tf.Tensor, two: tf.Tensor) -> tf.TensorSpec:
    """Returns the spec of a tensor of the state, seen for one coordinate and for two."""
    shape = [a if a == b else None for a, b in zip(one.shape, two.shape, strict=True)]
    return tf.TensorSpec(shape, one.dtype)


def _names_and_weights(rule: keras.layers.Layer) -> list[tuple[str, keras.Variable]]:
    """Returns a rule's weights, those of parts under names that begin with the part's."""
    if isinstance(rule, RoutedRule):
        return [
            (f"{name}_{weight.name}", weight)
            for name, part in rule.parts.items()
            for weight in part.weights
        ]
    return [(weight.name, weight) for weight in rule.weights]


def _named_weights(rule: keras.layers.Layer) -> dict[str, np.ndarray]:
    return {name: weight.numpy() for name, weight in _names_and_weights(rule)}


def _checksums(path: Path) -> dict[str, str]:
    return {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def _check_files(path: Path, card: dict[str, Any]) -> None:
    for name, checksum in card["sha256"].items():
        file = path / name
        if not file.is_file():
            raise _damaged(path, f"where {name} is missing")
        if hashlib.sha256(file.read_bytes()).hexdigest() != checksum:
            raise _damaged(path, f"where {name} does not have the checksum in {CARD_FILE}")


def _damaged(path: Path, what: str) -> ValueError:
    return ValueError(
        f"A saved rule must be whole. Received: path={str(path)!r}, {what}. "
        "Export or copy the rule again."
    )


def _golden_trajectory(rule: keras.layers.Layer) -> dict[str, Any]:
    """Returns gradients of many sizes and the deltas of the rule, as lists `[T, N]`."""
    generator = np.random.default_rng(0)
    num_parts = len(rule.parts) if isinstance(rule, RoutedRule) else 1
    shape = (_NUM_GOLDEN_STEPS, num_parts * _NUM_GOLDEN_COORDINATES)
    sizes = 10.0 ** np.tile(np.linspace(-6, 2, _NUM_GOLDEN_COORDINATES), num_parts)
    gradients = (generator.standard_normal(shape) * sizes).astype(np.float32)
    return {"gradients": gradients.tolist(), "deltas": _deltas(rule, gradients).tolist()}


def _deltas(rule: keras.layers.Layer, gradients: np.ndarray) -> np.ndarray:
    """Returns a rule's deltas `[T, N]`; of parts, each takes an equal share of coordinates."""
    names = list(rule.parts) if isinstance(rule, RoutedRule) else []
    count = gradients.shape[1] // max(1, len(names))
    deltas = []
    # A GPU may multiply float32 in TensorFloat-32, whose 10 bits are too few for the tolerance.
    with tf.device("CPU:0"):
        state = rule.initial_state(_for_each_part(rule, lambda _: count))
        for row in gradients:
            gradient = tf.constant(row, rule.compute_dtype)
            if names:
                given = dict(zip(names, tf.split(gradient, len(names)), strict=True))
                by_name, state = rule(given, state)
                delta = tf.concat([by_name[name] for name in names], axis=0)
            else:
                delta, state = rule(gradient, state)
            deltas.append(delta.numpy())
    return np.stack(deltas)


def _replay(rule: keras.layers.Layer, golden: dict[str, Any], path: Path) -> None:
    try:
        gradients, expected = np.array([golden["gradients"], golden["deltas"]], np.float64)
        if gradients.ndim != 2 or not gradients.size:
            raise ValueError("a trajectory has steps and coordinates")
    except (ValueError, TypeError, KeyError) as error:
        raise _damaged(path, f"whose {CARD_FILE} can't be read") from error
    largest_error = np.abs(_deltas(rule, gradients) - expected).max()
    # A NaN is off too: hence not `largest_error > ...`.
    if not largest_error <= _GOLDEN_TOLERANCE * max(np.abs(expected).max(), math.ulp(1.0)):
        raise ValueError(
            f"A saved rule must repeat the golden trajectory of its card. Received: "
            f"path={str(path)!r}, whose deltas are off by up to {largest_error:.3g}. Install the "
            "versions that the card names, or export the rule again."
        )


def _move_into_place(partial: Path, path: Path) -> None:
    old = path.with_name(f".{path.name}.old-{os.getpid()}")
    if path.exists():
        path.rename(old)
    try:
        partial.rename(path)
    except BaseException:
        if old.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)
