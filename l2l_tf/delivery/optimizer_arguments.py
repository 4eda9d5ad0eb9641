"""Checks of a LearnedOptimizer's arguments, and of `load`'s."""

import inspect
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from l2l_tf.delivery.assignment import path_of
from l2l_tf.rules.guards.guarded import Guarded
from l2l_tf.rules.routed import parts_of, without_routes
from l2l_tf.rules.routing import Route
from l2l_tf.rules.rule import Rule

# Arguments of every Keras optimizer that Keras does not check. Wrong values would fail at the first
# step, or turn weights into NaN.
_NUMBERS = ("weight_decay", "clipnorm", "clipvalue", "global_clipnorm", "loss_scale_factor")


def check_backend() -> None:
    """Raises RuntimeError if Keras's backend is not TensorFlow."""
    if (backend := keras.config.backend()) != "tensorflow":
        raise RuntimeError(
            "Keras must run on TensorFlow for LearnedOptimizer. "
            f"Received: backend={backend!r}. Set KERAS_BACKEND=tensorflow in the environment."
        )


def checked_rules(rule: Any, routes: Any) -> tuple[Rule, list[Route]]:
    """Returns a rule without routes of its own, and all routes, those given first.

    Args:
        rule: a rule. If it has parts (`l2l_tf.rules.RoutedRule`), its routes are taken out.
        routes: an iterable of routes.

    Raises:
        TypeError: `rule` is not a rule, or `routes` holds something other than routes.
        ValueError: a route's rule has routes of its own.
    """
    _check_rule("rule", rule)
    listed = list(routes) if isinstance(routes, Iterable) else [routes]
    if not isinstance(routes, Iterable) or not all(isinstance(one, Route) for one in listed):
        raise TypeError(
            "routes must be a list of routes (l2l_tf.rules.Route). "
            f"Received: routes={routes!r}. Make a Route for each rule, and a list of them."
        )
    for route in listed:
        _check_rule("rule of each route", route.rule)
        if parts_of(route.rule):
            raise ValueError(
                "The rule of a route must have no routes of its own. "
                f"Received: {route.rule!r}. Give the routes of its parts one by one."
            )
    own_rule, own_routes = without_routes(rule)
    return own_rule, [*listed, *own_routes]


def check_flag(argument: str, value: Any) -> None:
    """Raises TypeError if an argument is neither True nor False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(
            f"{argument} must be True or False. Received: {argument}={value!r}. Give one of them."
        )


def guard_settings(guard: Any) -> dict[str, Any]:
    """Returns the arguments of `l2l_tf.rules.guarded` after the rule, by name.

    Args:
        guard: the fallback alone, or a dictionary of them.

    Raises:
        TypeError: the fallback is no rule.
        ValueError: the dictionary has no fallback, or another key.
    """
    settings = dict(guard) if isinstance(guard, Mapping) else {"fallback": guard}
    known = set(inspect.signature(Guarded).parameters) - {"rule", "name", "trainable"}
    if "fallback" not in settings or not set(settings) <= known:
        raise ValueError(
            f'guard must hold a "fallback", and of {sorted(known - {"fallback"})} what is not to '
            f"be chosen. Received: guard with {list(settings)}. Give, say, "
            '{"fallback": l2l_tf.rules.Adam(0.001), "theta": 1.0}.'
        )
    fallback = settings["fallback"]
    if not isinstance(fallback, Rule) or isinstance(fallback, type):
        raise TypeError(
            "guard must be a hand-designed rule, or a dictionary with one as its fallback. "
            f"Received: {fallback!r}. Give, say, l2l_tf.rules.Adam(0.001)."
        )
    return settings


def check_numbers(keras_arguments: Mapping[str, Any]) -> None:
    """Checks the arguments of every Keras optimizer that Keras itself does not check.

    Raises:
        TypeError: an argument is not a number.
        ValueError: an argument is not finite.
    """
    for argument in _NUMBERS:
        value = keras_arguments.get(argument)
        # Some users write False for None, which Keras's own optimizers accept.
        if value is None or value is False:
            continue
        is_number = isinstance(value, numbers.Real) and value is not True
        if not is_number or not math.isfinite(value):
            raise (ValueError if is_number else TypeError)(
                f"{argument} must be None or a finite number. Received: {argument}={value!r}. "
                "Give a float, or leave it out."
            )


def check_variables(variables: Sequence[Any]) -> None:
    """Checks that a rule can update variables.

    Raises:
        TypeError: a variable is complex.
        ValueError: the shape of a variable is not fully known.
    """
    for variable in variables:
        if tf.as_dtype(variable.dtype).is_complex:
            raise TypeError(
                "Variables must be real to be updated by a rule. Received: "
                f"{path_of(variable)!r} of {tf.as_dtype(variable.dtype).name}. Keep real and "
                "imaginary parts in variables of their own."
            )
        if not tf.TensorShape(variable.shape).is_fully_defined():
            raise ValueError(
                "Variables must have a known shape to be updated by a rule. Received: "
                f"{path_of(variable)!r} of shape {tf.TensorShape(variable.shape)}. Make it with "
                "all of its dimensions."
            )


def _check_rule(argument: str, rule: Any) -> None:
    # A class has the methods of its instances, so it would pass for a rule.
    if not isinstance(rule, Rule) or isinstance(rule, type):
        raise TypeError(
            f"{argument} must be a rule (l2l_tf.rules.Rule). Received: {rule!r}. "
            "Load one with l2l_tf.load_rule, or give a name to l2l_tf.load."
        )
