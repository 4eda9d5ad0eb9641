"""Meta-training, configured by flags."""

import contextlib
import json
import math
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from experiments.harness.common import FLAGS, origin, write_flags
from experiments.harness.learned_rules import LEARNED_RULES, make_learned_rule
from l2l_tf.delivery import RuleUse, check_destination, export_rule, find_rule, load_card
from l2l_tf.evaluation import search
from l2l_tf.problems import MixtureProblem, Problem, RandomlyScaled, WithConvexTerm, task_seeds
from l2l_tf.training import (
    EvolutionStrategies,
    GradientEstimator,
    MetaProgressBar,
    MetaTensorBoard,
    MetaTrainer,
    MetaTrainingSettings,
    TruncatedBackpropagation,
)


def meta_train(
    experiment: str,
    problem: Problem | MixtureProblem,
    validation_problem: Problem | MixtureProblem,
    strategy: tf.distribute.Strategy,
    output_dir: Path,
) -> None:
    """Meta-trains a rule, or resumes, and exports its best weights to `<output_dir>/rule`.

    With several workers, only the chief writes anything.

    Args:
        experiment: the binary's name; its rule is called `<experiment>_<learned_rule>`.
        problem: the problem that the rule is trained on, with scales and a convex term where flags
            ask for them, or a mixture, which takes no such flags.
        validation_problem: the problem or mixture that its weights are chosen on.
        strategy: the devices to run on.
        output_dir: where checkpoints, logs, flags and the rule go.
    """
    # Check this before hours are spent on a rule that can't be saved.
    check_destination(output_dir / "rule")
    initial_training = _initial_training()
    factors, use = _delta_factors(), use_entry()
    settings = MetaTrainingSettings(
        num_steps=FLAGS.num_steps,
        unroll_length=FLAGS.unroll_length,
        num_meta_epochs=FLAGS.num_meta_epochs,
        trajectories_per_meta_epoch=FLAGS.trajectories_per_meta_epoch,
        tasks_per_meta_step=FLAGS.tasks_per_meta_step,
        num_validation_tasks=FLAGS.num_validation_tasks,
        validation_metric=FLAGS.validation_metric,
        backtrack_ratio=FLAGS.backtrack_ratio,
        horizons=_counts("horizons"),
        drawn_horizons=_counts("drawn_horizons"),
        patience=FLAGS.patience,
        seed=FLAGS.seed,
    )
    with strategy.scope():
        trainer = MetaTrainer(
            make_learned_rule(),
            _augmented(problem),
            _meta_optimizer(settings),
            settings,
            validation_problem,
            checkpoint_dir=output_dir / "checkpoints",
            checkpoint_seconds=FLAGS.checkpoint_seconds,
            is_pretrained=FLAGS.initial_rule is not None,
            estimator=_estimator(),
        )
    is_chief = strategy.extended.should_checkpoint
    callbacks: list[keras.callbacks.Callback] = []
    if is_chief:
        write_flags(output_dir / "train_flags.txt")
        callbacks = [MetaProgressBar(), MetaTensorBoard(output_dir / "logs")]
    with _stop_on_signals(trainer):
        trainer.fit(callbacks)
    if not math.isfinite(trainer.progress.best_validation_loss):
        raise ValueError(
            "A validation must end with a finite loss for a rule to be kept. Received: "
            f"none of {settings.num_meta_epochs} did. Lower --meta_learning_rate or --output_scale."
        )
    if not is_chief:
        return
    trainer.load_best()
    rule, tried_factors = _with_best_factor(trainer.rule, factors, validation_problem)
    card = {
        "name": FLAGS.rule_name or f"{experiment}_{FLAGS.learned_rule}",
        "licence": "Apache-2.0",
        "source": LEARNED_RULES[FLAGS.learned_rule].source,
        "training": {
            **trainer.description(),
            **tried_factors,
            **initial_training,
            **origin(experiment),
        },
        **use,
    }
    # The graphs of a rule of whole tensors are for one network; its weights are for any.
    variables = None if rule.is_coordinatewise else problem.components[0].variables
    path = export_rule(rule, output_dir / "rule", card, variables)
    best = trainer.progress.best_meta_epoch
    which = f"rule of meta-epoch {best}" if best else "initial rule, which is still the best,"
    print(f"Wrote the {which} to {path}")


def use_entry() -> dict[str, Any]:
    """Returns the card's entry "use", from the file that `--use` names, or no entry.

    Raises:
        ValueError: the file can't be read, or does not say what a rule is for.
    """
    if FLAGS.use is None:
        return {}
    try:
        entry = json.loads(Path(FLAGS.use).read_text(encoding="utf-8"))
        RuleUse.from_json(entry)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            "--use must be a JSON file that says what a rule is for. "
            f"Received: --use={FLAGS.use}, where {error}"
        ) from error
    return {"use": entry}


def _delta_factors() -> list[float]:
    try:
        factors = [float(factor) for factor in FLAGS.delta_factors]
    except ValueError:
        factors = [math.nan]
    if not all(0 < factor < math.inf for factor in factors):
        raise ValueError(
            "--delta_factors must be positive, finite numbers. Received: "
            f"--delta_factors={','.join(FLAGS.delta_factors)}. Give, say, --delta_factors=1,2,4."
        )
    return factors


def _with_best_factor(
    rule: keras.layers.Layer, factors: list[float], problem: Problem | MixtureProblem
) -> tuple[keras.layers.Layer, dict[str, Any]]:
    """Returns a rule with its deltas times the best factor, and the search's entry for the card.

    If runs diverge with every factor, or on a mixture, the rule stays as it is.

    Args:
        rule: the rule as it is.
        factors: what to try; without any, nothing is tried.
        problem: the problem of the validation tasks.
    """
    if not factors or isinstance(problem, MixtureProblem):
        return rule, {}
    seeds = task_seeds(FLAGS.seed, "validation", 0, FLAGS.num_validation_tasks)
    tuning = search(
        rule.rescaled, problem, seeds, FLAGS.num_steps, factors, FLAGS.validation_metric
    )
    tried = zip(tuning.candidates, tuning.losses, strict=True)
    losses = {f"{factor:g}": loss for factor, loss in tried}
    print("Validation losses by --delta_factors: ", end="")
    print(", ".join(f"{name}: {loss:.4g}" for name, loss in losses.items()))
    entry = {"delta_factors": losses}
    return rule if tuning.has_diverged else rule.rescaled(tuning.best), entry


def _initial_training() -> dict[str, Any]:
    """Returns how the initial weights were trained; None if they were not, or no card says so."""
    if FLAGS.initial_rule is None:
        return {}
    return {"initial_rule": load_card(find_rule(FLAGS.initial_rule)).get("training")}


def _augmented(problem: Problem | MixtureProblem) -> Problem | MixtureProblem:
    if isinstance(problem, MixtureProblem):
        return problem
    if FLAGS.random_scale_range > 0:
        problem = RandomlyScaled(problem, FLAGS.random_scale_range)
    if FLAGS.num_convex_dimensions > 0:
        problem = WithConvexTerm(problem, FLAGS.num_convex_dimensions)
    return problem


# Flags that one estimator alone has.
_OWN_FLAGS = {
    "backpropagation": (
        *("second_derivatives", "backpropagation_steps", "chunk_size", "step_weights"),
        *("rematerialize", "max_norm"),
    ),
    "evolution": ("perturbation_stddev", "min_horizon", "reuse_noise", "max_loss"),
}


def _estimator() -> GradientEstimator:
    for name, own in _OWN_FLAGS.items():
        # Do not ask whether a flag is present: a run's file of flags holds all of them.
        changed = [flag for flag in own if FLAGS[flag].value != FLAGS[flag].default]
        if changed and name != FLAGS.estimator:
            raise ValueError(
                f"--{changed[0]} must be left out where --estimator is not {name}, which alone "
                f"has it. Received: --{changed[0]}={FLAGS[changed[0]].value} with "
                f"--estimator={FLAGS.estimator}. Leave one of the two out."
            )
    if FLAGS.estimator == "evolution":
        return EvolutionStrategies(
            FLAGS.perturbation_stddev,
            FLAGS.trained_weights,
            FLAGS.min_horizon,
            reuse_noise=FLAGS.reuse_noise,
            max_loss=FLAGS.max_loss,
            counted_share=FLAGS.counted_share,
        )
    return TruncatedBackpropagation(
        FLAGS.second_derivatives,
        FLAGS.backpropagation_steps,
        FLAGS.chunk_size,
        _step_weights(),
        FLAGS.trained_weights,
        FLAGS.rematerialize,
        FLAGS.counted_share,
        FLAGS.max_norm,
    )


def _step_weights() -> list[float] | None:
    if FLAGS.step_weights == "all":
        return None
    return [0.0] * (FLAGS.unroll_length - 1) + [1.0]


def _counts(flag: str) -> list[int]:
    given = FLAGS[flag].value or []
    try:
        return [int(horizon) for horizon in given]
    except ValueError as error:
        raise ValueError(
            f"--{flag} must be integers, of which --num_steps is the largest. "
            f"Received: --{flag}={','.join(given)}. Give, say, "
            f"--{flag}=100,200,500,1000 with --num_steps=1000."
        ) from error


def _meta_optimizer(settings: MetaTrainingSettings) -> keras.optimizers.Optimizer:
    schedule = keras.optimizers.schedules.CosineDecay(
        FLAGS.meta_learning_rate, settings.num_meta_steps, FLAGS.final_meta_learning_rate_share
    )
    averages = {"use_ema": True, "ema_momentum": FLAGS.weight_average}
    return keras.optimizers.Adam(
        schedule,
        global_clipnorm=FLAGS.meta_clipnorm or None,
        **averages if FLAGS.weight_average > 0 else {},
    )


@contextlib.contextmanager
def _stop_on_signals(trainer: MetaTrainer) -> Iterator[None]:
    """Makes Ctrl-C and SIGTERM end training with a checkpoint and exit status 128 + signal."""
    received = []

    def stop(number: int, frame: Any) -> None:
        received.append(number)
        trainer.request_stop()

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if received or not trainer.finished:
        print(
            f"\nStopped after {trainer.progress.num_trajectories} trajectories; "
            "the same command goes on from here."
        )
        # If another worker got the signal, this one ends as if it had received SIGTERM itself.
        sys.exit(128 + (received or [signal.SIGTERM])[-1])
