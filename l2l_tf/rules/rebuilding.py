"""Safe deserialization of rules from JSON, without importing anything that it names.

Keras's own deserialization imports modules that a file names (`keras_hub`, `keras_cv`, ... from the
first such folder on Python's path) before it checks what is in them. This module only builds
objects that are registered with Keras in this process. It hands Keras only values that need no
import.
"""

from collections.abc import Callable, Iterator
from typing import Any

import keras

from l2l_tf.rules.rule import Rule

# Far deeper than any configuration or card, and far below Python's limit.
_MAX_DEPTH = 200

# The names that Keras writes for values other than Keras objects. They are data, except
# "__lambda__", which is code. Keras's safe mode rejects it unless the user turns that mode off.
_VALUES = {"__bytes__", "__ellipsis__", "__lambda__", "__numpy__", "__slice__", "__tensor__"}

# Keras's own layers that a rule's configuration may hold. They only compute: none reads a file,
# loads a model or runs code it is given.
_LAYERS = {
    "Activation",
    "Dense",
    "EinsumDense",
    "GRU",
    "GRUCell",
    "InputLayer",
    "LSTM",
    "LSTMCell",
    "LayerNormalization",
    "RNN",
    "SimpleRNN",
    "SimpleRNNCell",
    "StackedRNNCells",
}


def _classes(module: Any) -> set[str]:
    return {name for name, value in vars(module).items() if isinstance(value, type)}


_BUILT_INS = {
    "keras": {"DTypePolicy", "FloatDTypePolicy", "Sequential"},
    "keras.constraints": _classes(keras.constraints),
    "keras.dtype_policies": {"DTypePolicy", "FloatDTypePolicy"},
    "keras.initializers": _classes(keras.initializers),
    "keras.layers": _LAYERS,
    "keras.optimizers.schedules": _classes(keras.optimizers.schedules),
    "keras.regularizers": _classes(keras.regularizers),
}
_FUNCTIONS = {name for name, value in vars(keras.activations).items() if callable(value)} - {
    "deserialize",
    "get",
    "serialize",
}


def rebuilt_rule(config: Any, max_num_weights: int | None = None) -> Rule:
    """Rebuilds a rule from the JSON values of `keras.saving.serialize_keras_object`.

    Args:
        config: the JSON values.
        max_num_weights: the number of weights saved for it; a larger rule is not built. None means
            no limit.

    Raises:
        ValueError: the values name something that is not registered with Keras in this process, or
            are not those of a rule, or the rule is too large.
        Exception: the rule's class rejects the configuration.
    """
    check_registered(config)
    if max_num_weights is not None and _min_num_weights(config) > max_num_weights:
        raise ValueError(
            "config must be that of a rule with the weights that are saved. Received: more units "
            "than they are for. Save the rule again."
        )
    made = _registered(config)
    if hasattr(made, "bind"):
        rule = _instance(made, config)
        if isinstance(rule, Rule):
            return rule
    raise ValueError(
        f"config must be that of a rule. Received: {_name_of(config)}, which is none. Save a rule, "
        "a subclass of CoordinatewiseRule or one with is_coordinatewise and bind."
    )


def rebuilt_predicate(config: Any) -> Callable[[Any], bool] | None:
    """Rebuilds a function from the JSON values of `keras.saving.serialize_keras_object`.

    Raises:
        ValueError: the values name something that is not registered with Keras in this process.
    """
    if config is None:
        return None
    check_registered(config)
    if isinstance(config, dict) and config.get("class_name") == "__lambda__":
        return keras.saving.deserialize_keras_object(config)
    made = _registered(config)
    return _instance(made, config) if isinstance(made, type) else made


def check_registered(config: Any) -> None:
    """Checks that JSON values name only objects that can be built without an import.

    Allowed are objects that are registered with Keras in this process, or given as custom objects.
    Also allowed are Keras's own objects that only compute: policies, initializers, regularizers,
    constraints, activations, schedules, some layers.

    Raises:
        ValueError: they name something else, at any depth, or are nested too deeply.
    """
    for values in nested_dictionaries(config):
        if "class_name" in values and not (
            values["class_name"] in list(_VALUES)
            or _registered(values) is not None
            or _is_built_in(values)
        ):
            raise ValueError(
                "config must name only what is registered with Keras in this process. "
                f"Received: {_name_of(values)}. If it is yours, import the module that registers "
                "it first (keras.saving.register_keras_serializable); if not, do not load the file."
            )


def nested_dictionaries(values: Any) -> Iterator[dict[str, Any]]:
    """Yields each dictionary in JSON values, at any depth.

    Raises:
        ValueError: they are nested too deeply.
    """
    to_visit = [(values, 0)]
    while to_visit:
        value, depth = to_visit.pop()
        if depth > _MAX_DEPTH:
            raise ValueError(
                f"JSON must be nested at most {_MAX_DEPTH} deep. Received: deeper lists or "
                "dictionaries. Do not load the file."
            )
        if isinstance(value, dict):
            yield value
            to_visit += [(one, depth + 1) for one in value.values()]
        elif isinstance(value, list | tuple):
            to_visit += [(one, depth + 1) for one in value if isinstance(one, dict | list | tuple)]


def excerpt(value: Any) -> str:
    """Returns the repr of a value, shortened for a message."""
    try:
        text = repr(value)
    except Exception:  # An integer of thousands of digits, or anything else without a repr.
        text = f"a value of type {type(value).__name__}"
    return _shortened(text)


def reason(error: BaseException) -> str:
    """Returns an exception's message in one line, shortened for a message."""
    if isinstance(error, KeyError):
        return _shortened(f"there is no entry {error}")
    # Keras puts the whole configuration before the constructor's message.
    text = str(error).rpartition("Exception encountered: ")[2]
    line = " ".join(text.split()) or type(error).__name__
    return _shortened(line.removesuffix("."))


def with_advice(what: str, advice: str) -> str:
    """Returns a reason as a sentence, with the advice unless the reason has its own."""
    # The advice of a message of three parts follows what was received.
    return f"{what}." if "Received: " in what else f"{what}. {advice}"


def _shortened(text: str) -> str:
    return text if len(text) <= 400 else f"{text[:400]}..."


def _registered(config: Any) -> Any:
    """Returns the class or function registered with Keras under the configured name, or None."""
    if not isinstance(config, dict) or not isinstance(config.get("class_name"), str):
        return None
    class_name, inner = config["class_name"], config.get("config")
    if class_name.startswith("__"):
        return None
    if class_name != "function":
        name = config.get("registered_name", class_name)
        return keras.saving.get_registered_object(name) if isinstance(name, str) else None
    if not isinstance(inner, str):
        return None
    made = keras.saving.get_registered_object(inner)
    if made is None and ">" not in inner:
        # Keras up to 3.6 wrote a function's name without the package.
        objects = keras.saving.get_custom_objects().items()
        made = next((value for name, value in objects if name.endswith(f">{inner}")), None)
    return made


def _is_built_in(config: dict[str, Any]) -> bool:
    """Returns whether values name one of Keras's own objects that a configuration may hold."""
    name, module = config["class_name"], config.get("module")
    if name == "function":
        return module in ("builtins", "keras.activations") and config.get("config") in list(
            _FUNCTIONS
        )
    if module is None:
        return any(name in list(names) for names in _BUILT_INS.values())
    return isinstance(module, str) and name in list(_BUILT_INS.get(module, ()))


def _instance(made: Any, config: dict[str, Any]) -> Any:
    """Builds an object of a registered class as Keras does."""
    inner = config.get("config")
    if not isinstance(inner, dict):
        raise ValueError(
            f"config must hold the arguments of {_name_of(config)}, by name. Received: "
            f"{excerpt(inner)}. Save the object again."
        )
    instance = made.from_config(inner)
    build_config = config.get("build_config")
    if build_config and not getattr(instance, "built", True):
        instance.build_from_config(build_config)
        instance.built = True
    return instance


def _name_of(config: Any) -> str:
    if not isinstance(config, dict) or "class_name" not in config:
        return excerpt(config)
    names = {key: config.get(key) for key in ("module", "class_name", "registered_name")}
    if config["class_name"] == "function":
        names["config"] = config.get("config")
    return ", ".join(f"{key}={excerpt(name)}" for key, name in names.items())


def _min_num_weights(config: Any) -> int:
    """Returns a lower bound for the number of weights in a configuration's l2l_tf rules.

    A layer of H LSTM units has 4 H^2 recurrent weights.
    """
    count = 0
    for values in nested_dictionaries(config):
        name, arguments = values.get("registered_name"), values.get("config")
        if isinstance(name, str) and name.startswith("l2l_tf>") and isinstance(arguments, dict):
            units = arguments.get("units")
            of_layers = units if isinstance(units, list) else []
            numbers = [one for one in of_layers if isinstance(one, int) and one > 0]
            input_units = arguments.get("input_units")
            count += sum(4 * one * one for one in numbers)
            count += max(0, input_units) if isinstance(input_units, int) else 0
    return count
