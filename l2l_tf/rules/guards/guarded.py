"""Any rule inside a guard, which keeps its deltas near those of a hand-designed rule."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from l2l_tf.rules.guards.adapting import Radius, adapted, first_thetas
from l2l_tf.rules.guards.backtracking import (
    Trial,
    bound_of_decrease,
    first_trial,
    has_failed,
    infinity_like,
)
from l2l_tf.rules.guards.batches import is_lost, of_coordinates, started_anew
from l2l_tf.rules.guards.clipping import Clipped, clipped
from l2l_tf.rules.guards.recovery import Recovering
from l2l_tf.rules.guards.settings import GuardSettings, check_guard, check_told
from l2l_tf.rules.hand_designed import SGD
from l2l_tf.rules.rebuilding import rebuilt_rule
from l2l_tf.rules.routed import RoutedRule
from l2l_tf.rules.rule import NO_INFO, BoundRule, Rule, StepInfo, batched_layout
from l2l_tf.rules.sums import sum_of_all

# The defaults: theta with "trust" and around gradient descent, and the share of what is left of a
# budget that one step may take.
_THETA, _THETA_OF_DESCENT, _SPENDING = 1.5, 0.9, 0.1


@keras.saving.register_keras_serializable(package="l2l_tf")
class Guarded(keras.layers.Layer):
    """A rule whose deltas stay within a radius around those of a hand-designed one, the fallback.

    Let u be the rule's delta and d the fallback's, for the same gradients. The difference v = u - d
    is scaled down to a radius r, and the delta is d + v. With r = 0 it is the fallback's, bit for
    bit; where |v| <= r it is the rule's, bit for bit. Each task and each function is guarded for
    itself. A delta that is not finite becomes the fallback's, and a state that is not finite starts
    anew. It is not called directly: `bind` it to tensors, as unrolls and optimizers do.

    The radius depends on the mode:

    - "trust": r = theta |d|, around any fallback. A practical promise, not a theorem. Theta adapts:
      it grows while differences help, up to ten thirds of its first value, and shrinks when they do
      not (`l2l_tf.rules.guards.adapting`).
    - "relative": the same with theta < 1 around gradient descent, d = -eta g. Where eta <= 1 / beta
      for a beta-smooth loss, each step decreases it by (eta / 2) (1 - theta^2) |g|^2 or more.
    - "budget": r^2 = theta^2 |d|^2 + b, where the b of all steps sum to at most the budget. The
      rule is freer early, and gradients still go to zero.

    docs/guarantees.md says what is promised, and proves it.

    Args:
        rule: the rule inside, learned or not, without a guard of its own. For one with parts, see
            `guarded`.
        fallback: the hand-designed rule. For "relative" and "budget", `SGD` without momentum, whose
            learning rate is eta.
        mode: "trust", "relative" or "budget".
        theta: the radius relative to the norm of the fallback's delta. With "trust", infinity is
            allowed: it replaces only what is not finite. None is 1.5 with "trust", otherwise 0.9.
        scope: "all" to measure norms of all tensors together, "tensor" to measure those of each.
        adapts: with "trust", whether theta adapts. It then takes one more number for each
            coordinate. None is True with "trust".
        budget: with "budget", the sum of all b, in units of a squared delta.
        spending: with "budget", the largest share of what is left that one step may take. None is
            0.1.
        backtracking: whether to halve eta where a step did not decrease the loss as it would have
            with eta <= 1 / beta, and to take that step back. For losses that are the same function
            at each step: with those of minibatches, eta would shrink to nothing. Not with "trust",
            for a rule with parts, or in Keras, which gives an optimizer no loss.
        name: the layer's name.
        trainable: whether the weights are trainable, as in any Keras layer.

    Raises:
        TypeError: the rule or the fallback is none, has a guard or can't be saved; or a flag is
            neither True nor False.
        ValueError: a setting is out of range, or does not go with the mode.
    """

    is_coordinatewise = False

    def __init__(
        self,
        rule: Rule,
        fallback: Rule,
        mode: str = "trust",
        theta: float | None = None,
        scope: str = "all",
        adapts: bool | None = None,
        budget: float | None = None,
        spending: float | None = None,
        backtracking: bool = False,
        name: str | None = None,
        trainable: bool = True,
    ):
        if theta is None:
            theta = _THETA if mode == "trust" else _THETA_OF_DESCENT
        settings = GuardSettings(mode, theta, scope, adapts, budget, spending, backtracking)
        check_guard(rule, fallback, settings)
        dtype = getattr(rule, "compute_dtype", "float32")
        super().__init__(dtype=dtype, name=name, trainable=trainable, autocast=False)
        self.rule = rule
        self.fallback = fallback
        self.settings = settings._replace(theta=float(theta))
        self.built = True

    def bind(self, variables: Sequence[Any], batch_shape: Sequence[int] = ()) -> "BoundGuarded":
        """Returns the rule for given tensors."""
        rule = Recovering(self.rule).bind(variables, batch_shape)
        fallback = None if self.descent else self.fallback.bind(variables, batch_shape)
        return BoundGuarded(self, rule, fallback, variables, batch_shape)

    @property
    def descent(self) -> SGD | None:
        """The fallback if it is gradient descent, which has no state; otherwise None."""
        fallback = self.fallback
        return fallback if isinstance(fallback, SGD) and not fallback.momentum else None

    @property
    def _share(self) -> float:
        """The largest share of what is left of the budget that one step may take."""
        return _SPENDING if self.settings.spending is None else self.settings.spending

    def clipped(
        self,
        proposals: Sequence[tf.Tensor],
        fallbacks: Sequence[tf.Tensor],
        budget_left: tf.Tensor,
        num_batch_axes: int = 0,
        thetas: tf.Tensor | None = None,
    ) -> Clipped:
        """Returns the deltas of a step.

        Args:
            proposals: the rule's deltas, one for each tensor.
            fallbacks: those of the fallback.
            budget_left: float `[...]`, what is left of the budget. Not read in other modes.
            num_batch_axes: the number of leading axes of each tensor.
            thetas: float `[..., K]`, the radii where they adapt.
        """
        settings = self.settings
        theta: Any = settings.theta
        if thetas is not None:
            of_tensors = tf.unstack(tf.cast(thetas, proposals[0].dtype), axis=-1)
            theta = of_tensors * (len(proposals) if settings.is_joint else 1)
        return clipped(
            proposals,
            [tf.cast(one, proposals[0].dtype) for one in fallbacks],
            theta,
            settings.is_joint,
            num_batch_axes,
            self._share * budget_left if settings.mode == "budget" else None,
        )

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "trainable": self.trainable,
            "rule": keras.saving.serialize_keras_object(self.rule),
            "fallback": keras.saving.serialize_keras_object(self.fallback),
            **self.settings.to_config(),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Guarded":
        rules = {key: rebuilt_rule(config[key]) for key in ("rule", "fallback")}
        # JSON has no infinity, which is kept as text.
        return cls(**config | rules | {"theta": float(config["theta"])})


def guarded(rule: Rule, fallback: Rule, **settings: Any) -> Rule:
    """Returns a rule inside a guard; of a rule with parts, each part is guarded for itself.

    Then the budget, if there is one, is divided equally among the parts.

    Args:
        rule: the rule, learned or not. It may have parts (`RoutedRule`).
        fallback: the hand-designed rule.
        **settings: the further arguments of `Guarded`.

    Raises:
        TypeError: as in `Guarded`.
        ValueError: a setting is out of range, or is for a rule without parts.
    """
    if not isinstance(rule, RoutedRule):
        return Guarded(rule, fallback, **settings)
    if settings.get("backtracking"):
        # A part would compare the loss of all with what its own gradient promises.
        raise ValueError(
            "backtracking must be left out for a rule with parts, which have one loss together. "
            f"Received: backtracking=True with parts {list(rule.parts)}. Guard a rule without "
            "parts, or choose a learning rate of at most 1 / beta."
        )
    if settings.get("budget") is not None:
        settings["budget"] = settings["budget"] / len(rule.parts)
    return rule.of_each_part(lambda part: Guarded(part, fallback, **settings))


class Ledger(NamedTuple):
    """What a guard has done so far, for each batch entry.

    Attributes:
        num_steps: int64 `[...]`, the number of steps.
        num_guarded: int64 `[...]`, the number of those in which a delta was cut.
        mean_share: float `[...]`, the mean over all steps of the share that was cut of the
            difference between the rule's delta and the fallback's.
        budget_left: float `[...]`, what is left of the budget. Zero in other modes.
    """

    num_steps: tf.Tensor
    num_guarded: tf.Tensor
    mean_share: tf.Tensor
    budget_left: tf.Tensor

    def after(self, step: Clipped) -> "Ledger":
        """Returns the ledger after a step."""
        count = self.num_steps + 1
        share = tf.cast(step.share, self.mean_share.dtype)
        spent = tf.cast(step.spent, self.budget_left.dtype)
        return Ledger(
            count,
            self.num_guarded + tf.cast(step.is_cut, tf.int64),
            self.mean_share + (share - self.mean_share) / tf.cast(count, share.dtype),
            tf.maximum(self.budget_left - spent, 0),
        )


def new_ledger(batch_shape: Sequence[int], budget: float | None, dtype: Any) -> Ledger:
    """Returns the ledger before the first step."""
    return Ledger(
        tf.zeros(batch_shape, tf.int64),
        tf.zeros(batch_shape, tf.int64),
        tf.zeros(batch_shape, dtype),
        tf.fill(batch_shape, tf.constant(budget or 0.0, dtype)),
    )


class GuardState(NamedTuple):
    """The state of a guarded rule.

    Attributes:
        rule: that of the rule inside.
        fallback: that of the fallback. Empty for gradient descent.
        ledger: what the guard has done.
        trial: what is known of the last step. Empty without backtracking.
        radius: the radius of the next step. Empty if theta does not adapt.
        age: int32 `[...]`, the number of steps since the fallback's state was new. Empty unless the
            fallback needs the number of steps.
    """

    rule: Any
    fallback: Any
    ledger: Ledger
    trial: Any
    radius: Any
    age: Any


class BoundGuarded(BoundRule):
    """A `Guarded` rule bound to given tensors.

    Args:
        guarded: the rule.
        rule: the rule inside, bound, with a state that recovers.
        fallback: the fallback, bound. None for gradient descent.
        variables: descriptions of the tensors.
        batch_shape: leading axes that are not part of each tensor's own shape.
    """

    def __init__(
        self,
        guarded: Guarded,
        rule: BoundRule,
        fallback: BoundRule | None,
        variables: Sequence[Any],
        batch_shape: Sequence[int],
    ):
        self.guarded = guarded
        self.rule = rule
        self.fallback = fallback
        self.layout = batched_layout(variables, batch_shape)
        self.batch_shape = tuple(batch_shape)
        self._variables = variables
        self._dtype = tf.as_dtype(guarded.compute_dtype)
        own = {"losses", "parameters"} if guarded.settings.backtracking else set()
        self.needs = frozenset(rule.needs | own | (fallback.needs if fallback else set()))
        self.needs_one_function = guarded.settings.backtracking

    @property
    def trainable_variables(self) -> list[Any]:
        return self.guarded.trainable_variables

    def initial_state(self) -> GuardState:
        settings = self.guarded.settings
        return GuardState(
            self.rule.initial_state(),
            self.fallback.initial_state() if self.fallback else (),
            new_ledger(self.batch_shape, settings.budget, self._dtype),
            first_trial(self.batch_shape, self.num_coordinates, self._dtype)
            if settings.backtracking
            else (),
            self._first_radius() if settings.is_adaptive else (),
            tf.zeros(self.batch_shape, tf.int32)
            if self.fallback and "step" in self.fallback.needs
            else (),
        )

    def restarted_state(self, state: GuardState) -> GuardState:
        """Returns the initial state, but for what the guard has spent and found out."""
        first, trial = self.initial_state(), state.trial
        if trial:
            trial = first.trial._replace(factor=trial.factor, num_failed=trial.num_failed)
        of_rule = self.rule.restarted_state(state.rule)
        return first._replace(rule=of_rule, ledger=state.ledger, trial=trial)

    def _first_radius(self) -> Radius:
        settings = self.guarded.settings
        count = 1 if settings.is_joint else len(self.layout.shapes)
        return Radius(
            first_thetas(settings.theta, self.batch_shape, count, self._dtype),
            tf.zeros([self.num_coordinates], self._dtype),
        )

    def __call__(
        self, gradient: tf.Tensor, state: GuardState, info: StepInfo = NO_INFO
    ) -> tuple[tf.Tensor, GuardState]:
        if not self.guarded.settings.backtracking:
            delta, state, _ = self._step(gradient, state, info, None)
            return delta, state
        check_told(info, ("losses", "parameters"), "a guard with backtracking")
        trial: Trial = state.trial
        losses = tf.reshape(info.losses, self.batch_shape)
        failed = has_failed(trial, losses)
        factor = tf.where(failed, trial.factor / 2, trial.factor)
        back = self._of_coordinates(failed)
        # At a point that is left at once, the rules see nothing.
        seen = tf.where(back, tf.zeros_like(gradient), gradient)
        delta, state, difference = self._step(seen, state, info, factor)
        rate = factor * tf.cast(self._rate, factor.dtype)
        bound = bound_of_decrease(losses, rate, self._square(gradient), self._square(difference))
        next_trial = Trial(
            factor,
            # The step back is not tried, nor one from a loss that is not finite.
            tf.where(failed | ~tf.math.is_finite(bound), infinity_like(bound), bound),
            info.parameters,
            trial.num_failed + tf.cast(failed, tf.int64),
        )
        delta = tf.where(back, trial.parameters - info.parameters, delta)
        return delta, state._replace(trial=tf.nest.map_structure(tf.stop_gradient, next_trial))

    def _step(
        self, gradient: tf.Tensor, state: GuardState, info: StepInfo, factor: tf.Tensor | None
    ) -> tuple[tf.Tensor, GuardState, tf.Tensor]:
        """Returns the delta, the next state, and the delta less that of the fallback.

        Args:
            gradient: float `[N]`.
            state: the state.
            info: the step.
            factor: what the fallback's delta is multiplied by, float for each batch entry.
        """
        proposal, of_rule = self.rule(gradient, state.rule, info)
        if self.fallback is None:
            fallback, of_fallback, age = -self._rate * gradient, (), ()
        else:
            fallback, of_fallback, age = self._fallback_step(self.fallback, gradient, state, info)
        fallback = tf.cast(fallback, proposal.dtype)
        if factor is not None:
            fallback *= self._of_coordinates(factor)
        num, thetas = len(self.batch_shape), None
        if state.radius:
            thetas = adapted(
                state.radius.thetas,
                self.layout.unflatten(gradient),
                self.layout.unflatten(state.radius.differences),
                self.guarded.settings.theta,
                num,
            )
        step = self.guarded.clipped(
            self.layout.unflatten(proposal),
            self.layout.unflatten(fallback),
            state.ledger.budget_left,
            num,
            thetas,
        )
        delta = self.layout.flatten(step.deltas)
        difference = delta - fallback
        radius = Radius(thetas, tf.stop_gradient(difference)) if state.radius else ()
        ledger = state.ledger.after(step)
        after = GuardState(of_rule, of_fallback, ledger, state.trial, radius, age)
        return delta, after, difference

    def _fallback_step(
        self, bound: BoundRule, gradient: tf.Tensor, state: GuardState, info: StepInfo
    ) -> tuple[tf.Tensor, Any, Any]:
        """Returns the fallback's delta, its next state, and its age.

        Where a number of the state is not finite, the batch entry starts anew.
        """
        # Not `state.age or None`: a tensor has no truth value in a graph.
        has_age = isinstance(state.age, tf.Tensor)
        if has_age:
            info = info._replace(age=state.age)
        # Hand-designed rules compute in float32.
        delta, after = bound(tf.cast(gradient, tf.float32), state.fallback, info)
        lost = is_lost(after, self.layout, self.batch_shape)
        after = tf.cond(
            tf.reduce_any(lost),
            lambda: started_anew(
                after, bound.initial_state(), lost, self._of_coordinates(lost), self.batch_shape
            ),
            lambda: after,
        )
        age = tf.where(lost, 0, state.age + 1) if has_age else ()
        return delta, after, age

    @property
    def _rate(self) -> Any:
        """The learning rate of gradient descent."""
        descent = self.guarded.descent
        return descent.learning_rate if descent else 0.0

    def _of_coordinates(self, value: tf.Tensor) -> tf.Tensor:
        return of_coordinates(value, self.layout, len(self.batch_shape))

    def _square(self, vector: tf.Tensor) -> tf.Tensor:
        """Returns the squared norm of each batch entry of a vector `[N]`."""
        num = len(self.batch_shape)
        return tf.add_n([sum_of_all(tf.square(one), num) for one in self.layout.unflatten(vector)])

    def for_steps(self) -> BoundRule:
        return self._with(lambda bound: bound.for_steps())

    def for_training(self, num_steps: int, chunk_size: int | None = None) -> BoundRule:
        super().for_training(num_steps, chunk_size)
        return self._with(lambda bound: bound.for_training(num_steps, 0))

    def tape_bytes(self, num_steps: int) -> int:
        return self.rule.tape_bytes(num_steps)

    def whole_state(self, state: GuardState) -> GuardState:
        return self._converted(state, "whole_state")

    def cut_state(self, state: GuardState) -> GuardState:
        return self._converted(state, "cut_state")

    def _converted(self, state: GuardState, method: str) -> GuardState:
        fallback = state.fallback
        if self.fallback is not None:
            fallback = getattr(self.fallback, method)(fallback)
        return state._replace(rule=getattr(self.rule, method)(state.rule), fallback=fallback)

    def _with(self, change: Any) -> "BoundGuarded":
        fallback = change(self.fallback) if self.fallback else None
        return BoundGuarded(
            self.guarded, change(self.rule), fallback, self._variables, self.batch_shape
        )
