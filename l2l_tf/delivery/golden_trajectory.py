"""Gradients and a rule's answers to them, by which a reloaded rule is known to be the same."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from l2l_tf.parameter_spec import ParameterSpec
from l2l_tf.rules.routed import parts_of
from l2l_tf.rules.rule import StepInfo

_NUM_STEPS = 8
_NUM_COORDINATES = 5
# What a rule that is not coordinatewise answers for.
_VARIABLES = [
    ParameterSpec("convolution/kernel", (2, 2, 3, 4)),
    ParameterSpec("dense/kernel", (6, 5)),
    ParameterSpec("dense/bias", (5,)),
    ParameterSpec("scale", ()),
]
# More than any export writes: a replay takes a fraction of a second, whatever a card holds.
_MAX_NUM_STEPS = 100
_MAX_NUM_COORDINATES = 10_000

# How far deltas of a coordinate may be off, relative to its largest one: coordinates have gradients
# of very different sizes, and what was learned may show only where they are small. Of the rules
# that come with the package, other processors, XLA and float64 are off by up to 2e-6; a hundredth
# of any tensor of their weights, by at least 7e-5.
_TOLERANCE = 2e-5
# Of a rule that is more sensitive: how many times as far off as with weights that were rounded
# otherwise, and how far at most.
_NUM_ROUNDINGS = 32
_MAX_TOLERANCE = 1e-3


def golden_trajectory(rule: keras.layers.Layer) -> dict[str, Any]:
    """Returns gradients of many sizes and the deltas of the rule, as lists `[T, N]`.

    Of a rule with parts, the coordinates of each stand one after the other; of one that is not
    coordinatewise, those of some tensors.
    """
    generator = np.random.default_rng(0)
    if rule.is_coordinatewise:
        num_parts = len(parts_of(rule)) or 1
        sizes = 10.0 ** np.tile(np.linspace(-6, 2, _NUM_COORDINATES), num_parts)
    else:
        counts = [math.prod(variable.shape) for variable in _VARIABLES]
        sizes = np.repeat(10.0 ** np.linspace(-4, 1, len(counts)), counts)
    normal = generator.standard_normal((_NUM_STEPS, sizes.size))
    gradients = (normal * sizes).astype(np.float32)
    return {"gradients": gradients.tolist(), "deltas": _deltas(rule, gradients).tolist()}


def check_trajectory(golden: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the gradients and the deltas of a trajectory, float64 `[T, N]` each.

    Raises:
        ValueError: it is none, or larger than any that an export writes.
    """
    try:
        gradients, deltas = np.array([golden["gradients"], golden["deltas"]], np.float64)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise ValueError("a golden trajectory must have gradients and deltas") from error
    if gradients.ndim != 2 or not gradients.size:
        raise ValueError("a golden trajectory must have steps and coordinates")
    if len(gradients) > _MAX_NUM_STEPS or gradients.shape[1] > _MAX_NUM_COORDINATES:
        raise ValueError(
            f"a golden trajectory must have at most {_MAX_NUM_STEPS} steps of "
            f"{_MAX_NUM_COORDINATES} coordinates"
        )
    return gradients, deltas


def difference(
    rule: keras.layers.Layer, gradients: np.ndarray, expected: np.ndarray
) -> tuple[float, float] | None:
    """Returns how far a rule's deltas are off, or None if it repeats the trajectory.

    That is the largest error of the coordinate that is farthest off, and its largest delta.

    Args:
        rule: the rule. Its weights may be changed, and are then set back.
        gradients: float `[T, N]`.
        expected: the deltas, float `[T, N]`.
    """
    sizes = np.maximum(np.abs(expected).max(axis=0), np.finfo(np.float64).eps)
    deltas = _deltas(rule, gradients)
    errors = np.abs(deltas - expected).max(axis=0) / sizes
    # A NaN is off too: hence not `errors > ...`.
    if not (errors <= _TOLERANCE).all():
        roundings = np.abs(_deltas_of_neighbour(rule, gradients) - deltas).max(axis=0) / sizes
        tolerance = np.clip(_NUM_ROUNDINGS * roundings, _TOLERANCE, _MAX_TOLERANCE)
        is_off = ~(errors <= tolerance)
        if is_off.any():
            # Of several NaNs and numbers, a NaN.
            worst = np.argmax(np.where(is_off, errors, 0))
            return float(errors[worst] * sizes[worst]), float(sizes[worst])
    return None


def _deltas_of_neighbour(rule: keras.layers.Layer, gradients: np.ndarray) -> np.ndarray:
    """Returns the deltas with each weight replaced by the next number above or below it."""
    draw = np.random.default_rng(0)
    weights = rule.get_weights()
    neighbours = [
        np.nextafter(weight, draw.choice(np.array([-np.inf, np.inf], weight.dtype), weight.shape))
        if weight.dtype in (np.float32, np.float64)
        else weight
        for weight in weights
    ]
    try:
        rule.set_weights(neighbours)
        return _deltas(rule, gradients)
    finally:
        rule.set_weights(weights)


def _deltas(rule: keras.layers.Layer, gradients: np.ndarray) -> np.ndarray:
    """Returns the deltas `[T, N]` with which a rule answers gradients of a golden trajectory."""
    # A GPU may multiply float32 in TensorFloat-32, whose 10 bits are too few for the tolerance.
    with tf.device("CPU:0"):
        if rule.is_coordinatewise:
            return _deltas_of_coordinates(rule, gradients)
        return _deltas_of_tensors(rule, gradients)


def _deltas_of_tensors(rule: keras.layers.Layer, gradients: np.ndarray) -> np.ndarray:
    """Returns the deltas of the tensors of every trajectory, which begin at the same parameters."""
    bound = rule.bind(_VARIABLES)
    if gradients.shape[1] != bound.num_coordinates:
        raise ValueError(f"a golden trajectory must be of {bound.num_coordinates} coordinates")
    dtype = rule.compute_dtype
    parameters = tf.constant(np.cos(np.arange(bound.num_coordinates)), dtype)
    state, deltas = bound.initial_state(), []
    for step, row in enumerate(gradients):
        info = StepInfo(
            tf.constant(step), tf.fill([1], tf.constant(1 / (1 + step), dtype)), parameters
        )
        delta, state = bound(tf.constant(row, dtype), state, info)
        parameters += delta
        deltas.append(delta.numpy())
    return np.stack(deltas)


def _deltas_of_coordinates(rule: keras.layers.Layer, gradients: np.ndarray) -> np.ndarray:
    """Returns a rule's deltas `[T, N]`; of parts, each takes an equal share of coordinates."""
    names = list(parts_of(rule))
    count = gradients.shape[1] // max(1, len(names))
    deltas = []
    state = rule.initial_state(dict.fromkeys(names, count) if names else count)
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
