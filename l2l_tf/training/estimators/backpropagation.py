"""Back-propagation through unrolls, as in the paper."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from l2l_tf.checks import check_at_least, check_instance, check_positive
from l2l_tf.evaluation.unroll import Iterate, bind, start
from l2l_tf.rules.rule import BoundRule
from l2l_tf.training.estimators.estimator import (
    Estimate,
    GradientEstimator,
    Run,
    check_counted_share,
    check_pattern,
    chosen_weights,
    counted_steps,
)
from l2l_tf.training.meta_gradient import meta_gradient


class TruncatedBackpropagation(GradientEstimator):
    """The gradient of each unroll's loss, with everything before the unroll held constant.

    The meta-loss is a weighted sum over the unroll's steps. Each term is the mean loss over
    functions and tasks, as it counts in meta-training (`Problem.normalized`), times the weight of
    its step.
    Source: Andrychowicz et al. 2016, section 3 (arXiv 1606.04474).

    Args:
        second_derivatives: the share of the derivative through the optimizee's gradients, in
            [0, 1]. 0 is the paper's approximation, 1 the true derivative
            (`l2l_tf.training.meta_gradient`).
        backpropagation_steps: the largest number of steps of the rule that gradients flow through.
            None means all steps of an unroll.
        chunk_size: the number of coordinates processed at once in the backward pass. None chooses
            it by size; 0 means all (`BoundRule.for_training`).
        step_weights: w_t for each step of a full unroll. None means all ones. A shorter unroll uses
            the last of them.
        weights: a regular expression to search for in the paths of the rule's trainable weights.
            The others have zero gradients. None trains all.
        rematerializes: whether the backward pass computes the activations of each step again. With
            second derivatives, memory is then that of a few vectors of parameters for each step,
            and the backward pass takes longer by a forward pass. Otherwise it has no effect.
        counted_share: the share of a trajectory's steps, at its end, whose losses count. It is
            meant for unrolls of whole trajectories: of shorter ones, the first have zero gradients.
        max_norm: the largest norm of a meta-gradient that counts, on each replica. One that is
            larger has exploded over the steps, says nothing, and becomes zero: a meta-step is still
            taken, by momentum alone. None lets all count.

    Raises:
        TypeError: `backpropagation_steps` or `chunk_size` is not an integer, or `weights` is not a
            string.
        ValueError: an argument is out of range, `weights` is not a regular expression, or chunks
            are combined with second derivatives.
    """

    def __init__(
        self,
        second_derivatives: float = 0.0,
        backpropagation_steps: int | None = None,
        chunk_size: int | None = None,
        step_weights: Sequence[float] | None = None,
        weights: str | None = None,
        rematerializes: bool = False,
        counted_share: float = 1.0,
        max_norm: float | None = None,
    ):
        # Written so that NaN is out of range.
        if not 0 <= second_derivatives <= 1:
            raise ValueError(
                "second_derivatives must be in [0, 1]. Received: "
                f"second_derivatives={second_derivatives}. 0 leaves them out, 1 is the true "
                "derivative."
            )
        for name, value in (
            ("chunk_size", chunk_size),
            ("backpropagation_steps", backpropagation_steps),
        ):
            advice = "Leave it out for the default."
            check_instance(name, value, int | None, "None or an integer", advice)
        if backpropagation_steps is not None:
            advice = "Leave it out for all steps of an unroll."
            check_at_least("backpropagation_steps", backpropagation_steps, 1, advice)
        if chunk_size is not None:
            check_at_least("chunk_size", chunk_size, 0, "Leave it out to have it chosen.")
        if chunk_size and second_derivatives:
            raise ValueError(
                "chunk_size must be None or 0 with second derivatives, which need the tape of a "
                f"whole unroll. Received: chunk_size={chunk_size}. Leave out one of the two."
            )
        check_pattern("weights", weights)
        check_counted_share(counted_share)
        if max_norm is not None:
            check_positive("max_norm", max_norm, "Leave it out for all meta-gradients.")
        self.second_derivatives = second_derivatives
        self.backpropagation_steps = backpropagation_steps
        self.chunk_size = chunk_size
        self.step_weights = None if step_weights is None else [*map(float, step_weights)]
        self.weights = weights
        self.rematerializes = rematerializes
        self.counted_share = counted_share
        self.max_norm = max_norm

    def begin(self, run: Run, seeds: tf.Tensor) -> Iterate:
        return start(self._rule(run), run.tasks, seeds)

    def estimate(
        self, run: Run, seeds: tf.Tensor, state: Iterate, num_steps: int | tf.Tensor
    ) -> Estimate:
        step_weights = None
        if self.step_weights is not None:
            if not isinstance(num_steps, int):
                raise ValueError(
                    "step_weights must be None where the lengths of trajectories are drawn. "
                    f"Received: step_weights={self.step_weights}. Give counted_share instead."
                )
            step_weights = tf.constant(self.step_weights[-num_steps:], state.parameters.dtype)
        if self.counted_share < 1:
            counts = counted_steps(self.counted_share, state.step, num_steps, run.horizon)
            counts = tf.cast(counts, state.parameters.dtype)
            step_weights = counts if step_weights is None else counts * step_weights
        result = meta_gradient(
            self._rule(run),
            run.tasks,
            seeds,
            state,
            num_steps,
            step_weights,
            self.second_derivatives,
            self.backpropagation_steps,
            run.horizon,
            self.rematerializes,
        )
        gradients = [
            gradient if is_chosen else tf.zeros_like(gradient)
            for gradient, is_chosen in zip(
                result.gradients, chosen_weights(self.weights, run), strict=True
            )
        ]
        if self.max_norm is not None:
            norm = tf.linalg.global_norm(gradients)
            # An infinite norm stays one, for the trainer to skip it.
            has_exploded = tf.math.is_finite(norm) & (norm > self.max_norm)
            gradients = [tf.where(has_exploded, tf.zeros_like(one), one) for one in gradients]
        return Estimate(result.meta_loss, gradients, result.iterate)

    def get_config(self) -> dict[str, Any]:
        return {
            "second_derivatives": self.second_derivatives,
            "backpropagation_steps": self.backpropagation_steps,
            "chunk_size": self.chunk_size,
            "step_weights": self.step_weights,
            "weights": self.weights,
            "rematerializes": self.rematerializes,
            "counted_share": self.counted_share,
            "max_norm": self.max_norm,
        }

    def check(self, run: Run) -> None:
        chosen_weights(self.weights, run)
        if self.step_weights is not None and len(self.step_weights) != run.unroll_length:
            raise ValueError(
                "step_weights must hold a weight for each step of an unroll. Received: "
                f"{len(self.step_weights)} weights with unroll_length={run.unroll_length}. "
                "Give as many weights as steps."
            )
        self._rule(run)  # Raises if chunks are requested for a rule without them.

    def fingerprint(self) -> dict[str, Any]:
        # Uses the names that cards have always used. The chunk size affects how a run is executed,
        # not its result.
        config = self.get_config()
        del config["chunk_size"], config["rematerializes"]
        return config

    def description(self) -> dict[str, Any]:
        return self.get_config()

    def to_checkpoint(self, run: Run, state: Iterate) -> Iterate:
        return state._replace(rule_state=self._rule(run).whole_state(state.rule_state))

    def from_checkpoint(self, run: Run, state: Iterate) -> Iterate:
        return state._replace(rule_state=self._rule(run).cut_state(state.rule_state))

    def _rule(self, run: Run) -> BoundRule:
        chunk_size = 0 if self.second_derivatives else self.chunk_size
        return bind(run.rule, run.tasks).for_training(run.unroll_length, chunk_size)
