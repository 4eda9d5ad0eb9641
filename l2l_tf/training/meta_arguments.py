"""Argument checks and the fingerprint of a meta-training run."""

import dataclasses
from typing import Any

import keras
import tensorflow as tf

from l2l_tf.checks import check_instance
from l2l_tf.problems.mixture import MixtureProblem
from l2l_tf.problems.problem import Problem
from l2l_tf.rules.rule import Rule
from l2l_tf.training.estimators.estimator import GradientEstimator
from l2l_tf.training.meta_settings import MetaTrainingSettings


def check_trainable(rule: Any, optimizer: Any) -> None:
    """Raises TypeError if a rule can't be trained, or its optimizer is not an optimizer."""
    is_rule = isinstance(rule, Rule) and isinstance(rule, keras.layers.Layer)
    if not is_rule or not rule.trainable_variables:
        raise TypeError(
            "rule must be a learned rule: a Keras layer with trainable weights. "
            f"Received: rule={rule!r}. Hand-designed rules are tuned, not trained."
        )
    advice = "Give, say, keras.optimizers.Adam(1e-3)."
    check_instance("optimizer", optimizer, keras.optimizers.Optimizer, "a Keras optimizer", advice)


def check_problem(name: str, problem: Any) -> None:
    """Raises TypeError if an argument is neither a problem nor a mixture of problems."""
    advice = "Wrap a Keras model and its data in l2l_tf.problems.SupervisedProblem."
    check_instance(name, problem, Problem | MixtureProblem, "a Problem or a MixtureProblem", advice)


def check_estimator(estimator: Any, settings: MetaTrainingSettings) -> None:
    """Raises TypeError or ValueError if an estimator can't be used with these settings."""
    advice = "Leave it out for TruncatedBackpropagation()."
    check_instance("estimator", estimator, GradientEstimator, "a GradientEstimator", advice)
    for name in ("horizons", "drawn_horizons"):
        horizons = getattr(settings, name)
        if estimator.has_episodes and horizons:
            raise ValueError(
                f"{name} must be left out with an estimator that has episodes of its own. "
                f"Received: {name}={list(horizons)} with {estimator!r}. Have it draw the horizon "
                "of each episode."
            )


def check_backtracking(settings: MetaTrainingSettings, problem: Problem | MixtureProblem) -> None:
    """Raises ValueError if training can't go back by the ratio of validation losses."""
    if settings.backtrack_ratio and any(one.is_logarithmic for one in problem.components):
        raise ValueError(
            "backtrack_ratio must be 0 for problems whose logarithms count, of which no ratio says "
            f"how much worse one is. Received: backtrack_ratio={settings.backtrack_ratio} with "
            f"{problem.name!r}. Leave it out."
        )


def check_strategy(
    strategy: tf.distribute.Strategy, rule: Any, optimizer: Any, settings: MetaTrainingSettings
) -> None:
    """Raises ValueError if a strategy can't train a rule with these settings."""
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
    optimizer: keras.optimizers.Optimizer,
    problem: Problem | MixtureProblem,
    validation_problem: Problem | MixtureProblem,
    num_replicas: int,
    settings: MetaTrainingSettings,
    estimator: GradientEstimator,
) -> dict[str, Any]:
    """Returns everything that determines the result of a run, as plain values for JSON.

    Args:
        rule: the learned rule.
        optimizer: the meta-optimizer.
        problem: the problem that the rule is trained on.
        validation_problem: the problem that it is validated on.
        num_replicas: the number of replicas over all processes.
        settings: the run's settings.
        estimator: the meta-gradient estimator.
    """
    return {
        "rule": _without_names(keras.saving.serialize_keras_object(rule)),
        "optimizer": _without_names(keras.saving.serialize_keras_object(optimizer)),
        "problem": problem.name,
        "problem_config": _with_canonical_models(problem.get_config()),
        "validation_problem": validation_problem.name,
        "validation_problem_config": _with_canonical_models(validation_problem.get_config()),
        "num_replicas": num_replicas,
        **estimator.fingerprint(),
        **dataclasses.asdict(settings),
    }


def _without_names(config: Any) -> Any:
    """Returns a configuration without names, which Keras numbers differently in each process."""
    if isinstance(config, dict):
        return {key: _without_names(value) for key, value in config.items() if key != "name"}
    if isinstance(config, list | tuple):
        return [_without_names(value) for value in config]
    return config


def _with_canonical_models(config: Any) -> Any:
    """Returns a problem's configuration, with the layers of Keras models named by position.

    Keras numbers unnamed layers anew whenever a model is made.
    """
    if isinstance(config, dict):
        return {
            key: _renamed(value, _layer_names(value))
            if key == "model"
            else _with_canonical_models(value)
            for key, value in config.items()
        }
    if isinstance(config, list | tuple):
        return [_with_canonical_models(value) for value in config]
    return config


def _layer_names(config: Any) -> dict[str, str]:
    """Returns a name by position for each name that occurs in a model's configuration."""
    names: dict[str, str] = {}

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            name = value.get("name")
            if isinstance(name, str):
                names.setdefault(name, f"layer_{len(names)}")
            value = list(value.values())
        if isinstance(value, list | tuple):
            for one in value:
                collect(one)

    collect(config)
    return names


def _renamed(config: Any, names: dict[str, str]) -> Any:
    if isinstance(config, dict):
        return {key: _renamed(value, names) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [_renamed(value, names) for value in config]
    return names.get(config, config) if isinstance(config, str) else config
