"""Rules as JSON values and beside a saved state, their weights included."""

import base64
import json
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from l2l_tf.rules.rebuilding import check_registered, reason, rebuilt_predicate, rebuilt_rule
from l2l_tf.rules.routing import Route
from l2l_tf.rules.rule import Rule

# Arguments of rules that say nothing of what they answer once they have their weights.
_INCIDENTAL = {"build_config", "module", "name", "output_stddev", "seed", "trainable"}

# What the names of rules' weights begin with in the saved state of an optimizer.
WEIGHT_PREFIX = "rule_"


def rule_to_config(rule: Rule) -> dict[str, Any]:
    """Returns JSON values from which `rule_from_config` makes the rule again.

    They hold what Keras needs to rebuild the object (`object`) and its weights (`weights`), as
    base64 of their bytes in C order and little-endian: exact, and small beside any model.

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
    # What shapes a layer was called with would differ before its first step and after.
    config.pop("build_config", None)
    return {
        "object": config,
        "weights": [_encode(np.asarray(weight)) for weight in weights],
    }


def rule_from_config(config: dict[str, Any]) -> Rule:
    """Returns the rule of which `rule_to_config` made JSON values.

    Raises:
        ValueError: they name something that is not registered with Keras in this process, or no
            rule.
        Exception: what is raised of values that are none of a rule.
    """
    weights = [_decode(weight) for weight in config["weights"]]
    rule = rebuilt_rule(config["object"], sum(weight.size for weight in weights))
    _set_weights(rule, weights)
    return rule


def rules_from_config(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the rule and the routes in the configuration of an optimizer, by name.

    Nothing that it names is imported: classes and functions are looked up among those that are
    registered with Keras in this process.

    Raises:
        ValueError: they can't be made, or the learning rate is one that Keras would import.
    """
    try:
        check_registered(config.get("learning_rate"))
        return {
            "rule": rule_from_config(config["rule"]),
            "routes": [route_from_config(route) for route in config["routes"]],
        }
    except Exception as error:  # Constructors may raise anything of what a file gives them.
        raise ValueError(
            "The configuration of a LearnedOptimizer must hold rules that this version can build. "
            f"Received: one where {reason(error)}. Install the versions with which it was saved."
        ) from error


def rules_to_bytes(rules: Sequence[Rule]) -> np.ndarray:
    """Returns what rules are, apart from their weights, as a vector of bytes: uint8."""
    kinds = [
        _essence(keras.saving.serialize_keras_object(rule))
        if hasattr(rule, "get_config")
        else {"class_name": type(rule).__name__}
        for rule in rules
    ]
    return np.frombuffer(json.dumps(kinds).encode(), np.uint8)


def are_same_rules(saved: np.ndarray, own: np.ndarray) -> bool:
    """Returns whether two results of `rules_to_bytes` say the same, in so far as both say it.

    A later version may know arguments that an earlier one did not.
    """
    try:
        return _agree(*(json.loads(one.tobytes().decode()) for one in (saved, own)))
    except (ValueError, RecursionError):  # What was saved is no JSON, or endlessly nested.
        return False


def _essence(value: Any) -> Any:
    """Returns JSON values without what is incidental."""
    if isinstance(value, dict):
        return {key: _essence(item) for key, item in value.items() if key not in _INCIDENTAL}
    return [_essence(item) for item in value] if isinstance(value, list | tuple) else value


def _agree(one: Any, other: Any) -> bool:
    """Returns whether JSON values are equal where both have an entry."""
    if isinstance(one, dict) and isinstance(other, dict):
        return all(_agree(one[key], other[key]) for key in one.keys() & other.keys())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_agree, one, other))
    return bool(one == other)


def copy_rule(rule: Rule) -> Rule:
    """Returns a learned rule with weights of its own, equal and not trainable.

    They are made where the call stands: under a distribution strategy, one copy for each device.
    Rules without weights are returned as they are.
    """
    if not isinstance(rule, keras.layers.Layer):
        return rule
    copy = type(rule).from_config(rule.get_config())
    _set_weights(copy, rule.get_weights())
    copy.trainable = False
    return copy


def route_to_config(route: Route) -> dict[str, Any]:
    """Returns JSON values from which `route_from_config` makes the route again."""
    return {
        "rule": rule_to_config(route.rule),
        "kind": route.kind,
        "name": route.name,
        "predicate": keras.saving.serialize_keras_object(route.predicate),
    }


def route_from_config(config: dict[str, Any]) -> Route:
    """Returns the route of which `route_to_config` made JSON values."""
    predicate = rebuilt_predicate(config["predicate"])
    rule = rule_from_config(config["rule"])
    return Route(rule, config["kind"], config["name"], predicate)


class RuleLayers(tf.Module):
    """The learned ones among an optimizer's rules, as tf.train.Checkpoint saves them.

    Keras would save layers that are attributes of an optimizer too, but would then load no file
    that holds a model's weights alone.
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
        # A layer that makes its weights at its first call.
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
