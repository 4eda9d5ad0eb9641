"""What the arguments of a MetaTrainer must be, and what of them makes a run what it is."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from l2l_tf.problems.problem import Problem
from l2l_tf.rules.chunks import InChunks
from l2l_tf.rules.routed import OnVariables
from l2l_tf.rules.side_by_side import SideBySide
from l2l_tf.training.meta_settings import MetaTrainingSettings


def check_trainable(rule: Any, optimizer: Any, settings: MetaTrainingSettings) -> None:
    """Raises what `MetaTrainer` says if an optimizer can't train a rule as the settings are."""
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


def check_strategy(
    strategy: tf.distribute.Strategy, rule: Any, optimizer: Any, settings: MetaTrainingSettings
) -> None:
    """Raises ValueError if a strategy can't run the training of a rule as the settings are."""
    num_replicas = strategy.num_replicas_in_sync
    if settings.tasks_per_meta_step % num_replicas:
        raise ValueError(
            "tasks_per_meta_step must be a multiple of the number of replicas. Received: "
            f"tasks_per_meta_step={settings.tasks_per_meta_step} with {num_replicas} "
            "replicas. Give each replica the same number of tasks."
        )
    made = [*rule.trainable_variables, *optimizer.variables]
    if not all(strategy.extended.variable_created_in_scope(one.value) for one in made):
        raise ValueError(
            "rule and optimizer must be made under the strategy of the trainer. Received: "
            f"rule={rule.name!r}, optimizer={optimizer.name!r} of another strategy than "
            f"{type(strategy).__name__}. Make all three within one strategy.scope()."
        )
    if tf.distribute.has_strategy() and (
        optimizer.gradient_accumulation_steps or optimizer.ema_overwrite_frequency
    ):
        raise ValueError(
            "optimizer must neither accumulate gradients nor overwrite weights with their "
            "average under a strategy, where Keras can't. Received: "
            f"gradient_accumulation_steps={optimizer.gradient_accumulation_steps}, "
            f"ema_overwrite_frequency={optimizer.ema_overwrite_frequency} under "
            f"{type(strategy).__name__}. Leave both out, or train on one device."
        )


def fingerprint(
    rule: Any,
    arranged: Any,
    optimizer: keras.optimizers.Optimizer,
    problem: Problem,
    validation_problem: Problem,
    num_replicas: int,
    settings: MetaTrainingSettings,
) -> dict[str, Any]:
    """Returns all that makes a run what it is, plain enough for JSON.

    Args:
        rule: the learned rule.
        arranged: the same as it runs, perhaps in chunks.
        optimizer: the meta-optimizer.
        problem: the problem that the rule is trained on.
        validation_problem: what it is validated on.
        num_replicas: over all processes.
        settings: the run's settings.
    """
    return {
        "rule": _without_names(keras.saving.serialize_keras_object(rule)),
        "optimizer": _without_names(keras.saving.serialize_keras_object(optimizer)),
        "problem": problem.name,
        "problem_config": problem.get_config(),
        "validation_problem": validation_problem.name,
        "validation_problem_config": validation_problem.get_config(),
        "num_replicas": num_replicas,
        # The state of an open trajectory is cut up like this, or whole.
        "state_chunk_size": _sizes(arranged, _chunk_size),
        "state_part_size": _sizes(arranged, _part_size),
    } | dataclasses.asdict(settings)


def _sizes(rule: Any, size_of: Callable[[Any], int]) -> Any:
    """Returns a size of an arranged rule; of one with parts, by part."""
    if isinstance(rule, OnVariables):
        return {name: size_of(part) for name, part in rule.arranged.items()}
    return size_of(rule)


def _chunk_size(rule: Any) -> int:
    return rule.chunk_size if isinstance(rule, InChunks) else 0


def _part_size(rule: Any) -> int:
    if isinstance(rule, InChunks):
        rule = rule.rule
    return rule.part_size if isinstance(rule, SideBySide) else 0


def _without_names(config: Any) -> Any:
    """Returns a configuration without the names that Keras numbers anew in each process."""
    if isinstance(config, dict):
        return {key: _without_names(value) for key, value in config.items() if key != "name"}
    if isinstance(config, list | tuple):
        return [_without_names(value) for value in config]
    return config
