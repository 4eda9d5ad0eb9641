"""Meta-training: how a rule's weights are learned."""

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
    check_estimator,
    check_strategy,
    check_trainable,
    fingerprint,
)
from l2l_tf.training.meta_checkpoint import MetaCheckpoint
from l2l_tf.training.meta_settings import MetaProgress, MetaTrainingSettings
from l2l_tf.training.replicas import Replicas

# From which task on episodes take those that they begin with, when the estimator begins.
_FIRST_TASK_OF_EPISODES = 2**30


class MetaTrainer:
    """Learns a rule's weights by gradient descent on the losses of a problem's tasks.

    A meta-step runs one unroll of one or more tasks and applies the meta-gradient that an estimator
    makes of it. The trajectory goes on through further unrolls to its horizon; then the next tasks
    are drawn, of a `MixtureProblem` perhaps those of another problem. After each meta-epoch the
    frozen rule is validated on fixed tasks over the whole horizon, and the best weights are kept;
    where training has gone astray it can go on from them (`backtrack_ratio`), and horizons may grow
    from stage to stage (`horizons`). A meta-step with a non-finite loss or gradient is never
    applied: it is counted, and its trajectory is given up.
    Source: Andrychowicz et al. 2016, section 3 (arXiv 1606.04474).

    Tasks, and so the whole run, are a function of the settings. With a checkpoint folder, a run
    that was stopped at any point goes on from its last checkpoint and, where TensorFlow's
    operations are deterministic (`tf.config.experimental.enable_op_determinism`), ends with the
    very weights of one that never stopped.

    Made within the scope of a `tf.distribute` strategy, as its rule and its optimizer must then be
    too, it runs different tasks of a meta-step on each replica and takes the mean of their
    meta-gradients; all replicas skip a meta-step together. The tasks are the same as on one device,
    and so are the weights, up to the order of float32 sums. Of several processes, one writes
    checkpoints, in a folder that all of them read.

    Args:
        rule: the learned rule; its trainable variables are changed in place.
        problem: the problem that the rule is trained on, or a mixture of several.
        optimizer: the meta-optimizer: any Keras optimizer, with its own clipping and schedule. With
            `use_ema=True`, the moving averages of weights that it keeps are validated and kept as
            the best in place of the weights, which training goes on from.
        settings: the run's settings.
        validation_problem: the problem of validation tasks, or a mixture, by default the same. Of a
            mixture, each problem has as many validation tasks, and the mean of their normalised
            losses counts.
        checkpoint_dir: the folder of checkpoints; None keeps none.
        checkpoint_seconds: seconds between checkpoints, beside those after each validation.
        is_pretrained: whether the rule's weights were learned before. They are then validated
            before the first meta-step, as meta-epoch 0, and are the best until others are better.
        estimator: how meta-gradients are estimated; by default `TruncatedBackpropagation()`.

    Raises:
        TypeError: the rule, the optimizer or the folder is of another kind.
        ValueError: the optimizer accumulates gradients, or overwrites weights with averages, under
            a strategy;
            processes train different runs; the tasks of a meta-step can't be shared evenly among
            the replicas; the rule or the optimizer was made outside of the strategy's scope; the
            folder's path is empty or not in UTF-8; the folder holds a checkpoint of another run,
            none but damaged ones, or not the same one for all processes.
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
        check_estimator(estimator, settings)
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
        # Validation tasks that can't be shared evenly are run on every replica.
        self._shares_validation = settings.num_validation_tasks % replicas.count == 0
        self._validation_problem = validation_problem or problem
        # Of each run, the state of its estimator on each replica; None: it is to begin.
        self._states: list[Any] = [None] * len(self._runs)
        self._stop_requested = False
        self._is_pretrained = is_pretrained
        self._checkpoint_seconds = checkpoint_seconds
        self._checkpoint_time = 0.0
        self._weights = rule.trainable_variables
        optimizer.build(self._weights)
        # Momenta and averages; the number of meta-steps and the learning rate only go forward.
        self._slots = [
            variable
            for variable in optimizer.variables
            if variable is not optimizer.iterations and variable is not optimizer.learning_rate
        ]
        self._best_weights = _copies(self._weights)
        self._best_slots = _copies(self._slots)
        self._apply = tf.function(lambda gradients: replicas.run(self._apply_once, gradients))
        self._validate = tf.function(
            lambda seeds, num_steps: replicas.run(self._validation_losses, seeds, num_steps)
        )
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
        """Makes `fit` save a checkpoint and return after the meta-step in work.

        A later `fit` goes on from there. Where several processes train together, a request to one
        stops all of them.
        """
        self._stop_requested = True

    def fit(self, callbacks: Sequence[keras.callbacks.Callback] = ()) -> None:
        """Runs meta-training to its end, or until `request_stop`.

        Where several processes train together, all must call it. Callbacks see a meta-step as a
        train batch and a meta-epoch as an epoch. The logs of a batch are `meta_loss`,
        `meta_gradient_norm` (before clipping) and `skipped_steps`; those of an epoch add
        `validation_loss` and `best_validation_loss` and, where horizons grow,
        `validation_horizon`, the steps that both are of. They have no `model`: to end early, call
        `request_stop`.
        """
        settings, progress = self.settings, self.progress
        # The same in each stage.
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
                if settings.horizons:
                    logs["validation_horizon"] = settings.validation_horizon(progress.stage)
                    self._begin_next_stage_when_due()
                listeners.on_epoch_end(meta_epoch, logs)
                self._save()
        if self._stop_requested:
            self._save()
            self._stop_requested = False
        # Or one that leaves would take with it what another is about to receive.
        self._replicas.wait_for_all()
        listeners.on_train_end()

    def load_best(self) -> None:
        """Gives the rule the weights of the best validation so far."""
        _assign(self._weights, self._best_weights)

    def description(self) -> dict[str, Any]:
        """Returns what the run is, how it runs and how far it has come, plain enough for JSON."""
        progress = dataclasses.asdict(self.progress)
        return self._fingerprint() | self.estimator.description() | {"progress": progress}

    def validate(self) -> tuple[float, np.ndarray]:
        """Returns the rule's validation metric and its curve, float `[T + 1]`.

        T is the horizon, or the one that the present stage of a curriculum is validated over.
        """
        num_steps = self.settings.validation_horizon(self.progress.stage)
        seeds = task_seeds(self.settings.seed, "validation", 0, self.settings.num_validation_tasks)
        curve, final_loss = (
            self._replicas.one(one).numpy() for one in self._validate(seeds, num_steps)
        )
        is_final = self.settings.validation_metric == "final_loss"
        return float(final_loss if is_final else curve[1:].mean()), curve

    def _meta_step(self) -> dict[str, float]:
        """Runs one unroll and applies its meta-gradient, or skips it; returns the logs."""
        began = time.monotonic()
        settings, progress = self.settings, self.progress
        unroll_lengths = settings.unroll_lengths_of(progress.stage)
        index, seeds, first_seeds = self._next_tasks(len(unroll_lengths))
        run = self._runs[index]
        if self._states[index] is None:
            self._states[index] = run.begin(first_seeds)
        num_steps = unroll_lengths[progress.num_unrolls]
        estimate, norm = run.estimate(seeds, self._states[index], num_steps)
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
        """Returns the run of the next meta-step and the seeds of its tasks, int32 `[M, 2]`.

        The last are those of the tasks that it begins with, if it is to begin.
        """
        settings, progress = self.settings, self.progress
        num_tasks = settings.tasks_per_meta_step
        # Which trajectory it is; where episodes end by themselves, which meta-step.
        index = progress.num_trajectories
        if self.estimator.has_episodes:
            index = index * num_unrolls + progress.num_unrolls
        seeds = task_seeds(settings.seed, "train", index * num_tasks, num_tasks)
        first_seeds = seeds
        if self.estimator.has_episodes:
            # Far from all others: a pair's second task is not its first again.
            first_task = _FIRST_TASK_OF_EPISODES + index * num_tasks
            first_seeds = task_seeds(settings.seed, "train", first_task, num_tasks)
        return self.problem.choose(settings.seed, index), seeds, first_seeds

    def _has_begun(self) -> bool:
        progress = self.progress
        return progress.num_trajectories + progress.num_unrolls + progress.num_validations > 0

    def _validate_initial_weights(self) -> None:
        """Takes the weights that training begins from for the best so far."""
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
        # Not before weights are no longer averages.
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
            # What is better than these weights must be so over the same steps.
            loss, _ = self.validate()
            progress.best_validation_loss = loss if np.isfinite(loss) else float("inf")
        progress.seconds += time.monotonic() - began

    def _go_back_to_best(self) -> None:
        self.load_best()
        _assign(self._slots, self._best_slots)

    # These run on each replica.

    def _apply_once(self, gradients):
        # Keras sums gradients over replicas; with one that isn't zero, its clipping is right too.
        self.optimizer.apply(self._replicas.on_first(gradients), self._weights)

    def _validation_losses(self, seeds, num_steps):
        """Returns the curve and the final loss; of a mixture, the means of normalised ones."""
        if self._shares_validation:
            seeds = self._replicas.share(seeds)
        components = self._validation_problem.components
        curves, final_losses = [], []
        for component in components:
            curve = _mean_curve(self.rule, component, seeds, num_steps)
            if len(components) > 1:
                curve = component.normalized(curve)
            curves.append(curve)
            num_final = num_final_losses(component, num_steps)
            final_losses.append(tf.reduce_mean(curve[-num_final:]))
        return self._replicas.mean(
            [tf.reduce_mean(tf.stack(one), axis=0) for one in (curves, final_losses)]
        )

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
        # Processes restore together, so they must agree on that first.
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
            # Which runs have a state, and what it is.
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
        # A request that came in the meantime stays for the next time.
        self._stop_requested |= agreed
        return agreed


def _mean_curve(
    rule: keras.layers.Layer, problem: Problem, seeds: tf.Tensor, num_steps: int
) -> tf.Tensor:
    """Returns the mean losses of a rule on a problem's tasks, float `[T + 1]`."""
    groups = task_groups(seeds.shape[0], problem)
    tasks = StackedProblem(problem, groups.shape[1])
    bound = bind(rule, tasks).for_steps()

    @tf.function
    def losses_of_group(seeds):
        first = start(bound, tasks, seeds)
        steps, _ = unroll(bound, tasks, seeds, first, num_steps)
        return tf.concat([first.losses[tf.newaxis], steps.losses], axis=0)

    # Traced first, for the dtype of its losses.
    run = losses_of_group.get_concrete_function(tf.TensorSpec([groups.shape[1], 2], tf.int32))
    losses = tf.map_fn(
        run,
        tf.gather(seeds, groups),
        fn_output_signature=run.structured_outputs.dtype,
        # One group after the other, for memory's sake.
        parallel_iterations=1,
    )
    losses = tf.concat(tf.unstack(losses, groups.shape[0]), axis=1)
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
