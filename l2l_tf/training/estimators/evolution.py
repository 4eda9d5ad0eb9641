"""Evolution strategies: derivative-free gradients from the losses of perturbed weights."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from l2l_tf.checks import check_count, check_finite, check_positive
from l2l_tf.evaluation.unroll import Iterate, bind, start, unroll
from l2l_tf.problems.problem import StackedProblem
from l2l_tf.problems.seeds import fold_in, normal, uniform
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

# The tag to fold into the seed of an estimate. It is far from the small numbers of problems, so
# that a task and its perturbation share no draws.
_TAG = 2_000_000


class Episodes(NamedTuple):
    """The state of the antithetic pairs. The first axis of all tensors is the pairs, P.

    Attributes:
        seeds: int32 `[P, 2]`, names each pair's task.
        horizons: int32 `[P]`, the number of steps in each pair's current episode.
        noise: for each perturbed weight, `[P, ...]`: the sum of the pair's perturbations since its
            episode began, in units of sigma. If noise is reused, the one perturbation of the
            episode.
        iterates: those with the perturbation added and subtracted, `[P, 2, ...]`.
    """

    seeds: tf.Tensor
    horizons: tf.Tensor
    noise: list[tf.Tensor]
    iterates: Iterate


class EvolutionStrategies(GradientEstimator):
    """The gradient of the losses of whole episodes, estimated from antithetic pairs.

    Each pair runs one task twice on the same minibatches: with weights phi + sigma eps and with
    phi - sigma eps, where eps is standard normal. If L+ and L- are the losses of one unroll, the
    pair contributes

        (L+ - L-) xi / (2 sigma).

    With `reuse_noise=False`, eps is drawn anew for each unroll, and xi is the sum of all eps since
    the episode began. These are persistent evolution strategies (Vicol, Metz and Sohl-Dickstein
    2021, arXiv 2112.13835, algorithm 2). With `reuse_noise=True`, eps is kept for a whole episode,
    and xi is eps. These are noise-reuse evolution strategies (Li et al. 2023, arXiv 2304.12180),
    which have less variance at the same cost. In both cases the contributions of an episode's
    unrolls add up, in expectation, to the gradient of the episode's loss smoothed by a Gaussian
    with standard deviation sigma. Short unrolls therefore cause no bias, as long as weights change
    little during an episode.

    The loss of an unroll is the sum over its steps of the mean loss over functions, as in
    `TruncatedBackpropagation`. The problem first normalises the losses (`Problem.normalized`).
    With `counted_share`, only the last steps of an episode count.

    Each task of a meta-step has its pair, so `tasks_per_meta_step` is the number of pairs. They run
    at the same time, as far as the device allows. An episode ends when its pair has taken as many
    steps as its horizon. The pair then begins another task.

    Args:
        stddev: sigma.
        weights: a regular expression to search for in the paths of the rule's trainable weights.
            Only weights that match are perturbed; the others have zero gradients. None perturbs
            all.
        min_horizon: if given, the horizon of each episode is drawn log-uniformly between this and
            the run's horizon, in whole unrolls. None always uses the run's horizon.
        is_staggered: whether to cut the first episodes short, uniformly, so that later ones don't
            all end together.
        reuse_noise: whether to keep perturbations for a whole episode.
        max_loss: the cap on the mean loss of a step. Larger and non-finite losses count as this
            value. With None, losses are not capped. A pair with non-finite losses then gives a
            non-finite gradient, which the trainer skips.
        counted_share: the share of an episode's steps, at its end, whose losses count.

    Raises:
        TypeError: `weights` is not a string.
        ValueError: a number is out of range, or `weights` is not a regular expression.
    """

    has_episodes = True

    def __init__(
        self,
        stddev: float = 0.01,
        weights: str | None = None,
        min_horizon: int | None = None,
        is_staggered: bool = True,
        reuse_noise: bool = False,
        max_loss: float | None = None,
        counted_share: float = 1.0,
    ):
        check_positive("stddev", stddev, "Give, say, 0.01.")
        check_pattern("weights", weights)
        if min_horizon is not None:
            check_count("min_horizon", min_horizon, "Leave it out for one horizon.")
        if max_loss is not None:
            check_finite("max_loss", max_loss, "Leave it out to take losses as they are.")
        self.stddev = stddev
        self.weights = weights
        self.min_horizon = min_horizon
        self.is_staggered = is_staggered
        self.reuse_noise = reuse_noise
        check_counted_share(counted_share)
        self.max_loss = max_loss
        self.counted_share = counted_share

    def get_config(self) -> dict[str, Any]:
        return {
            "stddev": self.stddev,
            "weights": self.weights,
            "min_horizon": self.min_horizon,
            "is_staggered": self.is_staggered,
            "reuse_noise": self.reuse_noise,
            "max_loss": self.max_loss,
            "counted_share": self.counted_share,
        }

    def check(self, run: Run) -> None:
        if run.horizon % run.unroll_length:
            raise ValueError(
                "num_steps must be a multiple of unroll_length for evolution strategies. Received: "
                f"num_steps={run.horizon}, unroll_length={run.unroll_length}. Change one of them."
            )
        _Pair(self, run)  # Raises if no weights match.

    def begin(self, run: Run, seeds: tf.Tensor) -> Episodes:
        pair = _Pair(self, run)
        keys = _keys(seeds)
        horizons = pair.horizons(keys)
        if self.is_staggered:
            num_unrolls = horizons // run.unroll_length
            shares = _shares(keys, 3)
            cut = 1 + tf.cast(shares * tf.cast(num_unrolls, tf.float32), tf.int32)
            horizons = run.unroll_length * tf.minimum(cut, num_unrolls)
        first = tf.map_fn(pair.start, seeds, fn_output_signature=pair.iterates_spec)
        noise = [
            tf.zeros([seeds.shape[0], *weight.shape], weight.dtype) for weight in pair.perturbed
        ]
        return Episodes(seeds, horizons, noise, first)

    def estimate(
        self, run: Run, seeds: tf.Tensor, state: Episodes, num_steps: int | tf.Tensor
    ) -> Estimate:
        pair = _Pair(self, run)
        keys = _keys(seeds)
        is_first = state.iterates.step[:, 0] == 0
        drawn = tf.map_fn(pair.perturbation, keys, fn_output_signature=pair.noise_spec)
        if self.reuse_noise:
            steps = [
                tf.where(_as_column(is_first, new), new, old)
                for new, old in zip(drawn, state.noise, strict=True)
            ]
            sums = steps
        else:
            steps = drawn
            sums = [old + new for old, new in zip(state.noise, drawn, strict=True)]
        losses, iterates = tf.map_fn(
            lambda one: pair.unroll(*one),
            (state.seeds, steps, state.iterates, state.horizons),
            fn_output_signature=(tf.TensorSpec([2], pair.dtype), pair.iterates_spec),
            parallel_iterations=seeds.shape[0],
        )
        differences = (losses[:, 0] - losses[:, 1]) / (2 * self.stddev)
        estimates = iter(
            tf.reduce_mean(tf.cast(_as_column(differences, one), one.dtype) * one, axis=0)
            for one in sums
        )
        gradients = [
            next(estimates) if is_perturbed else tf.zeros_like(weight.value)
            for weight, is_perturbed in zip(run.weights, pair.is_perturbed, strict=True)
        ]
        ended = iterates.step[:, 0] >= state.horizons
        state = state._replace(noise=sums, iterates=iterates)
        next_state = self._next(pair, seeds, keys, ended, state)
        return Estimate(tf.reduce_mean(losses), gradients, next_state)

    def _next(
        self, pair: "_Pair", seeds: tf.Tensor, keys: tf.Tensor, ended: tf.Tensor, state: Episodes
    ) -> Episodes:
        """Returns the state with new episodes in place of those that have ended."""

        def begin_anew(one: Any) -> Any:
            seed, has_ended, iterates = one
            return tf.cond(has_ended, lambda: pair.start(seed), lambda: iterates)

        iterates = tf.map_fn(
            begin_anew, (seeds, ended, state.iterates), fn_output_signature=pair.iterates_spec
        )
        return Episodes(
            tf.where(ended[:, tf.newaxis], seeds, state.seeds),
            tf.where(ended, pair.horizons(keys), state.horizons),
            [tf.where(_as_column(ended, one), tf.zeros_like(one), one) for one in state.noise],
            iterates,
        )


class _Pair:
    """The computations of one antithetic pair."""

    def __init__(self, estimator: EvolutionStrategies, run: Run):
        self._estimator = estimator
        self._run = run
        self._task = StackedProblem(run.problem, 1)
        self._rule: BoundRule = bind(run.rule, self._task).for_steps()
        self.is_perturbed = chosen_weights(estimator.weights, run)
        chosen = zip(run.weights, self.is_perturbed, strict=True)
        self.perturbed = [weight for weight, is_perturbed in chosen if is_perturbed]

    @property
    def noise_spec(self) -> list[tf.TensorSpec]:
        return [tf.TensorSpec(weight.shape, weight.dtype) for weight in self.perturbed]

    @functools.cached_property
    def iterates_spec(self) -> Any:
        """The specs of a pair's two iterates."""
        seed = tf.TensorSpec([2], tf.int32)
        outputs = (
            tf.function(self.start, autograph=False).get_concrete_function(seed).structured_outputs
        )
        return tf.nest.map_structure(lambda one: tf.TensorSpec(one.shape, one.dtype), outputs)

    @property
    def dtype(self) -> tf.DType:
        return self.iterates_spec.parameters.dtype

    def start(self, seed: tf.Tensor) -> Iterate:
        """Returns the initial iterates of a pair, `[2, ...]`."""
        first = start(self._rule, self._task, seed[tf.newaxis])
        first = first._replace(rule_state=self._rule.whole_state(first.rule_state))
        return tf.nest.map_structure(lambda one: tf.stack([one, one]), first)

    def horizons(self, keys: tf.Tensor) -> tf.Tensor:
        """Returns the number of steps for each new episode, int32 `[P]`."""
        least, run = self._estimator.min_horizon, self._run
        largest = run.horizon // run.unroll_length
        if least is None or least >= run.horizon:
            return tf.fill([keys.shape[0]], largest * run.unroll_length)
        shares = _shares(keys, 1)
        horizons = least * tf.pow(run.horizon / least, shares)
        num_unrolls = tf.cast(tf.round(horizons / run.unroll_length), tf.int32)
        return run.unroll_length * tf.clip_by_value(num_unrolls, 1, largest)

    def perturbation(self, key: tf.Tensor) -> list[tf.Tensor]:
        """Returns standard normal numbers for each perturbed weight."""
        key = fold_in(key, 2)
        return [
            tf.cast(normal(weight.shape, fold_in(key, index)), weight.dtype)
            for index, weight in enumerate(self.perturbed)
        ]

    def unroll(
        self, seed: tf.Tensor, noise: Sequence[tf.Tensor], iterates: Iterate, horizon: tf.Tensor
    ) -> tuple[tf.Tensor, Iterate]:
        """Returns the losses `[2]` of one unroll and the iterates after it."""

        def one_of_both(one: tuple[tf.Tensor, Iterate]) -> tuple[tf.Tensor, Iterate]:
            sign, iterate = one
            iterate = iterate._replace(rule_state=self._rule.cut_state(iterate.rule_state))
            shift = tf.cast(sign * self._estimator.stddev, noise[0].dtype)
            moved = [
                (weight, weight.value + tf.cast(shift, weight.dtype) * one)
                for weight, one in zip(self.perturbed, noise, strict=True)
            ]
            with keras.StatelessScope(state_mapping=moved):
                steps, last = unroll(
                    self._rule,
                    self._task,
                    seed[tf.newaxis],
                    iterate,
                    self._run.unroll_length,
                    horizon=horizon,
                )
            last = last._replace(rule_state=self._rule.whole_state(last.rule_state))
            return self._loss(steps.losses, iterate.step, horizon), last

        both = tf.map_fn(
            one_of_both,
            (tf.constant([1.0, -1.0]), iterates),
            fn_output_signature=(
                tf.TensorSpec([], self.dtype),
                tf.nest.map_structure(
                    lambda spec: tf.TensorSpec(spec.shape[1:], spec.dtype), self.iterates_spec
                ),
            ),
            parallel_iterations=2,
        )
        return both

    def _loss(self, losses: tf.Tensor, first: tf.Tensor, horizon: tf.Tensor) -> tf.Tensor:
        """Returns the loss of an unroll.

        Args:
            losses: those of its steps, `[T, F]`.
            first: the number of steps before the unroll, int32 `[]`.
            horizon: the number of steps of the episode, int32 `[]`.
        """
        of_steps = tf.reduce_mean(self._run.problem.normalized(losses), axis=1)
        if self._estimator.max_loss is not None:
            largest = tf.cast(self._estimator.max_loss, of_steps.dtype)
            is_usual = tf.math.is_finite(of_steps) & (of_steps < largest)
            of_steps = tf.where(is_usual, of_steps, largest)
        share = self._estimator.counted_share
        if share < 1:
            counts = counted_steps(share, first, losses.shape[0], horizon)
            of_steps = tf.where(counts, of_steps, 0)
        return tf.reduce_sum(of_steps)


def _keys(seeds: tf.Tensor) -> tf.Tensor:
    """Returns seeds for draws other than those of the tasks themselves, int32 `[P, 2]`."""
    return tf.map_fn(lambda seed: fold_in(seed, _TAG), seeds)


def _shares(keys: tf.Tensor, tag: int) -> tf.Tensor:
    """Returns a number for each pair, uniform on [0, 1), float32 `[P]`."""
    return tf.map_fn(
        lambda key: uniform([], fold_in(key, tag)), keys, fn_output_signature=tf.float32
    )


def _as_column(vector: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Reshapes a vector `[P]` to `[P, 1, ...]`, with the rank of another tensor."""
    return tf.reshape(vector, [-1] + [1] * (like.shape.rank - 1))
