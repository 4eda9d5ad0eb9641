"""Meta-training of a rule's weights."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from l2l_tf.checks import check_instance
from l2l_tf.evaluation.evaluation import num_final_losses, task_groups
from l2l_tf.evaluation.unroll import bind, start, unroll
from l2l_tf.files import checked_path
from l2l_tf.problems.mixture import MixtureProblem
from l2l_tf.problems.problem import Problem, StackedProblem
from l2l_tf.problems.seeds import task_seeds
from l2l_tf.training.averages import averaged, begin_averages
from l2l_tf.training.compiled_run import CompiledRun
from l2l_tf.training.estimators import GradientEstimator, TruncatedBackpropagation
from l2l_tf.training.meta_arguments import (
    check_backtracking,
    check_estimator,
    check_problem,
    check_strategy,
    check_trainable,
    fingerprint,
)
from l2l_tf.training.meta_checkpoint import MetaCheckpoint
from l2l_tf.training.meta_settings import MetaProgress, MetaTrainingSettings
from l2l_tf.training.replicas import Replicas

# The index of the first task for initial episodes of an estimator.
_FIRST_TASK_OF_EPISODES = 2**30


class MetaTrainer:
    """Learns a rule's weights by gradient descent on the losses of a problem's tasks.

    A meta-step runs one unroll of one or more tasks, and applies the meta-gradient that an
    estimator computes from it. The trajectory continues through further unrolls to its horizon.
    Then the next tasks are drawn, which may belong to another problem of a `MixtureProblem`. After
    each meta-epoch, the frozen rule is validated on fixed tasks over the whole horizon, and the
    best weights are kept. If training goes astray, it can continue from them (`backtrack_ratio`).
    Horizons may grow from stage to stage (`horizons`). A meta-step with a non-finite loss or
    gradient is never applied: it is counted, and its trajectory is abandoned.
    Source: Andrychowicz et al. 2016, section 3 (arXiv 1606.04474).

    The settings determine the tasks, and thus the whole run. With a checkpoint folder, a run that
    was stopped at any point continues from its last checkpoint. If TensorFlow's operations are
    deterministic (`tf.config.experimental.enable_op_determinism`), it ends with exactly the same
    weights as a run that never stopped.

    A trainer may be made within the scope of a `tf.distribute` strategy. Its rule and optimizer
    must then be made there too. The tasks of a meta-step are split between the replicas, and the
    meta-gradient is the mean over all of them. All replicas skip a meta-step together. Tasks are
    the same as on one device, and so are the weights, up to the order of float32 sums. If there are
    several processes, one of them writes checkpoints, in a folder that all of them read.

    Args:
        rule: the learned rule. Its trainable variables are changed in place.
        problem: the problem that the rule is trained on, or a mixture of several.
        optimizer: the meta-optimizer: any Keras optimizer, with its own clipping and schedule. With
            `use_ema=True`, its moving averages of the weights are validated and kept as the best.
            Training itself continues from the weights.
        settings: the run's settings.
        validation_problem: the problem of validation tasks, or a mixture. The default is the
            training problem. In a mixture, every problem gets the same number of validation tasks,
            and the mean of their normalised losses counts.
        checkpoint_dir: the folder for checkpoints. None writes none.
        checkpoint_seconds: seconds between checkpoints, in addition to those after each validation.
        is_pretrained: whether the rule's weights were trained before. If so, they are validated
            before the first meta-step, as meta-epoch 0, and count as the best until others are
            better.
        estimator: the meta-gradient estimator. The default is `TruncatedBackpropagation()`.

    Raises:
        TypeError: the rule, the optimizer, the estimator or the folder is of the wrong type.
        ValueError: the estimator can't be used with the settings; the optimizer accumulates
            gradients, or overwrites weights with averages, under a strategy; processes train
            different runs; the tasks of a meta-step can't be split evenly between the replicas; the
            rule or the optimizer was made outside the strategy's scope; the folder's path is empty
            or not in UTF-8; or the folder holds a checkpoint of another run, only damaged ones, or
            different ones for different processes.
        OSError: the folder can't be written to.
    """

    def __init__(
        self,
        rule: keras.layers.Layer,
        problem: Problem | MixtureProblem,
        optimizer: keras.optimizers.Optimizer,
        settings: MetaTrainingSettings,
        validation_problem: Problem | MixtureProblem | None = None,
        checkpoint_dir: str | Path | None = None,
        checkpoint_seconds: float = 60.0,
        is_pretrained: bool = False,
        estimator: GradientEstimator | None = None,
    ):
        estimator = estimator or TruncatedBackpropagation()
        if checkpoint_dir is not None:
            checkpoint_dir = checked_path(checkpoint_dir, "checkpoint_dir")
        check_trainable(rule, optimizer)
        check_problem("problem", problem)
        if validation_problem is not None:
            check_problem("validation_problem", validation_problem)
        advice = "Give MetaTrainingSettings(...)."
        kind = "MetaTrainingSettings"
        check_instance("settings", settings, MetaTrainingSettings, kind, advice)
        check_estimator(estimator, settings)
        check_backtracking(settings, validation_problem or problem)
        strategy = tf.distribute.get_strategy()
        check_strategy(strategy, rule, optimizer, settings)
        replicas = Replicas(strategy)
        self.rule = rule
        self.problem = problem
        self.optimizer = optimizer
        self.settings = settings
        self.progress = MetaProgress()
        self._replicas = replicas
        self.estimator = estimator
        self._runs = [
            CompiledRun(self.estimator, rule, component, settings, replicas)
            for component in problem.components
        ]
        # The loss of each validation problem, by name, in the last validation.
        self.validation_losses: dict[str, float] = {}
        # Validation tasks that can't be split evenly run on every replica.
        self._shares_validation = settings.num_validation_tasks % replicas.count == 0
        self._validation_problem = validation_problem or problem
        # The state of each run's estimator on each replica, or None if it has yet to begin.
        self._states: list[Any] = [None] * len(self._runs)
        self._stop_requested = False
        self._is_pretrained = is_pretrained
        self._checkpoint_seconds = checkpoint_seconds
        self._checkpoint_time = 0.0
        self._weights = rule.trainable_variables
        optimizer.build(self._weights)
        # Momenta and averages, but not the number of meta-steps and the learning rate, which never
        # go back.
        self._slots = [
            variable
            for variable in optimizer.variables
            if variable is not optimizer.iterations and variable is not optimizer.learning_rate
        ]
        self._best_weights = _copies(self._weights)
        self._best_slots = _copies(self._slots)
        self._apply = replicas.compiled(self._apply_once)
        self._validate = replicas.compiled(self._validation_losses)
        self._refuse_another_run_elsewhere()
        self._checkpoint = None
        if checkpoint_dir is not None:
            self._checkpoint = MetaCheckpoint(
                checkpoint_dir,
                self._fingerprint(),
                is_writer=replicas.is_chief,
                rule=rule,
                optimizer=optimizer,
                best_weights=[*self._best_weights, *self._best_slots],
            )
            self._restore(self._checkpoint)

    @property
    def finished(self) -> bool:
        """Whether all meta-epochs have ended."""
        return self.progress.num_validations == self.settings.num_meta_epochs

    def request_stop(self) -> None:
        """Makes `fit` save a checkpoint and return after the current meta-step.

        A later `fit` continues from there. If several processes train together, a request to one
        stops all of them.
        """
        self._stop_requested = True

    def fit(self, callbacks: Sequence[keras.callbacks.Callback] = ()) -> None:
        """Runs meta-training to its end, or until `request_stop`.

        If several processes train together, all must call it. Callbacks see a meta-step as a train
        batch and a meta-epoch as an epoch. The logs of a batch are `meta_loss`,
        `meta_gradient_norm` (before clipping) and `skipped_steps`. Those of an epoch add
        `validation_loss` and `best_validation_loss`. A validation on a mixture adds
        `validation_loss_<name>` for each of its problems. If horizons grow, `validation_horizon` is
        the number of steps for all these losses. Callbacks have no `model`: to end early, call
        `request_stop`.
        """
        settings, progress = self.settings, self.progress
        # The same number in each stage.
        steps_per_epoch = settings.trajectories_per_meta_epoch * len(settings.unroll_lengths)
        listeners = keras.callbacks.CallbackList(
            list(callbacks), verbose=1, epochs=settings.num_meta_epochs, steps=steps_per_epoch
        )
        self._checkpoint_time = time.monotonic()
        listeners.on_train_begin()
        if self._is_pretrained and not self._has_begun() and not self._agree_to_stop():
            self._validate_initial_weights()
        while not self.finished and not self._agree_to_stop():
            meta_epoch = progress.num_validations
            listeners.on_epoch_begin(meta_epoch)
            logs: dict[str, float] = {}
            num_trajectories = settings.trajectories_of_meta_epoch(progress.stage)
            num_unrolls = len(settings.unroll_lengths_of(progress.stage))
            while progress.num_trajectories < progress.first_trajectory + num_trajectories:
                logs = self._meta_step()
                done = progress.num_trajectories - progress.first_trajectory
                batch = done * num_unrolls + progress.num_unrolls - 1
                listeners.on_train_batch_end(batch, logs)
                self._save_when_due()
                if self._agree_to_stop():
                    break
            else:
                validation_loss = self._end_meta_epoch()
                logs |= {
                    "skipped_steps": progress.num_skipped,
                    "validation_loss": validation_loss,
                    "best_validation_loss": progress.best_validation_loss,
                }
                if len(self.validation_losses) > 1:
                    for name, loss in self.validation_losses.items():
                        logs[f"validation_loss_{name}"] = loss
                if settings.horizons:
                    logs["validation_horizon"] = settings.validation_horizon(progress.stage)
                    self._begin_next_stage_when_due()
                listeners.on_epoch_end(meta_epoch, logs)
                self._save()
        if self._stop_requested:
            self._save()
            self._stop_requested = False
        # A process that left early would take along data that another is about to receive.
        self._replicas.wait_for_all()
        listeners.on_train_end()

    def load_best(self) -> None:
        """Sets the rule's weights to those of the best validation so far."""
        _assign(self._weights, self._best_weights)

    def description(self) -> dict[str, Any]:
        """Returns the run's settings, execution and progress, as plain values for JSON."""
        progress = dataclasses.asdict(self.progress)
        return self._fingerprint() | self.estimator.description() | {"progress": progress}

    def validate(self) -> tuple[float, np.ndarray]:
        """Returns the rule's validation metric and its curve, float `[T + 1]`.

        T is the horizon, or the validation horizon of the current stage of a curriculum.
        """
        num_steps = self.settings.validation_horizon(self.progress.stage)
        seeds = task_seeds(self.settings.seed, "validation", 0, self.settings.num_validation_tasks)
        curves, final_losses = (
            self._replicas.one(one).numpy() for one in self._validate(seeds, num_steps)
        )
        is_final = self.settings.validation_metric == "final_loss"
        losses = final_losses if is_final else curves[:, 1:].mean(axis=1)
        pairs = zip(self._validation_problem.components, losses, strict=True)
        self.validation_losses = {problem.name: float(loss) for problem, loss in pairs}
        return float(losses.mean()), curves.mean(axis=0)

    def _meta_step(self) -> dict[str, float]:
        """Runs one unroll, applies or skips its meta-gradient, and returns the logs."""
        began = time.monotonic()
        settings, progress = self.settings, self.progress
        unroll_lengths = settings.unroll_lengths_of(progress.stage)
        index, seeds, first_seeds = self._next_tasks(len(unroll_lengths))
        run = self._runs[index]
        if self._states[index] is None:
            self._states[index] = run.begin(first_seeds)
        num_steps: int | tf.Tensor = unroll_lengths[progress.num_unrolls]
        horizon: int | tf.Tensor = settings.horizon_of(progress.stage, progress.num_trajectories)
        if settings.drawn_horizons:
            # One trace is for all lengths.
            num_steps = horizon = tf.constant(horizon)
        estimate, norm = run.estimate(seeds, self._states[index], num_steps, horizon)
        self._states[index] = estimate.state
        meta_loss, norm = self._replicas.one(estimate.meta_loss), self._replicas.one(norm)
        progress.num_unrolls += 1
        is_finite = bool(np.isfinite(meta_loss) and np.isfinite(norm))
        if is_finite:
            self._apply(estimate.gradients)
        else:
            progress.num_skipped += 1
            self._states[index] = None
        if not is_finite or progress.num_unrolls == len(unroll_lengths):
            if not self.estimator.has_episodes:
                self._states[index] = None
            progress.num_unrolls = 0
            progress.num_trajectories += 1
        progress.seconds += time.monotonic() - began
        return {
            "meta_loss": float(meta_loss),
            "meta_gradient_norm": float(norm),
            "skipped_steps": progress.num_skipped,
        }

    def _next_tasks(self, num_unrolls: int) -> tuple[int, tf.Tensor, tf.Tensor]:
        """Returns the index of the next meta-step's run and two sets of seeds, int32 `[M, 2]`.

        The first set is for the meta-step's tasks. The second is for the tasks to begin with, if
        the run has yet to begin.
        """
        settings, progress = self.settings, self.progress
        num_tasks = settings.tasks_per_meta_step
        # The index of the trajectory, or of the meta-step if episodes end by themselves.
        index = progress.num_trajectories
        if self.estimator.has_episodes:
            index = index * num_unrolls + progress.num_unrolls
        seeds = task_seeds(settings.seed, "train", index * num_tasks, num_tasks)
        first_seeds = seeds
        if self.estimator.has_episodes:
            # Far from all other tasks, so that a pair's second task is never its first one again.
            first_task = _FIRST_TASK_OF_EPISODES + index * num_tasks
            first_seeds = task_seeds(settings.seed, "train", first_task, num_tasks)
        return self.problem.choose(settings.seed, index), seeds, first_seeds

    def _has_begun(self) -> bool:
        progress = self.progress
        return progress.num_trajectories + progress.num_unrolls + progress.num_validations > 0

    def _validate_initial_weights(self) -> None:
        """Validates the initial weights and records them as the best so far."""
        began = time.monotonic()
        validation_loss, _ = self.validate()
        if np.isfinite(validation_loss):
            self.progress.best_validation_loss = validation_loss
            begin_averages(self.optimizer, self._weights)
            _assign(self._best_weights, self._weights)
            _assign(self._best_slots, self._slots)
        self.progress.seconds += time.monotonic() - began

    def _end_meta_epoch(self) -> float:
        """Validates the rule and keeps its weights if they are the best so far."""
        began = time.monotonic()
        settings, progress = self.settings, self.progress
        with averaged(self.optimizer, self._weights):
            validation_loss, _ = self.validate()
            progress.num_validations += 1
            progress.num_stale += 1
            progress.first_trajectory = progress.num_trajectories
            if validation_loss < progress.best_validation_loss:
                progress.best_validation_loss = validation_loss
                progress.best_meta_epoch = progress.num_validations
                progress.num_stale = 0
                _assign(self._best_weights, self._weights)
                _assign(self._best_slots, self._slots)
        # Only now, when the weights are no longer averages.
        if settings.backtrack_ratio and not (
            validation_loss <= settings.backtrack_ratio * progress.best_validation_loss
        ):
            self._go_back_to_best()
            progress.num_backtracks += 1
        progress.seconds += time.monotonic() - began
        return validation_loss

    def _begin_next_stage_when_due(self) -> None:
        """Begins the next stage of the curriculum, with the best weights, if this one has ended."""
        settings, progress = self.settings, self.progress
        if progress.stage == len(settings.stages) - 1 or (
            progress.num_stale < settings.patience
            and progress.num_validations < settings.last_meta_epoch(progress.stage)
        ):
            return
        began = time.monotonic()
        self._go_back_to_best()
        horizon = settings.validation_horizon(progress.stage)
        progress.stage += 1
        progress.num_stale = 0
        if settings.validation_horizon(progress.stage) != horizon:
            # Later weights must be compared with these over the same number of steps.
            loss, _ = self.validate()
            progress.best_validation_loss = loss if np.isfinite(loss) else float("inf")
        progress.seconds += time.monotonic() - began

    def _go_back_to_best(self) -> None:
        self.load_best()
        _assign(self._slots, self._best_slots)

    # These run on each replica.

    def _apply_once(self, gradients):
        # Keras sums gradients over replicas. With only one nonzero summand, its clipping is right
        # too.
        self.optimizer.apply(self._replicas.on_first(gradients), self._weights)

    def _validation_losses(self, seeds, num_steps):
        """Returns a curve `[T + 1]` and a final loss for each problem, normalised in a mixture."""
        if self._shares_validation:
            seeds = self._replicas.share(seeds)
        components = self._validation_problem.components
        curves, final_losses = [], []
        for component in components:
            is_counted = len(components) > 1
            curve = _mean_curve(self.rule, component, seeds, num_steps, is_counted)
            curves.append(curve)
            num_final = num_final_losses(component, num_steps)
            final_losses.append(tf.reduce_mean(curve[-num_final:]))
        return self._replicas.mean([tf.stack(curves), tf.stack(final_losses)])

    def _fingerprint(self) -> dict[str, Any]:
        return fingerprint(
            self.rule,
            self.optimizer,
            self.problem,
            self._validation_problem,
            self._replicas.count,
            self.settings,
            self.estimator,
        )

    def _restore(self, checkpoint: MetaCheckpoint) -> None:
        # Processes restore together, so they must first agree on what to restore.
        restored = checkpoint.restore(check=self._refuse_other_progress)
        counters, tensors = restored or ({}, [])
        self.progress = MetaProgress(**counters)
        if tensors:
            are_open, *tensors = tensors
            for index in np.flatnonzero(are_open):
                self._states[index], tensors = self._runs[index].spread(tensors)

    def _refuse_other_progress(self, counters: dict[str, Any]) -> None:
        progress = MetaProgress(**counters)
        position = [bool(counters), progress.num_trajectories, progress.num_unrolls]
        if not self._replicas.agree(position):
            raise ValueError(
                "checkpoint_dir must be one folder for all processes. Received: "
                f"{progress.num_trajectories} trajectories in this process's folder, another "
                "number elsewhere. Use a file system that all hosts share."
            )

    def _refuse_another_run_elsewhere(self) -> None:
        text = json.dumps([self._fingerprint(), self._is_pretrained], sort_keys=True)
        digest = hashlib.sha256(text.encode()).digest()
        if not self._replicas.agree(list(digest)):
            raise ValueError(
                "All processes must train the same rule on the same problem with the same "
                "settings. Received: other ones in another process. Give the same command on "
                "every host."
            )

    def _save(self) -> None:
        if self._checkpoint is not None:
            # A flag for each run that has a state, followed by the states.
            tensors = [np.array([state is not None for state in self._states])]
            for run, state in zip(self._runs, self._states, strict=True):
                tensors += [] if state is None else run.collect(state)
            if self._replicas.is_chief:
                self._checkpoint.save(dataclasses.asdict(self.progress), tensors)
        self._checkpoint_time = time.monotonic()

    def _save_when_due(self) -> None:
        seconds = time.monotonic() - self._checkpoint_time
        if self._replicas.any([seconds >= self._checkpoint_seconds])[0]:
            self._save()

    def _agree_to_stop(self) -> bool:
        agreed = self._replicas.any([self._stop_requested])[0]
        # A request that arrived meanwhile is kept for the next call.
        self._stop_requested |= agreed
        return agreed


def _mean_curve(
    rule: keras.layers.Layer, problem: Problem, seeds: tf.Tensor, num_steps: int, is_counted: bool
) -> tf.Tensor:
    """Returns the mean loss of a rule on a problem's tasks at each iterate, float `[T + 1]`.

    If `is_counted`, losses are first what they count in meta-training (`Problem.normalized`).
    """
    groups = task_groups(seeds.shape[0], problem)
    tasks = StackedProblem(problem, groups.shape[1])
    bound = bind(rule, tasks).for_steps()

    @tf.function(autograph=False)
    def losses_of_group(seeds):
        first = start(bound, tasks, seeds)
        steps, _ = unroll(bound, tasks, seeds, first, num_steps)
        return tf.concat([first.losses[tf.newaxis], steps.losses], axis=0)

    # Traced first, to get the dtype of its losses.
    run = losses_of_group.get_concrete_function(tf.TensorSpec([groups.shape[1], 2], tf.int32))
    losses = tf.map_fn(
        run,
        tf.gather(seeds, groups),
        fn_output_signature=run.structured_outputs.dtype,
        # One group after another, to save memory.
        parallel_iterations=1,
    )
    losses = tf.concat(tf.unstack(losses, groups.shape[0]), axis=1)
    if is_counted:
        losses = problem.normalized(losses)
    num_runs = seeds.shape[0] * problem.num_functions
    return tf.reduce_mean(losses[:, :num_runs], axis=1)


def _copies(variables: Sequence[keras.Variable]) -> list[tf.Variable]:
    return [
        tf.Variable(variable.value, trainable=False, name=f"best_{index}")
        for index, variable in enumerate(variables)
    ]


def _assign(targets: Sequence[Any], sources: Sequence[Any]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.assign(source.value if isinstance(source, keras.Variable) else source)
