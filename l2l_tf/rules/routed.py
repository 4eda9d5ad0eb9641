"""Several learned rules in one, each for some of the variables of a problem or a model."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from l2l_tf.rules.rebuilding import rebuilt_predicate, rebuilt_rule
from l2l_tf.rules.routing import Route, assign_routes
from l2l_tf.rules.rule import FlatLayout, Rule

# The part for variables for which there is no route.
OTHER = "other"


@keras.saving.register_keras_serializable(package="l2l_tf")
class RoutedRule(keras.layers.Layer):
    """Learned rules as parts of one, which are trained, saved and used together.

    Each part has weights of its own and updates the variables that a route sends to it, all of them
    in one call. The paper has two parts for convolutional networks: one for the kernels of
    convolutions and one for all other parameters (Andrychowicz et al. 2016, section 3.3, arXiv
    1606.04474).

    Evaluation, meta-training and `LearnedOptimizer` know which variables there are and take it as
    they take any rule (`OnVariables`). Called by itself, it is given the coordinates part by part.

    Args:
        rule: the part for variables for which there is no route. It is called "other".
        routes: the other parts, each called after its kind, or `route_0`, `route_1`, ... after its
            index; of several that match a variable the first counts. Predicates see, of a problem's
            variables, path and shape.
        name: the layer's name.
        trainable: whether the weights count as trainable, as in any Keras layer.

    Call arguments:
        gradient: float `[N]` for each part, by its name; parts without coordinates may be left out.
        state: what `initial_state` or the previous call returned.

    Returns:
        The deltas, float `[N]` for each part, by its name, and the next state.

    Attributes:
        parts: the rules by name: those of the routes in order, then "other".
        routes: the routes.

    Raises:
        TypeError: a part is no learned rule, or is a `RoutedRule` itself.
        ValueError: there is no route, two have the same kind, a part is not coordinatewise or of
            another dtype than the others, one layer is given as two parts, or, at a call, something
            is given for a part that there is not.
    """

    is_coordinatewise = True

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
        # Attributes, so that tf.train.Checkpoint sees them, in the order of `parts`.
        for part_name, part in parts.items():
            setattr(self, f"_{part_name}", part)
        self._part_names = tuple(parts)
        self.built = True

    @property
    def parts(self) -> dict[str, Any]:
        """The rules by name: those of the routes in order, then "other"."""
        return {name: getattr(self, f"_{name}") for name in self._part_names}

    def initial_state(self, num_coordinates: Mapping[str, int | tf.Tensor]) -> dict[str, Any]:
        """Returns the state of each part, given the number of its coordinates by its name."""
        self._check_names(num_coordinates)
        return {
            name: self.parts[name].initial_state(count) for name, count in num_coordinates.items()
        }

    def call(
        self, gradient: Mapping[str, tf.Tensor], state: Mapping[str, Any]
    ) -> tuple[dict[str, tf.Tensor], dict[str, Any]]:
        self._check_names(gradient)
        return _update_parts(self.parts, gradient, state)

    def scale_deltas(self, factor: float) -> None:
        """Multiplies all further deltas of all parts by a factor."""
        for part in self.parts.values():
            part.scale_deltas(factor)

    def _check_names(self, given: Any) -> None:
        if not isinstance(given, Mapping) or not set(given) <= set(self._part_names):
            received = sorted(given) if isinstance(given, Mapping) else type(given).__name__
            raise ValueError(
                "A RoutedRule must be given a dictionary with entries for its parts, "
                f"{list(self._part_names)}. Received: {received}. Say which coordinates are whose: "
                "for those of a problem or a model, OnVariables and LearnedOptimizer do."
            )

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "trainable": self.trainable,
            "rule": keras.saving.serialize_keras_object(self.parts[OTHER]),
            "routes": [
                {
                    "rule": keras.saving.serialize_keras_object(route.rule),
                    # Not "name": which names have a part is no name of a layer.
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


class OnVariables:
    """A `RoutedRule` on given variables: a rule of one flat vector that holds them all.

    Deltas are those that each part gives to its own variables. Parts without any have no state.

    Args:
        rule: the rule.
        variables: what routes match: of each variable its shape, and its path or name.
        sizes: how many numbers each of them has in the flat vector, in order.
        arranged: what takes the place of each part, by name; by default the parts themselves.

    Attributes:
        num_coordinates: of each part that has any, by name.
        arranged: what is applied to them.
    """

    is_coordinatewise = False  # Where a coordinate stands says which part it belongs to.

    def __init__(
        self,
        rule: RoutedRule,
        variables: Sequence[Any],
        sizes: Sequence[int],
        arranged: Mapping[str, Rule] | None = None,
    ):
        self.rule = rule
        self._variables = variables
        self._sizes = list(sizes)
        names = list(rule.parts)
        # None, the last of the names: no route.
        routes = assign_routes(rule.routes, variables)
        self._owners = [names[-1 if route is None else route] for route in routes]
        owned = zip(self._owners, self._sizes, strict=True)
        counts = dict.fromkeys(names, 0)
        for owner, size in owned:
            counts[owner] += size
        self.num_coordinates = {name: count for name, count in counts.items() if count}
        self.arranged = dict(arranged or {name: rule.parts[name] for name in self.num_coordinates})

    @property
    def trainable_variables(self) -> list[Any]:
        """The weights of all parts."""
        return self.rule.trainable_variables

    def with_parts(self, arrange: Callable[[Rule, int], Rule]) -> "OnVariables":
        """Returns the same with each part replaced by what a function of it and its N returns."""
        arranged = {
            name: arrange(self.arranged[name], count)
            for name, count in self.num_coordinates.items()
        }
        return OnVariables(self.rule, self._variables, self._sizes, arranged)

    def split(self, tensor: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns of a tensor `[..., N]` what belongs to each part, by name."""
        pieces = tf.split(tensor, self._sizes, axis=-1)
        return {
            name: tf.concat(
                [piece for piece, owner in zip(pieces, self._owners, strict=True) if owner == name],
                axis=-1,
            )
            for name in self.num_coordinates
        }

    def initial_state(self, num_coordinates: int) -> dict[str, Any]:
        """Returns the state of each part, by name.

        Raises:
            ValueError: N is not the number of coordinates of the variables.
        """
        expected = sum(self._sizes)
        if num_coordinates != expected:
            raise ValueError(
                "num_coordinates must be that of the variables. Received: num_coordinates="
                f"{num_coordinates} with variables of {expected}. Make one for each problem."
            )
        counts = self.num_coordinates.items()
        return {name: self.arranged[name].initial_state(count) for name, count in counts}

    def __call__(
        self, gradient: tf.Tensor, state: Mapping[str, Any]
    ) -> tuple[tf.Tensor, dict[str, Any]]:
        deltas, state = _update_parts(self.arranged, self.split(gradient), state)
        # Each variable's delta is the next piece of its part's.
        pieces = {
            name: iter(
                tf.split(
                    delta,
                    [
                        size
                        for size, owner in zip(self._sizes, self._owners, strict=True)
                        if owner == name and size
                    ],
                )
            )
            for name, delta in deltas.items()
        }
        ordered = [
            next(pieces[owner]) if size else tf.zeros([0], gradient.dtype)
            for size, owner in zip(self._sizes, self._owners, strict=True)
        ]
        return tf.concat(ordered, axis=0), state


def on_problem(rule: Any, problem: Any) -> Any:
    """Returns a rule as one of a flat vector with all parameters of a problem.

    That is the rule itself, but for a `RoutedRule`, which must know which variables there are.

    Args:
        rule: any rule.
        problem: a problem: its `variables` and `parameter_shapes` are asked for.
    """
    if not isinstance(rule, RoutedRule):
        return rule
    return OnVariables(rule, problem.variables, FlatLayout(problem.parameter_shapes).sizes)


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
        if not part.is_coordinatewise:
            raise ValueError(
                f"Parts of a RoutedRule must be coordinatewise. Received: {part!r}. Leave it out."
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
