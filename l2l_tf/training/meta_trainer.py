"""Meta-training: how a rule's weights are learned."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from l2l_tf.problems.problem import Problem, StackedProblem
from l2l_tf.problems.tasks import task_seeds
from l2l_tf.training.meta_checkpoint import MetaCheckpoint
from l2l_tf.training.meta_gradient import meta_gradient
from l2l_tf.training.unroll import Iterate, start, unroll

# Which number of a validation decides whether a rule is the best so far.
VALIDATION_METRICS = ("final_loss", "mean_loss")


@dataclasses.dataclass(frozen=True)
class MetaTrainingSettings:
    """What a meta-training run is, beside its rule, its problem and its meta-optimizer.

    Attributes:
        num_steps: the horizon: steps of a trajectory.
        unroll_length: steps of an unroll; the last one of a trajectory is shorter where it doesn't
            divide the horizon.
        num_meta_epochs: meta-epochs; each ends with a validation of the frozen rule.
        trajectories_per_meta_epoch: trajectories between validations. Tasks that run side by side
            count as one trajectory.
        tasks_per_meta_step: tasks that run side by side; the meta-gradient is their mean.
        num_validation_tasks: fixed held-out tasks on which the rule is validated over the horizon.
        validation_metric: one of `VALIDATION_METRICS`; the lowest decides which rule is kept.
        step_weights: w_t of each step of an unroll; all ones if None.
        second_derivatives: whether to differentiate through the optimizee's gradients.
        chunk_size: coordinates that a backward pass takes at once; chosen by size if None
            (`l2l_tf.training.replay`).
        seed: of training and validation tasks.

    Raises:
        TypeError: a count or the seed is no integer.
        ValueError: a count is below 1, the metric is unknown, or there are not as many step weights
            as steps in an unroll.
    """

    num_steps: int = 100
    unroll_length: int = 20
    num_meta_epochs: int = 10
    trajectories_per_meta_epoch: int = 100
    tasks_per_meta_step: int = 1
    num_validation_tasks: int = 1
    validation_metric: str = "final_loss"
    step_weights: Sequence[float] | None = None
    second_derivatives: bool = False
    chunk_size: int | None = None
    seed: int = 0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is int and not isinstance(value, int):
                raise TypeError(
                    f"{field.name} must be an integer. "
                    f"Received: {field.name}={value!r}. Give a whole number."
                )
            if field.type is int and field.name != "seed" and value < 1:
                raise ValueError(
                    f"{field.name} must be at least 1. "
                    f"Received: {field.name}={value}. Give a positive count."
                )
        if self.validation_metric not in VALIDATION_METRICS:
            raise ValueError(
                f"validation_metric must be one of {sorted(VALIDATION_METRICS)}. Received: "
                f"validation_metric={self.validation_metric!r}. Choose one of them."
            )
        if self.chunk_size is not None and self.chunk_size < 1:
            raise ValueError(
                "chunk_size must be None or at least 1. "
                f"Received: chunk_size={self.chunk_size}. Leave it out to have it chosen."
            )
        if self.step_weights is not None and len(self.step_weights) != self.unroll_length:
            raise ValueError(
                "step_weights must hold a weight for each step of an unroll. Received: "
                f"{len(self.step_weights)} weights with unroll_length={self.unroll_length}. "
                "Give as many weights as steps."
            )

    @property
    def unroll_lengths(self) -> list[int]:
        """The lengths of the unrolls of a trajectory, in order; they sum to the horizon."""
        whole, rest = divmod(self.num_steps, self.unroll_length)
        return [self.unroll_length] * whole + [rest] * (rest > 0)

    @property
    def num_meta_steps(self) -> int:
        """The meta-steps of the whole run, if no trajectory is given up."""
        trajectories = self.num_meta_epochs * self.trajectories_per_meta_epoch
        return trajectories * len(self.unroll_lengths)


@dataclasses.dataclass
class MetaProgress:
    """How far a meta-training run has come.

    Attributes:
        num_trajectories: trajectories that have ended.
        num_unrolls: unrolls of the present trajectory that have ended.
        num_skipped: meta-steps that were skipped because something in them was not finite.
        num_validations: meta-epochs whose validation has ended.
        best_validation_loss: the lowest so far; infinite before the first.
        best_meta_epoch: the meta-epoch (from 1) that gave it; 0 before the first.
        seconds: time spent in meta-training, over all processes that worked on the run.
    """

    num_trajectories: int = 0
    num_unrolls: int = 0
    num_skipped: int = 0
    num_validations: int = 0
    best_validation_loss: float = float("inf")
    best_meta_epoch: int = 0
    seconds: float = 0.0


class MetaTrainer:
    """Learns a rule's weights by gradient descent through unrolls of a problem's tasks.

    A meta-step runs one unroll of one or more tasks and applies the meta-gradient. The trajectory
    goes on through further unrolls to its horizon; then the next tasks are drawn. After each
    meta-epoch the frozen rule is validated on fixed tasks over the whole horizon, and the best
    weights are kept. A meta-step with a non-finite loss or gradient is never applied: it is
    counted, and its trajectory is given up.
    Source: Andrychowicz et al. 2016, section 3 (arXiv 1606.04474).

    Tasks, and so the whole run, are a function of the settings. With a checkpoint folder, a run
    that was stopped at any point goes on from its last checkpoint and, where TensorFlow's
    operations are deterministic (`tf.config.experimental.enable_op_determinism`), ends with the
    very weights of one that never stopped.

    Args:
        rule: the learned rule; its trainable variables are changed in place.
        problem: the problem that the rule is trained on.
        optimizer: the meta-optimizer: any Keras optimizer, with its own clipping and schedule.
        settings: the run's settings.
        validation_problem: the problem of validation tasks, by default the same.
        checkpoint_dir: the folder of checkpoints; None keeps none.
        checkpoint_seconds: seconds between checkpoints, beside those after each validation.

    Raises:
        TypeError: the rule or the optimizer is of another kind.
        ValueError: a rule that is not coordinatewise would run several tasks side by side; the
            folder holds a checkpoint of another run, or a damaged one.
    """

    def __init__(
        self,
        rule: keras.layers.Layer,
        problem: Problem,
        optimizer: keras.optimizers.Optimizer,
        settings: MetaTrainingSettings,
        validation_problem: Problem | None = None,
        checkpoint_dir: str | Path | None = None,
        checkpoint_seconds: float = 60.0,
    ):
        if not isinstance(rule, keras.layers.Layer) or not rule.trainable_variables:
            raise TypeError(
                "rule must be a learned rule: a Keras layer with trainable weights. "
                f"Received: rule={rule!r}. Hand-designed rules are tuned, not trained."
            )
        if not isinstance(optimizer, keras.optimizers.Optimizer):
            raise TypeError(
                "optimizer must be a Keras optimizer. "
                f"Received: optimizer={optimizer!r}. Give, say, keras.optimizers.Adam(1e-3)."
            )
        if not rule.is_coordinatewise and (
            settings.tasks_per_meta_step > 1 or settings.num_validation_tasks > 1
        ):
            raise ValueError(
                "tasks_per_meta_step and num_validation_tasks must be 1 for a rule that is not "
                "coordinatewise, which would mix tasks that run side by side. Received: "
                f"tasks_per_meta_step={settings.tasks_per_meta_step}, "
                f"num_validation_tasks={settings.num_validation_tasks}. Set both to 1."
            )
        self.rule = rule
        self.problem = StackedProblem(problem, settings.tasks_per_meta_step)
        self.optimizer = optimizer
        self.settings = settings
        self.progress = MetaProgress()
        self._validation_problem = StackedProblem(
            validation_problem or problem, settings.num_validation_tasks
        )
        self._iterate: Iterate | None = None
        self._stop_requested = False
        self._checkpoint_seconds = checkpoint_seconds
        self._checkpoint_time = 0.0
        self._weights = rule.trainable_variables
        optimizer.build(self._weights)
        self._best_weights = [
            tf.Variable(weight.value, trainable=False, name=f"best_{index}")
            for index, weight in enumerate(self._weights)
        ]
        self._start = tf.function(lambda seeds: start(rule, self.problem, seeds))
        self._meta_gradient = tf.function(self._meta_gradient_and_norm)
        self._apply = tf.function(lambda gradients: optimizer.apply(gradients, self._weights))
        self._validate = tf.function(self._validation_losses)
        self._checkpoint = None
        if checkpoint_dir is not None:
            self._checkpoint = MetaCheckpoint(
                Path(checkpoint_dir),
                self._fingerprint(),
                rule=rule,
                optimizer=optimizer,
                best_weights=self._best_weights,
            )
            self._restore(self._checkpoint)

    @property
    def finished(self) -> bool:
        """Whether all meta-epochs have ended."""
        return self.progress.num_validations == self.settings.num_meta_epochs

    def request_stop(self) -> None:
        """Makes `fit` save a checkpoint and return after the meta-step in work.

        A later `fit` goes on from there.
        """
        self._stop_requested = True

    def fit(self, callbacks: Sequence[keras.callbacks.Callback] = ()) -> None:
        """Runs meta-training to its end, or until `request_stop`.

        Callbacks see a meta-step as a train batch and a meta-epoch as an epoch. The logs of a batch
        are `meta_loss`, `meta_gradient_norm` (before clipping) and `skipped_steps`; those of an
        epoch add `validation_loss` and `best_validation_loss`. They have no `model`: to end early,
        call `request_stop`.
        """
        settings, progress = self.settings, self.progress
        per_epoch = settings.trajectories_per_meta_epoch
        steps_per_epoch = per_epoch * len(settings.unroll_lengths)
        listeners = keras.callbacks.CallbackList(
            list(callbacks), verbose=1, epochs=settings.num_meta_epochs, steps=steps_per_epoch
        )
        self._checkpoint_time = time.monotonic()
        listeners.on_train_begin()
        while not self.finished and not self._stop_requested:
            meta_epoch = progress.num_validations
            listeners.on_epoch_begin(meta_epoch)
            logs: dict[str, float] = {}
            while progress.num_trajectories < (meta_epoch + 1) * per_epoch:
                logs = self._meta_step()
                done = progress.num_trajectories - meta_epoch * per_epoch
                batch = done * len(settings.unroll_lengths) + progress.num_unrolls - 1
                listeners.on_train_batch_end(batch, logs)
                self._save_when_due()
                if self._stop_requested:
                    break
            else:
                validation_loss = self._end_meta_epoch()
                logs |= {
                    "skipped_steps": progress.num_skipped,
                    "validation_loss": validation_loss,
                    "best_validation_loss": progress.best_validation_loss,
                }
                listeners.on_epoch_end(meta_epoch, logs)
                self._save()
        if self._stop_requested:
            self._save()
            self._stop_requested = False
        listeners.on_train_end()

    def load_best(self) -> None:
        """Gives the rule the weights of the best validation so far."""
        for weight, best in zip(self._weights, self._best_weights, strict=True):
            weight.assign(best)

    def description(self) -> dict[str, Any]:
        """Returns what the run is and how far it has come, plain enough for JSON."""
        return self._fingerprint() | {"progress": dataclasses.asdict(self.progress)}

    def validate(self) -> tuple[float, np.ndarray]:
        """Returns the rule's validation metric and its curve, float `[num_steps + 1]`."""
        seeds = task_seeds(self.settings.seed, "validation", 0, self.settings.num_validation_tasks)
        curve = self._validate(seeds).numpy()
        metric = curve[-1] if self.settings.validation_metric == "final_loss" else curve[1:].mean()
        return float(metric), curve

    def _meta_step(self) -> dict[str, float]:
        """Runs one unroll and applies its meta-gradient, or skips it; returns the logs."""
        began = time.monotonic()
        settings, progress = self.settings, self.progress
        num_tasks = settings.tasks_per_meta_step
        seeds = task_seeds(settings.seed, "train", progress.num_trajectories * num_tasks, num_tasks)
        if self._iterate is None:
            self._iterate = self._start(seeds)
        num_steps = settings.unroll_lengths[progress.num_unrolls]
        meta_loss, norm, gradients, self._iterate = self._meta_gradient(
            seeds, self._iterate, num_steps
        )
        progress.num_unrolls += 1
        is_finite = bool(np.isfinite(meta_loss) and np.isfinite(norm))
        if is_finite:
            self._apply(gradients)
        else:
            progress.num_skipped += 1
        if not is_finite or progress.num_unrolls == len(settings.unroll_lengths):
            self._iterate = None
            progress.num_unrolls = 0
            progress.num_trajectories += 1
        progress.seconds += time.monotonic() - began
        return {
            "meta_loss": float(meta_loss),
            "meta_gradient_norm": float(norm),
            "skipped_steps": progress.num_skipped,
        }

    def _end_meta_epoch(self) -> float:
        """Validates the rule and keeps its weights if they are the best so far."""
        began = time.monotonic()
        progress = self.progress
        validation_loss, _ = self.validate()
        progress.num_validations += 1
        if validation_loss < progress.best_validation_loss:
            progress.best_validation_loss = validation_loss
            progress.best_meta_epoch = progress.num_validations
            for best, weight in zip(self._best_weights, self._weights, strict=True):
                best.assign(weight.value)
        progress.seconds += time.monotonic() - began
        return validation_loss

    def _meta_gradient_and_norm(self, seeds, iterate, num_steps):
        settings = self.settings
        step_weights = settings.step_weights
        if step_weights is not None:
            # The weights of a shorter last unroll are those of an unroll's last steps.
            step_weights = tf.constant(step_weights[-num_steps:], iterate.parameters.dtype)
        result = meta_gradient(
            self.rule,
            self.problem,
            seeds,
            iterate,
            num_steps,
            step_weights,
            settings.second_derivatives,
            settings.chunk_size,
        )
        norm = tf.linalg.global_norm(result.gradients)
        return result.meta_loss, norm, result.gradients, result.iterate

    def _validation_losses(self, seeds):
        problem, num_steps = self._validation_problem, self.settings.num_steps
        first = start(self.rule, problem, seeds)
        steps, _ = unroll(self.rule, problem, seeds, first, num_steps)
        return tf.reduce_mean(tf.concat([first.losses[tf.newaxis], steps.losses], 0), axis=1)

    def _fingerprint(self) -> dict[str, Any]:
        settings = dataclasses.asdict(self.settings)
        return {
            "rule": _without_names(keras.saving.serialize_keras_object(self.rule)),
            "optimizer": _without_names(keras.saving.serialize_keras_object(self.optimizer)),
            "problem": self.problem.name,
            "problem_config": self.problem.get_config(),
            "validation_problem": self._validation_problem.name,
            "validation_problem_config": self._validation_problem.get_config(),
        } | settings

    def _restore(self, checkpoint: MetaCheckpoint) -> None:
        restored = checkpoint.restore()
        if restored is None:
            return
        counters, tensors = restored
        self.progress = MetaProgress(**counters)
        if tensors:
            structure = self._start.get_concrete_function(
                tf.TensorSpec([self.settings.tasks_per_meta_step, 2], tf.int32)
            ).structured_outputs
            self._iterate = tf.nest.pack_sequence_as(
                structure, [tf.constant(tensor) for tensor in tensors]
            )

    def _save(self) -> None:
        if self._checkpoint is not None:
            tensors = [] if self._iterate is None else tf.nest.flatten(self._iterate)
            self._checkpoint.save(
                dataclasses.asdict(self.progress), [tensor.numpy() for tensor in tensors]
            )
        self._checkpoint_time = time.monotonic()

    def _save_when_due(self) -> None:
        if time.monotonic() - self._checkpoint_time >= self._checkpoint_seconds:
            self._save()


def _without_names(config: Any) -> Any:
    """Returns a configuration without the names that Keras numbers anew in each process."""
    if isinstance(config, dict):
        return {key: _without_names(value) for key, value in config.items() if key != "name"}
    if isinstance(config, list | tuple):
        return [_without_names(value) for value in config]
    return config
