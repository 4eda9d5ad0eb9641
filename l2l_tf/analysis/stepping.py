"""Steps of a coordinatewise rule on a few coordinates, outside of any problem."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from l2l_tf.analysis.record import WHOLE, Record, check_record
from l2l_tf.checks import check_instance
from l2l_tf.rules.routed import parts_of
from l2l_tf.rules.rule import Rule

# The largest difference between a rule's delta and the recorded one, relative to the largest delta.
_TOLERANCE = 1e-2

# The state of each part, by name.
State = dict[str, Any]


class Stepper:
    """A coordinatewise rule on C coordinates, each updated by its part of the rule.

    Args:
        rule: the rule, with parts or without.
        parts: for each part, the indices of its coordinates. By default, one coordinate for each
            part of the rule, in their order.

    Raises:
        TypeError: the rule is none.
        ValueError: the rule looks at whole tensors, has other parts, or does not compute in
            float32.
    """

    def __init__(self, rule: Rule, parts: Mapping[str, np.ndarray] | None = None):
        check_instance("rule", rule, Rule, "a rule", "Load one with l2l_tf.load_rule.")
        if not rule.is_coordinatewise:
            raise ValueError(
                "This probe needs a rule that answers the gradients of single coordinates. "
                f"Received: {rule!r}, which looks at whole tensors. Take effective_rate or "
                "attribution, which need its record alone."
            )
        own = parts_of(rule) or {WHOLE: rule}
        if parts is None:
            parts = {name: np.array([index]) for index, name in enumerate(own)}
        if not set(parts) <= set(own):
            raise ValueError(
                "The record must be one of this rule. "
                f"Received: a record of the parts {sorted(parts)} with a rule of {sorted(own)}. "
                "Record the rule itself."
            )
        for one in own.values():
            dtype = getattr(one, "compute_dtype", "float32")
            if dtype != "float32":
                raise ValueError(
                    f"rule must compute in float32. Received: {one!r} of dtype {dtype}. Build it "
                    "with dtype='float32'."
                )
        self.rules = {name: own[name] for name in parts}
        self.parts = dict(parts)
        self.num_coordinates = sum(len(one) for one in parts.values())

    def initial_state(self, copies: int = 1) -> State:
        """Returns the state before the first step, for some copies of the coordinates."""
        return {
            name: rule.initial_state(copies * len(self.parts[name]))
            for name, rule in self.rules.items()
        }

    def __call__(self, gradients: Any, state: State) -> tuple[tf.Tensor, State]:
        """Returns deltas, float `[K, C]`, and the next state.

        Args:
            gradients: float `[K, C]`, for K copies of the coordinates.
            state: the state, for as many copies.
        """
        gradients = tf.convert_to_tensor(gradients)
        copies = gradients.shape[0]
        deltas, after = [], {}
        for name, rule in self.rules.items():
            own = tf.gather(gradients, self.parts[name], axis=1)
            delta, after[name] = rule(tf.reshape(own, [-1]), state[name])
            deltas.append(tf.reshape(delta, [copies, -1]))
        order = np.argsort(np.concatenate(list(self.parts.values())))
        return tf.gather(tf.concat(deltas, axis=1), order, axis=1), after

    def replay(self, gradients: np.ndarray) -> tuple[np.ndarray, State]:
        """Returns deltas `[T, C]` for gradients `[T, C]`, and the states before each step."""
        state, deltas, states = self.initial_state(), [], []
        for gradient in gradients:
            states.append(tf.nest.map_structure(lambda leaf: leaf.numpy(), state))
            delta, state = self(gradient[np.newaxis], state)
            deltas.append(delta[0].numpy())
        stacked = tf.nest.map_structure(lambda *leaves: np.stack(leaves), *states)
        return np.stack(deltas), stacked


def stepper_for(rule: Rule, record: Record) -> Stepper:
    """Returns a rule on the coordinates of its record.

    Raises:
        TypeError: the rule or the record is none.
        ValueError: the rule looks at whole tensors, or the record is of another rule or has no
            states.
    """
    check_record(record)
    stepper = Stepper(rule, record.parts)
    if record.states is None:
        raise ValueError(
            "The record must be one of this rule, with states. Received: a record without. Record "
            "the rule itself, and keep its states."
        )
    for step in sorted({0, record.num_steps // 2, record.num_steps - 1}):
        try:
            state = state_at(record, step)
            delta, _ = stepper(record.gradients[step : step + 1], state)
            difference = float(np.abs(delta[0].numpy() - record.deltas[step]).max())
        except (ValueError, TypeError, IndexError, tf.errors.InvalidArgumentError):
            raise ValueError(
                "The record must be one of this rule. Received: a record whose states have another "
                "form than the rule's. Record the rule itself."
            ) from None
        if not difference <= _TOLERANCE * float(np.abs(record.deltas).max()) + 1e-12:
            raise ValueError(
                "The record must be one of this rule. Received: a record whose deltas differ from "
                f"the rule's by up to {difference:.3g} in step {step}. Record the rule itself; in "
                "fit, from its first step, without a guard, weight decay or another learning rate."
            )
    return stepper


def state_at(record: Record, step: int, copies: int = 1) -> State:
    """Returns the state before a step of a record, for some copies of its coordinates."""

    def leaf_at(leaf: np.ndarray) -> tf.Tensor:
        now = tf.constant(leaf[step])
        return tf.tile(now, [copies] + [1] * (now.shape.rank - 1)) if now.shape.rank else now

    return tf.nest.map_structure(leaf_at, dict(record.states or {}))


def spread_steps(num_steps: int, count: int) -> np.ndarray:
    """Returns up to `count` steps of T, spread evenly from the first to the last."""
    return np.unique(np.linspace(0, num_steps - 1, count).round().astype(int))


def checked_steps(record: Record, steps: Sequence[int]) -> np.ndarray:
    """Returns steps of a record as an array.

    Raises:
        ValueError: there are none, or one is no step of the record.
    """
    try:
        at = np.asarray(steps)
    except ValueError:  # Of lists of several lengths.
        at = np.zeros(0)
    is_integer = at.ndim == 1 and at.size and np.issubdtype(at.dtype, np.integer)
    if not is_integer or at.min() < 0 or at.max() >= record.num_steps:
        raise ValueError(
            f"steps must be one or more integers from 0 to {record.num_steps - 1}, the record's "
            f"last step. Received: steps={steps!r}. Leave it out for a few of them."
        )
    return at
