"""Several learned rules combined into one, each for some of the variables."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from l2l_tf.rules.coordinatewise import MAX_TAPE_BYTES
from l2l_tf.rules.execution.chunks import CHUNK_SIZE
from l2l_tf.rules.rebuilding import rebuilt_predicate, rebuilt_rule
from l2l_tf.rules.routing import Route, assign_routes
from l2l_tf.rules.rule import NO_INFO, BoundRule, FlatLayout, Rule, StepInfo, batched_layout

# The name of the part for variables that match no route.
OTHER = "other"


@keras.saving.register_keras_serializable(package="l2l_tf")
class RoutedRule(keras.layers.Layer):
    """Learned rules combined as parts of one rule, which are trained, saved and used together.

    Each part has its own weights and updates, in one call, all variables that a route sends to it.
    The paper has two parts for convolutional networks: one for the kernels of convolutions and one
    for all other parameters (Andrychowicz et al. 2016, section 3.3, arXiv 1606.04474).

    Evaluation, meta-training and `LearnedOptimizer` know the variables and use this rule like any
    other (`bind`). If called directly, it takes the coordinates part by part.

    Args:
        rule: the part for variables that match no route. It is named "other".
        routes: the other parts. Each is named after its kind, or `route_0`, `route_1`, ... after
            its index. If several match a variable, the first one wins. For a problem's variables,
            predicates receive objects with path and shape.
        name: the layer's name.
        trainable: whether the weights are trainable, as in any Keras layer.

    Call arguments:
        gradient: float `[N]` for each part, by name. Parts without coordinates may be omitted.
        state: the state returned by `initial_state` or by the previous call.

    Returns:
        The deltas, float `[N]` for each part, by name, and the next state.

    Attributes:
        parts: the rules by name: those of the routes in order, then "other".
        routes: the routes.

    Raises:
        TypeError: a part is not a learned rule, or is itself a `RoutedRule`.
        ValueError: there are no routes, two have the same kind, parts have different dtypes, or two
            parts are the same layer. At a call, an unknown part is named.
    """

    def __init__(
        self,
        rule: keras.layers.Layer,
        routes: Sequence[Route],
        name: str | None = None,
        trainable: bool = True,
    ):
        names = [route.kind or f"route_{index}" for index, route in enumerate(routes)]
        if not names or len(set(names)) < len(names):
            raise ValueError(
                "routes must hold one or more routes, at most one of each kind. "
                f"Received: routes={list(routes)}. Take the rule itself where one is enough."
            )
        parts = dict(zip([*names, OTHER], [*(route.rule for route in routes), rule], strict=True))
        _check_parts(parts)
        super().__init__(dtype=rule.compute_dtype, name=name, trainable=trainable, autocast=False)
        self.routes = tuple(routes)
        # Attributes, so that tf.train.Checkpoint finds them, in the order of `parts`.
        for part_name, part in parts.items():
            setattr(self, f"_{part_name}", part)
        self._part_names = tuple(parts)
        self.built = True

    @property
    def is_coordinatewise(self) -> bool:
        """Whether every part is coordinatewise."""
        return all(part.is_coordinatewise for part in self.parts.values())

    @property
    def parts(self) -> dict[str, Any]:
        """The rules by name: those of the routes in order, then "other"."""
        return {name: getattr(self, f"_{name}") for name in self._part_names}

    def initial_state(self, num_coordinates: Mapping[str, int | tf.Tensor]) -> dict[str, Any]:
        """Returns the state of each part, given its number of coordinates, by name."""
        self._check_names(num_coordinates)
        return {
            name: self.parts[name].initial_state(count) for name, count in num_coordinates.items()
        }

    def call(
        self, gradient: Mapping[str, tf.Tensor], state: Mapping[str, Any]
    ) -> tuple[dict[str, tf.Tensor], dict[str, Any]]:
        self._check_names(gradient)
        return _update_parts(self.parts, gradient, state)

    def bind(self, variables: Sequence[Any], batch_shape: Sequence[int] = ()) -> "BoundParts":
        """Returns the rule for given tensors, each assigned to the first route that it matches.

        Args:
            variables: descriptions of the tensors for routes to match, each with a shape and a path
                or name.
            batch_shape: leading axes that are not part of each tensor's own shape.
        """
        names = list(self.parts)
        # None, for no route, maps to the last name.
        routes = assign_routes(self.routes, variables)
        owners = [names[-1 if route is None else route] for route in routes]
        parts = {}
        for name, part in self.parts.items():
            own = [one for one, owner in zip(variables, owners, strict=True) if owner == name]
            bound = part.bind(own, batch_shape)
            if bound.num_coordinates:
                parts[name] = bound
        return BoundParts(self, parts, owners, batched_layout(variables, batch_shape))

    def of_each_part(self, function: Callable[[Any], Any]) -> "RoutedRule":
        """Returns a rule with the same routes, and a function applied to each part."""
        routes = [dataclasses.replace(route, rule=function(route.rule)) for route in self.routes]
        return RoutedRule(function(self.parts[OTHER]), routes, self.name, self.trainable)

    def rescaled(self, factor: float) -> "RoutedRule":
        """Returns a copy whose deltas are `factor` times those of this rule.

        Raises:
            ValueError: the factor is not positive and finite.
        """
        return self.of_each_part(lambda part: part.rescaled(factor))

    def _check_names(self, given: Any) -> None:
        if not isinstance(given, Mapping) or not set(given) <= set(self._part_names):
            received = sorted(given) if isinstance(given, Mapping) else type(given).__name__
            raise ValueError(
                "A RoutedRule must be given a dictionary with entries for its parts, "
                f"{list(self._part_names)}. Received: {received}. Say which coordinates are whose: "
                "for those of a problem or a model, bind and LearnedOptimizer do."
            )

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "trainable": self.trainable,
            "rule": keras.saving.serialize_keras_object(self.parts[OTHER]),
            "routes": [
                {
                    "rule": keras.saving.serialize_keras_object(route.rule),
                    # Not "name", which is the layer's name.
                    "kind": route.kind,
                    "pattern": route.name,
                    "predicate": keras.saving.serialize_keras_object(route.predicate),
                }
                for route in self.routes
            ],
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "RoutedRule":
        routes = [
            Route(
                rebuilt_rule(one["rule"]),
                one["kind"],
                one["pattern"],
                rebuilt_predicate(one["predicate"]),
            )
            for one in config["routes"]
        ]
        return cls(**config | {"rule": rebuilt_rule(config["rule"]), "routes": routes})


class BoundParts(BoundRule):
    """A `RoutedRule` bound to given tensors. Each part gets the tensors that its route matches.

    Parts without tensors have no state, and their weights have no gradient.

    Args:
        rule: the rule.
        parts: each part that has coordinates, bound to its tensors, by name.
        owners: the name of the part that each tensor belongs to.
        layout: the positions of the tensors among the coordinates.
    """

    def __init__(
        self,
        rule: RoutedRule,
        parts: Mapping[str, BoundRule],
        owners: Sequence[str],
        layout: FlatLayout,
    ):
        self.rule = rule
        self.parts = dict(parts)
        self.layout = layout
        self._owners = list(owners)
        self.needs = frozenset().union(*(part.needs for part in self.parts.values()))
        self.is_replayed = all(part.is_replayed for part in self.parts.values())

    @property
    def trainable_variables(self) -> list[Any]:
        return self.rule.trainable_variables

    def initial_state(self) -> dict[str, Any]:
        return {name: part.initial_state() for name, part in self.parts.items()}

    def __call__(
        self, gradient: tf.Tensor, state: Mapping[str, Any], info: StepInfo = NO_INFO
    ) -> tuple[tf.Tensor, dict[str, Any]]:
        gradients = self._split(gradient)
        parameters = {} if info.parameters is None else self._split(info.parameters)
        deltas, next_state = {}, {}
        for name, part in self.parts.items():
            own_info = info._replace(parameters=parameters.get(name))
            deltas[name], next_state[name] = part(gradients[name], state[name], own_info)
        return self._joined(deltas, gradient.dtype), next_state

    def for_steps(self) -> BoundRule:
        return self._with_parts(lambda part: part.for_steps())

    def for_training(self, num_steps: int, chunk_size: int | None = None) -> BoundRule:
        """Returns the rule with each part prepared for training: all are replayed, or none."""
        if chunk_size is None:
            can_be_cut = all(part.can_be_cut for part in self.parts.values())
            is_large = self.tape_bytes(num_steps) > MAX_TAPE_BYTES
            chunk_size = CHUNK_SIZE if can_be_cut and is_large else 0
        return self._with_parts(lambda part: part.for_training(num_steps, chunk_size))

    def tape_bytes(self, num_steps: int) -> int:
        return sum(part.tape_bytes(num_steps) for part in self.parts.values())

    def pullback(
        self,
        state: Mapping[str, Any],
        first_gradient: tf.Tensor,
        gradients: tf.Tensor,
        step_weights: tf.Tensor,
        backpropagation_steps: int | None = None,
    ) -> list[tf.Tensor]:
        first_gradients, later_gradients = self._split(first_gradient), self._split(gradients)
        results: list[tf.Tensor] = []
        for name, part in self.rule.parts.items():
            if name in self.parts:
                results += self.parts[name].pullback(
                    state[name],
                    first_gradients[name],
                    later_gradients[name],
                    step_weights,
                    backpropagation_steps,
                )
            else:
                results += [tf.zeros_like(weight.value) for weight in part.trainable_variables]
        return results

    def restarted_state(self, state: Mapping[str, Any]) -> dict[str, Any]:
        return {name: part.restarted_state(state[name]) for name, part in self.parts.items()}

    def whole_state(self, state: Mapping[str, Any]) -> dict[str, Any]:
        return {name: part.whole_state(state[name]) for name, part in self.parts.items()}

    def cut_state(self, state: Mapping[str, Any]) -> dict[str, Any]:
        return {name: part.cut_state(state[name]) for name, part in self.parts.items()}

    def _with_parts(self, change: Callable[[BoundRule], BoundRule]) -> "BoundParts":
        parts = {name: change(part) for name, part in self.parts.items()}
        return BoundParts(self.rule, parts, self._owners, self.layout)

    def _split(self, tensor: tf.Tensor) -> dict[str, tf.Tensor]:
        """Splits a tensor `[..., N]` by part."""
        pieces = list(zip(tf.split(tensor, self.layout.sizes, axis=-1), self._owners, strict=True))
        return {
            name: tf.concat([piece for piece, owner in pieces if owner == name], axis=-1)
            for name in self.parts
        }

    def _joined(self, deltas: Mapping[str, tf.Tensor], dtype: tf.DType) -> tf.Tensor:
        """Joins the deltas of all tensors, in the tensors' order, into one vector."""
        owned = list(zip(self.layout.sizes, self._owners, strict=True))
        # Each tensor's delta is the next piece of its part's delta.
        pieces = {
            name: iter(tf.split(delta, [size for size, owner in owned if owner == name and size]))
            for name, delta in deltas.items()
        }
        ordered = [next(pieces[owner]) if size else tf.zeros([0], dtype) for size, owner in owned]
        return tf.concat(ordered, axis=0)


def parts_of(rule: Any) -> dict[str, Any]:
    """Returns the parts of a rule by name; none of a rule that is not a `RoutedRule`."""
    return rule.parts if isinstance(rule, RoutedRule) else {}


def without_routes(rule: Any) -> tuple[Any, tuple[Route, ...]]:
    """Returns the rule for variables without a route, and the routes; any other rule has none."""
    return (rule.parts[OTHER], rule.routes) if isinstance(rule, RoutedRule) else (rule, ())


def _update_parts(
    parts: Mapping[str, Any], gradients: Mapping[str, tf.Tensor], state: Mapping[str, Any]
) -> tuple[dict[str, tf.Tensor], dict[str, Any]]:
    deltas, next_state = {}, {}
    for name, gradient in gradients.items():
        deltas[name], next_state[name] = parts[name](gradient, state[name])
    return deltas, next_state


def _check_parts(parts: Mapping[str, Any]) -> None:
    for part in parts.values():
        if (
            isinstance(part, RoutedRule)
            or not isinstance(part, keras.layers.Layer)
            or not isinstance(part, Rule)
        ):
            raise TypeError(
                "Parts of a RoutedRule must be learned rules, which are Keras layers, with one "
                f"part each. Received: {part!r}. Hand-designed rules go into routes of "
                "LearnedOptimizer."
            )
    if len({id(part) for part in parts.values()}) < len(parts):
        raise ValueError(
            "Parts of a RoutedRule must be different layers, as each has weights of its own. "
            f"Received: the same for two of {list(parts)}. Make one for each."
        )
    dtypes = {name: part.compute_dtype for name, part in parts.items()}
    if len(set(dtypes.values())) > 1:
        raise ValueError(
            f"Parts of a RoutedRule must be of one dtype. Received: {dtypes}. Make all of them "
            "float32."
        )
