"""Golden trajectories: gradients and a rule's deltas, to verify a reloaded rule."""

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
# The tensors for rules that are not coordinatewise.
_VARIABLES = [
    ParameterSpec("convolution/kernel", (2, 2, 3, 4)),
    ParameterSpec("dense/kernel", (6, 5)),
    ParameterSpec("dense/bias", (5,)),
    ParameterSpec("scale", ()),
]
# More than any export writes. With these limits, a replay takes only a fraction of a second.
_MAX_NUM_STEPS = 100
_MAX_NUM_COORDINATES = 10_000

# The tolerance for a coordinate's deltas, relative to its largest one. It is set for each
# coordinate, since their gradients differ greatly in size, and the effect of training may show only
# for small ones. For the shipped coordinatewise rules, other processors, XLA and float64 cause
# errors of up to 2e-6. A change by a hundredth in any tensor of their weights causes at least 7e-5.
_TOLERANCE = 2e-5
# A more sensitive rule gets a larger tolerance: this many times the error caused by rounding its
# weights differently, up to a maximum.
_NUM_ROUNDINGS = 32
_MAX_TOLERANCE = 1e-3


def golden_trajectory(rule: keras.layers.Layer) -> dict[str, Any]:
    """Returns gradients of many sizes and the rule's deltas for them, as lists `[T, N]`.

    The coordinates of a rule's parts stand one after another. A rule that is not coordinatewise
    gets those of some tensors.
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
        ValueError: it is not a trajectory, or larger than any that an export writes.
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
    """Returns the error of a rule's deltas, or None if it reproduces the trajectory.

    The result is the largest error in the worst coordinate, and that coordinate's largest delta.

    Args:
        rule: the rule. Its weights may be changed temporarily.
        gradients: float `[T, N]`.
        expected: the deltas, float `[T, N]`.
    """
    sizes = np.maximum(np.abs(expected).max(axis=0), np.finfo(np.float64).eps)
    deltas = _deltas(rule, gradients)
    errors = np.abs(deltas - expected).max(axis=0) / sizes
    # Not `errors > ...`, since NaN must count as an error too.
    if not (errors <= _TOLERANCE).all():
        roundings = np.abs(_deltas_of_neighbour(rule, gradients) - deltas).max(axis=0) / sizes
        tolerance = np.clip(_NUM_ROUNDINGS * roundings, _TOLERANCE, _MAX_TOLERANCE)
        is_off = ~(errors <= tolerance)
        if is_off.any():
            # If there are NaNs, this picks one of them.
            worst = np.argmax(np.where(is_off, errors, 0))
            return float(errors[worst] * sizes[worst]), float(sizes[worst])
    return None


def _deltas_of_neighbour(rule: keras.layers.Layer, gradients: np.ndarray) -> np.ndarray:
    """Returns the deltas with each weight replaced by an adjacent floating-point number."""
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
    """Returns a rule's deltas `[T, N]` for the gradients of a golden trajectory."""
    # A GPU may multiply float32 in TensorFloat-32, whose 10 bits are not enough for the tolerance.
    with tf.device("CPU:0"):
        if rule.is_coordinatewise:
            return _deltas_of_coordinates(rule, gradients)
        return _deltas_of_tensors(rule, gradients)


def _deltas_of_tensors(rule: keras.layers.Layer, gradients: np.ndarray) -> np.ndarray:
    """Returns the deltas for tensors, starting from parameters that are always the same."""
    bound = rule.bind(_VARIABLES)
    if gradients.shape[1] != bound.num_coordinates:
        raise ValueError(f"a golden trajectory must be of {bound.num_coordinates} coordinates")
    dtype = rule.compute_dtype
    parameters = tf.constant(np.cos(np.arange(bound.num_coordinates)), dtype)
    state, deltas = bound.initial_state(), []
    for step, row in enumerate(gradients):
        info = StepInfo(
            tf.constant(step),
            tf.fill([1], tf.constant(1 / (1 + step), dtype)),
            parameters,
            tf.constant(len(gradients)),
        )
        delta, state = bound(tf.constant(row, dtype), state, info)
        parameters += delta
        deltas.append(delta.numpy())
    return np.stack(deltas)


def _deltas_of_coordinates(rule: keras.layers.Layer, gradients: np.ndarray) -> np.ndarray:
    """Returns a rule's deltas `[T, N]`. Parts, if any, get equal shares of coordinates."""
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
