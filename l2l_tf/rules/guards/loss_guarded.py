"""Any rule whose loss is watched: it goes back, and a fallback takes over, when it gets worse."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from l2l_tf.checks import check_at_least, check_count, check_non_negative
from l2l_tf.rules.guards.batches import of_coordinates, started_anew
from l2l_tf.rules.guards.settings import check_rules, check_told
from l2l_tf.rules.rebuilding import rebuilt_rule
from l2l_tf.rules.rule import NO_INFO, BoundRule, Rule, StepInfo, batched_layout


@keras.saving.register_keras_serializable(package="l2l_tf")
class LossGuarded(keras.layers.Layer):
    """A rule that goes back to kept parameters when the loss gets worse, and hands over.

    Every `every` steps, the mean loss of these steps is compared with the least one so far, at
    first the loss of the first step. If it is lower, the parameters are kept. If it is above it by
    more than the margin, or is not finite, the parameters return to those kept, and the fallback
    alone takes the next `patience` steps, from a new state. Each time, the patience grows. Each
    task and each function is watched for itself; only a count of steps that belongs to all of them,
    such as that of `Adam`, starts anew when all do.

    It needs the losses: it is for `l2l_tf.evaluate`, meta-training and loops of one's own. In
    Keras's `fit`, `l2l_tf.LossGuard` does the same. The idea of a fallback that takes over is that
    of Premont-Schwarz et al. 2022 (arXiv 2201.12426), which compares the losses of both rules; here
    one run is compared with its own past.

    Args:
        rule: the rule inside, without parts. It may be `Guarded`, whose guard then keeps its counts
            and what is left of its budget when the rule starts anew.
        fallback: the hand-designed rule.
        every: the number of steps between checks.
        margin: how much worse the loss may be, relative to the least one.
        patience: the number of steps that the fallback takes over for. None is `every`.
        growth: the factor by which the patience grows each time.
        name: the layer's name.
        trainable: whether the weights are trainable, as in any Keras layer.

    Raises:
        TypeError: the rule or the fallback is none, has parts or can't be saved.
        ValueError: a setting is out of range.
    """

    is_coordinatewise = False

    def __init__(
        self,
        rule: Rule,
        fallback: Rule,
        every: int = 100,
        margin: float = 0.1,
        patience: int | None = None,
        growth: float = 2.0,
        name: str | None = None,
        trainable: bool = True,
    ):
        check_rules(rule, fallback, is_watched=True)
        check_count("every", every, "Give the number of steps between checks.")
        check_non_negative("margin", margin, "Give how much worse the loss may be.")
        if patience is not None:
            check_count("patience", patience, "Leave it out to have it chosen.")
        check_at_least("growth", growth, 1, "Give the factor by which the patience grows.")
        dtype = getattr(rule, "compute_dtype", "float32")
        super().__init__(dtype=dtype, name=name, trainable=trainable, autocast=False)
        self.rule = rule
        self.fallback = fallback
        self.every = every
        self.margin = margin
        self.patience = patience
        self.growth = growth
        self.built = True

    def bind(self, variables: Sequence[Any], batch_shape: Sequence[int] = ()) -> "BoundLossGuarded":
        """Returns the rule for given tensors."""
        rules = [one.bind(variables, batch_shape) for one in (self.rule, self.fallback)]
        return BoundLossGuarded(self, rules, variables, batch_shape)

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "trainable": self.trainable,
            "rule": keras.saving.serialize_keras_object(self.rule),
            "fallback": keras.saving.serialize_keras_object(self.fallback),
            "every": self.every,
            "margin": self.margin,
            "patience": self.patience,
            "growth": self.growth,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "LossGuarded":
        rules = {key: rebuilt_rule(config[key]) for key in ("rule", "fallback")}
        return cls(**config | rules)


class WatchState(NamedTuple):
    """The state of a watched rule.

    Attributes:
        rules: the states of the rule inside and of the fallback.
        count: int64 `[]`, the number of losses since the last check.
        total: float `[...]`, their sum, for each batch entry.
        least: float `[...]`, the least mean loss. Infinite before there is any loss.
        kept: float `[N]`, the parameters to return to.
        was_back: bool `[...]`, whether the last step was one back. What rounding has left of the
            distance is then taken in a second step.
        num_left: float `[...]`, the number of steps that the fallback has yet to take.
        patience: float `[...]`, the number of steps of its next turn.
        num_returns: int64 `[...]`, how often it has gone back.
        age: int32 `[...]`, the number of steps since the states of the rules were new.
    """

    rules: list[Any]
    count: tf.Tensor
    total: tf.Tensor
    least: tf.Tensor
    kept: tf.Tensor
    was_back: tf.Tensor
    num_left: tf.Tensor
    patience: tf.Tensor
    num_returns: tf.Tensor
    age: tf.Tensor


class BoundLossGuarded(BoundRule):
    """A `LossGuarded` rule bound to given tensors.

    Args:
        guarded: the rule.
        rules: the rule inside and the fallback, bound.
        variables: descriptions of the tensors.
        batch_shape: leading axes that are not part of each tensor's own shape.
    """

    def __init__(
        self,
        guarded: LossGuarded,
        rules: Sequence[BoundRule],
        variables: Sequence[Any],
        batch_shape: Sequence[int],
    ):
        self.guarded = guarded
        self.rules = list(rules)
        self.layout = batched_layout(variables, batch_shape)
        self.batch_shape = tuple(batch_shape)
        self.needs = frozenset({"losses", "parameters"}).union(*(one.needs for one in rules))
        self.needs_one_function = any(one.needs_one_function for one in rules)
        self._variables = variables

    @property
    def trainable_variables(self) -> list[Any]:
        return self.guarded.trainable_variables

    def initial_state(self) -> WatchState:
        guarded, shape, dtype = self.guarded, self.batch_shape, self.guarded.compute_dtype
        patience = guarded.every if guarded.patience is None else guarded.patience
        return WatchState(
            [one.initial_state() for one in self.rules],
            tf.zeros([], tf.int64),
            tf.zeros(shape, dtype),
            tf.fill(shape, tf.constant(math.inf, dtype)),
            tf.zeros([self.num_coordinates], dtype),
            tf.zeros(shape, tf.bool),
            tf.zeros(shape, dtype),
            tf.fill(shape, tf.constant(patience, dtype)),
            tf.zeros(shape, tf.int64),
            tf.zeros(shape, tf.int32),
        )

    def __call__(
        self, gradient: tf.Tensor, state: WatchState, info: StepInfo = NO_INFO
    ) -> tuple[tf.Tensor, WatchState]:
        check_told(info, ("losses", "parameters"), "a LossGuarded rule")
        guarded, dtype = self.guarded, state.total.dtype
        losses = tf.cast(tf.reshape(info.losses, self.batch_shape), dtype)
        total = state.total + losses
        count = state.count + 1
        is_check = tf.equal(count, guarded.every)
        mean = total / tf.cast(count, dtype)
        is_first = tf.math.is_inf(state.least) & tf.math.is_finite(losses)
        is_better = is_first | (is_check & (mean < state.least))
        limit = state.least + guarded.margin * tf.abs(state.least)
        # Not "above the limit": a loss that is no number is not above anything.
        is_worse = is_check & tf.math.is_finite(state.least) & ~(mean <= limit)
        is_back = is_worse | state.was_back
        back = self._of_coordinates(is_back)

        # At a point that is left at once, the rules see nothing.
        seen = tf.where(back, tf.zeros_like(gradient), gradient)
        info = info._replace(age=state.age)
        own_delta, after = self.rules[0](seen, state.rules[0], info)
        # Hand-designed rules compute in float32.
        fallback, of_fallback = self.rules[1](tf.cast(seen, tf.float32), state.rules[1], info)
        fallback = tf.cast(fallback, own_delta.dtype)
        is_own = ~self._of_coordinates(state.num_left > 0) & tf.math.is_finite(own_delta)
        delta = tf.where(is_own, own_delta, fallback)
        delta = tf.where(back, state.kept - info.parameters, delta)
        watched = WatchState(
            [],
            tf.where(is_check, tf.zeros_like(count), count),
            tf.where(is_check, tf.zeros_like(total), total),
            tf.where(is_better, tf.where(is_first, losses, mean), state.least),
            tf.where(self._of_coordinates(is_better), info.parameters, state.kept),
            is_worse,
            tf.where(is_worse, tf.math.ceil(state.patience), tf.maximum(state.num_left - 1, 0)),
            tf.where(is_worse, state.patience * guarded.growth, state.patience),
            state.num_returns + tf.cast(is_worse, tf.int64),
            tf.where(is_back, 0, state.age + 1),
        )
        rules = [
            started_anew(new, rule.restarted_state(new), is_back, back, self.batch_shape)
            for rule, new in zip(self.rules, [after, of_fallback], strict=True)
        ]
        watched = tf.nest.map_structure(tf.stop_gradient, watched)
        return delta, watched._replace(rules=rules)

    def for_steps(self) -> BoundRule:
        # In another form, the state of one batch entry would not be found in it.
        if math.prod(self.batch_shape) > 1:
            return self
        rules = [one.for_steps() for one in self.rules]
        return BoundLossGuarded(self.guarded, rules, self._variables, self.batch_shape)

    def tape_bytes(self, num_steps: int) -> int:
        return self.rules[0].tape_bytes(num_steps)

    def whole_state(self, state: WatchState) -> WatchState:
        pairs = zip(self.rules, state.rules, strict=True)
        return state._replace(rules=[one.whole_state(own) for one, own in pairs])

    def cut_state(self, state: WatchState) -> WatchState:
        pairs = zip(self.rules, state.rules, strict=True)
        return state._replace(rules=[one.cut_state(own) for one, own in pairs])

    def _of_coordinates(self, value: tf.Tensor) -> tf.Tensor:
        return of_coordinates(value, self.layout, len(self.batch_shape))
