"""A compiled meta-gradient estimator on one problem, run on each replica."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from l2l_tf.problems.problem import Problem
from l2l_tf.training.estimators.estimator import Estimate, GradientEstimator, Run
from l2l_tf.training.meta_settings import MetaTrainingSettings
from l2l_tf.training.replicas import Replicas


class CompiledRun:
    """An estimator on the tasks of one problem, with different tasks on each replica.

    Args:
        estimator: the meta-gradient estimator.
        rule: the learned rule.
        problem: the problem.
        settings: the settings of the meta-training run.
        replicas: the replicas that share the tasks of a meta-step.
    """

    def __init__(
        self,
        estimator: GradientEstimator,
        rule: keras.layers.Layer,
        problem: Problem,
        settings: MetaTrainingSettings,
        replicas: Replicas,
    ):
        self._estimator = estimator
        self._replicas = replicas
        num_tasks = settings.tasks_per_meta_step // replicas.count
        self._run = Run(rule, problem, num_tasks, settings.num_steps, settings.unroll_length)
        estimator.check(self._run)
        self._begin = replicas.compiled(self._begin_share)
        self._estimate = replicas.compiled(self._mean_estimate)
        self._to_checkpoint = replicas.compiled(self._saved)
        self._from_checkpoint = replicas.compiled(self._restored)

    def begin(self, seeds: tf.Tensor) -> Any:
        """Returns the estimator's state on each replica, given the seeds of all tasks."""
        return self._begin(seeds)

    def estimate(
        self,
        seeds: tf.Tensor,
        state: Any,
        num_steps: int | tf.Tensor,
        horizon: int | tf.Tensor,
    ) -> tuple[Estimate, tf.Tensor]:
        """Returns the mean estimate over replicas and the norm of its gradients, on each.

        Args:
            seeds: names the tasks, int32 `[M, 2]`.
            state: the estimator's state on each replica.
            num_steps: the length of the unroll.
            horizon: the length of the trajectory that it is part of.
        """
        return self._estimate(seeds, state, num_steps, horizon)

    def collect(self, state: Any) -> list[np.ndarray]:
        """Returns a state as arrays for a checkpoint, on all processes."""
        return self._replicas.collect(self._to_checkpoint(state))

    def spread(self, arrays: list[np.ndarray]) -> tuple[Any, list[np.ndarray]]:
        """Restores a state from the first arrays, as made by `collect`; returns it and the rest."""
        seeds = tf.TensorSpec([self._run.num_tasks, 2], tf.int32)
        begin = tf.function(
            lambda seeds: self._saved(self._estimator.begin(self._run, seeds)), autograph=False
        )
        structure = begin.get_concrete_function(seeds).structured_outputs
        count = len(tf.nest.flatten(structure))
        state = self._from_checkpoint(self._replicas.spread(arrays[:count], structure))
        return state, arrays[count:]

    # These run on each replica.

    def _begin_share(self, seeds: tf.Tensor) -> Any:
        return self._estimator.begin(self._run, self._replicas.share(seeds))

    def _mean_estimate(
        self,
        seeds: tf.Tensor,
        state: Any,
        num_steps: int | tf.Tensor,
        horizon: int | tf.Tensor,
    ) -> tuple[Estimate, tf.Tensor]:
        run = self._run.over(horizon)
        estimate = self._estimator.estimate(run, self._replicas.share(seeds), state, num_steps)
        # If a value isn't finite on one replica, the mean isn't finite on any.
        meta_loss, *gradients = self._replicas.mean([estimate.meta_loss, *estimate.gradients])
        return Estimate(meta_loss, gradients, estimate.state), tf.linalg.global_norm(gradients)

    def _saved(self, state: Any) -> Any:
        return self._estimator.to_checkpoint(self._run, state)

    def _restored(self, state: Any) -> Any:
        return self._estimator.from_checkpoint(self._run, state)
