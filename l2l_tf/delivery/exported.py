"""Rules as TensorFlow functions, for a SavedModel."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from l2l_tf.parameter_spec import ParameterSpec
from l2l_tf.rules.routed import parts_of
from l2l_tf.rules.rule import StepInfo


def exported(
    rule: keras.layers.Layer, variables: Sequence[Any] | None
) -> "OfCoordinates | OfTensors":
    """Returns a rule's functions and signatures: for any coordinates if possible, else for tensors.

    Args:
        rule: a learned rule.
        variables: for a rule that is not coordinatewise, its tensors, each with a `path` and a
            `shape`.

    Raises:
        ValueError: variables are missing for such a rule, or given for another.
    """
    if rule.is_coordinatewise != (variables is None):
        needed = "left out for a rule that is coordinatewise, whose SavedModel takes any"
        advice = "Leave them out."
        if variables is None:
            needed = "given for a rule that is not coordinatewise, whose SavedModel is of tensors"
            advice = "Give, say, problem.variables or model.trainable_variables."
        raise ValueError(
            f"variables must be {needed}. Received: variables={variables!r} for {rule!r}. {advice}"
        )
    if variables is None:
        return OfCoordinates(rule)
    return OfTensors(rule, [ParameterSpec(one.path, tuple(one.shape)) for one in variables])


class OfCoordinates(tf.Module):
    """A coordinatewise rule as functions for any number of coordinates.

    For a rule with parts, each function takes and returns dictionaries by part.
    """

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
        # The name suffix of each part's tensors, or "" for a rule without parts.
        self._suffixes = tf.nest.flatten(_for_each_part(rule, lambda suffix: suffix))

    def signatures(self) -> dict[str, Any]:
        """Returns the functions with named inputs and outputs, as SavedModel signatures require."""

        def initial_state(**num_coordinates):
            counts = self._packed("num_coordinates", num_coordinates)
            return _named_state(self.initial_state(counts))

        def update(**inputs):
            leaves = [inputs[name] for name in _named_state(self._state_spec)]
            state = tf.nest.pack_sequence_as(self._state_spec, leaves)
            delta, state = self.update(self._packed("gradient", inputs), state)
            return self._named("delta", delta) | _named_state(state)

        return {
            "initial_state": tf.function(initial_state, autograph=False).get_concrete_function(
                **self._named("num_coordinates", self._specs["num_coordinates"])
            ),
            "update": tf.function(update, autograph=False).get_concrete_function(
                **self._named("gradient", self._specs["gradient"]), **_state_specs(self._state_spec)
            ),
        }

    def _named(self, name: str, values: Any) -> dict[str, Any]:
        """Returns the values of all parts as one dictionary of named tensors."""
        leaves = tf.nest.flatten(values)
        return {f"{name}{end}": leaf for end, leaf in zip(self._suffixes, leaves, strict=True)}

    def _packed(self, name: str, named: dict[str, Any]) -> Any:
        """Inverts `_named`."""
        leaves = [named[f"{name}{end}"] for end in self._suffixes]
        return tf.nest.pack_sequence_as(self._specs[name], leaves)


class OfTensors(tf.Module):
    """A rule as functions for given tensors, which are named after their paths."""

    def __init__(self, rule: keras.layers.Layer, variables: Sequence[ParameterSpec]):
        super().__init__()
        self.rule_weights = [weight.value for weight in rule.weights]
        bound = rule.bind(variables)
        self._names = _names_of(variables)
        self._needs = sorted(bound.needs)
        self._state_spec = tf.nest.map_structure(
            lambda leaf: tf.TensorSpec(leaf.shape, leaf.dtype), bound.initial_state()
        )
        dtype = rule.compute_dtype
        specs = [tf.TensorSpec(variable.shape, dtype) for variable in variables]
        count = tf.TensorSpec([], tf.int32)
        own = {"step": count, "losses": tf.TensorSpec([1], dtype), "num_steps": count}
        self._info_specs = {
            name: specs if name == "parameters" else own[name] for name in self._needs
        }
        self._specs = specs
        self.initial_state = tf.function(bound.initial_state, input_signature=[], autograph=False)
        self.update = tf.function(
            lambda gradients, state, info: bound.update(gradients, state, StepInfo(**info)),
            input_signature=[specs, self._state_spec, self._info_specs],
            autograph=False,
        )

    def signatures(self) -> dict[str, Any]:
        """Returns the functions with named inputs and outputs, as SavedModel signatures require."""

        def initial_state():
            return _named_state(self.initial_state())

        def update(**inputs):
            gradients = [inputs[f"gradient_{name}"] for name in self._names]
            leaves = [inputs[name] for name in _named_state(self._state_spec)]
            info = {name: inputs[name] for name in self._needs if name != "parameters"}
            if "parameters" in self._needs:
                info["parameters"] = [inputs[f"parameter_{name}"] for name in self._names]
            state = tf.nest.pack_sequence_as(self._state_spec, leaves)
            deltas, state = self.update(gradients, state, info)
            return self._named("delta", deltas) | _named_state(state)

        specs = self._named("gradient", self._specs) | _state_specs(self._state_spec)
        for name, spec in self._info_specs.items():
            specs |= self._named("parameter", spec) if name == "parameters" else {name: spec}
        return {
            "initial_state": tf.function(initial_state, autograph=False).get_concrete_function(),
            "update": tf.function(update, autograph=False).get_concrete_function(
                **{name: tf.TensorSpec(one.shape, one.dtype, name) for name, one in specs.items()}
            ),
        }

    def _named(self, prefix: str, values: Sequence[Any]) -> dict[str, Any]:
        return {f"{prefix}_{name}": value for name, value in zip(self._names, values, strict=True)}


def _names_of(variables: Sequence[ParameterSpec]) -> list[str]:
    """Returns unique names made from paths, with only letters, digits and underscores."""
    names = [re.sub(r"\W", "_", variable.path) for variable in variables]
    return [
        name if names.count(name) == 1 else f"{name}_{index}" for index, name in enumerate(names)
    ]


def _for_each_part(rule: keras.layers.Layer, make: Callable[[str], Any]) -> Any:
    """Applies `make` to "_<part>" for each part, as a dictionary; without parts, to ""."""
    return {name: make(f"_{name}") for name in parts_of(rule)} or make("")


def _named_state(state: Any) -> dict[str, Any]:
    return {f"state_{index}": part for index, part in enumerate(tf.nest.flatten(state))}


def _state_specs(state_spec: Any) -> dict[str, tf.TensorSpec]:
    return {
        name: tf.TensorSpec(spec.shape, spec.dtype, name=name)
        for name, spec in _named_state(state_spec).items()
    }


def _spec_of_any_count(one: tf.Tensor, two: tf.Tensor) -> tf.TensorSpec:
    """Returns a state tensor's spec for any number of coordinates, given it for one and two."""
    shape = [a if a == b else None for a, b in zip(one.shape, two.shape, strict=True)]
    return tf.TensorSpec(shape, one.dtype)
