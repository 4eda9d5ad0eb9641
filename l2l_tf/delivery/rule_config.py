"""Rules as JSON values or as part of a saved state, including their weights."""

import base64
import json
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from l2l_tf.rules.rebuilding import (
    check_registered,
    reason,
    rebuilt_predicate,
    rebuilt_rule,
    with_advice,
)
from l2l_tf.rules.routing import Route
from l2l_tf.rules.rule import Rule

# Entries of rules' configurations that don't affect their deltas once weights are set.
_INCIDENTAL = {"build_config", "module", "name", "output_stddev", "seed", "trainable"}

# The prefix of names of rules' weights in an optimizer's saved state.
WEIGHT_PREFIX = "rule_"


def rule_to_config(rule: Rule) -> dict[str, Any]:
    """Returns JSON values for `rule_from_config`.

    They hold Keras's serialized object (`object`) and its weights (`weights`). Weights are the
    base64 of their bytes in C order and little-endian, which is exact, and small next to any model.

    Raises:
        TypeError: the rule has no `get_config`.
    """
    if not hasattr(rule, "get_config"):
        raise TypeError(
            "rule must have a method get_config to be saved, and be registered with Keras "
            f"(keras.saving.register_keras_serializable). Received: rule={rule!r}. Add both."
        )
    weights = rule.get_weights() if isinstance(rule, keras.layers.Layer) else []
    config = keras.saving.serialize_keras_object(rule)
    # The input shapes of a layer would differ before and after its first step.
    config.pop("build_config", None)
    return {
        "object": config,
        "weights": [_encode(np.asarray(weight)) for weight in weights],
    }


def rule_from_config(config: dict[str, Any]) -> Rule:
    """Rebuilds a rule from the JSON values of `rule_to_config`.

    Raises:
        ValueError: the values name something that is not registered with Keras in this process, or
            are not those of a rule.
        Exception: the values are malformed.
    """
    weights = [_decode(weight) for weight in config["weights"]]
    rule = rebuilt_rule(config["object"], sum(weight.size for weight in weights))
    _set_weights(rule, weights)
    return rule


def rules_from_config(config: dict[str, Any]) -> dict[str, Any]:
    """Rebuilds the rule and the routes in an optimizer's configuration, by name.

    Nothing named in it is imported: only classes and functions registered with Keras in this
    process are used.

    Raises:
        ValueError: they can't be built, or Keras would import something for the learning rate.
    """
    try:
        check_registered(config.get("learning_rate"))
        return {
            "rule": rule_from_config(config["rule"]),
            "routes": [route_from_config(route) for route in config["routes"]],
        }
    except Exception as error:  # Constructors may raise anything for arguments from a file.
        advice = "Install the versions with which it was saved."
        raise ValueError(
            "The configuration of a LearnedOptimizer must hold rules that this version can build. "
            f"Received: one where {with_advice(reason(error), advice)}"
        ) from error


def rules_to_bytes(rules: Sequence[Rule]) -> np.ndarray:
    """Returns descriptions of rules, without their weights, as a vector of bytes, uint8."""
    kinds = [
        _essence(keras.saving.serialize_keras_object(rule))
        if hasattr(rule, "get_config")
        else {"class_name": type(rule).__name__}
        for rule in rules
    ]
    return np.frombuffer(json.dumps(kinds).encode(), np.uint8)


def are_same_rules(saved: np.ndarray, own: np.ndarray) -> bool:
    """Returns whether two results of `rules_to_bytes` agree on every key that both have.

    A later version may have arguments that an earlier one did not.
    """
    try:
        return _agree(*(json.loads(one.tobytes().decode()) for one in (saved, own)))
    except (ValueError, RecursionError):  # The saved bytes are not JSON, or nested too deeply.
        return False


def _essence(value: Any) -> Any:
    """Returns JSON values without incidental entries."""
    if isinstance(value, dict):
        return {key: _essence(item) for key, item in value.items() if key not in _INCIDENTAL}
    return [_essence(item) for item in value] if isinstance(value, list | tuple) else value


def _agree(one: Any, other: Any) -> bool:
    """Returns whether JSON values are equal on every key that both have."""
    if isinstance(one, dict) and isinstance(other, dict):
        return all(_agree(one[key], other[key]) for key in one.keys() & other.keys())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_agree, one, other))
    return bool(one == other)


def copy_rule(rule: Rule) -> Rule:
    """Returns a copy of a learned rule with its own equal weights, which are not trainable.

    The weights are created in the current context: under a distribution strategy, they are copied
    to each device. Rules without weights are returned unchanged.
    """
    if not isinstance(rule, keras.layers.Layer):
        return rule
    copy = type(rule).from_config(rule.get_config())
    _set_weights(copy, rule.get_weights())
    copy.trainable = False
    return copy


def route_to_config(route: Route) -> dict[str, Any]:
    """Returns JSON values for `route_from_config`."""
    return {
        "rule": rule_to_config(route.rule),
        "kind": route.kind,
        "name": route.name,
        "predicate": keras.saving.serialize_keras_object(route.predicate),
    }


def route_from_config(config: dict[str, Any]) -> Route:
    """Rebuilds a route from the JSON values of `route_to_config`."""
    predicate = rebuilt_predicate(config["predicate"])
    rule = rule_from_config(config["rule"])
    return Route(rule, config["kind"], config["name"], predicate)


class RuleLayers(tf.Module):
    """The learned rules of an optimizer, in a form that tf.train.Checkpoint saves.

    If they were attributes of the optimizer, Keras would save them too, but it could then not load
    files that hold only a model's weights.
    """

    def __init__(self, rules: Sequence[Rule]):
        super().__init__()
        self.layers = [rule for rule in rules if isinstance(rule, keras.layers.Layer)]

    def named_weights(self) -> dict[str, Any]:
        """Returns the weights by the names under which they are saved."""
        return {
            f"{WEIGHT_PREFIX}{index}_{position}": weight
            for index, layer in enumerate(self.layers)
            for position, weight in enumerate(layer.weights)
        }


def _set_weights(rule: Any, weights: list[np.ndarray]) -> None:
    if not weights:
        return
    if not rule.weights:
        # A layer that creates its weights at its first call.
        rule(tf.zeros([1], rule.compute_dtype), rule.initial_state(1))
    rule.set_weights(weights)


def _encode(weight: np.ndarray) -> dict[str, Any]:
    little_endian = weight.astype(weight.dtype.newbyteorder("<"), order="C")
    return {
        "shape": list(weight.shape),
        "dtype": weight.dtype.name,
        "base64": base64.b64encode(little_endian.tobytes()).decode("ascii"),
    }


def _decode(weight: dict[str, Any]) -> np.ndarray:
    dtype = np.dtype(weight["dtype"]).newbyteorder("<")
    flat = np.frombuffer(base64.b64decode(weight["base64"]), dtype)
    return flat.reshape(weight["shape"]).astype(weight["dtype"])
