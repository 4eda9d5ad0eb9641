"""Meta-training as the flags say."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from experiments.common import FLAGS, origin, write_flags
from l2l_tf.delivery.export import check_destination, export_rule
from l2l_tf.problems.problem import Problem
from l2l_tf.reporting.callbacks import MetaProgressBar, MetaTensorBoard
from l2l_tf.rules.coordinatewise_lstm import CoordinatewiseLSTM
from l2l_tf.training.meta_settings import MetaTrainingSettings
from l2l_tf.training.meta_trainer import MetaTrainer


def meta_train(
    experiment: str,
    problem: Problem,
    validation_problem: Problem,
    strategy: tf.distribute.Strategy,
    output_dir: Path,
) -> None:
    """Meta-trains a rule, or goes on with it, and exports its best weights to `<output_dir>/rule`.

    Of several workers, the chief alone writes anything.

    Args:
        experiment: the binary's name; its rule is called `<experiment>_lstm`.
        problem: what the rule is trained on.
        validation_problem: what its weights are chosen on.
        strategy: on which devices.
        output_dir: where checkpoints, logs, flags and the rule go.
    """
    # Before hours are spent on a rule that has no place.
    check_destination(output_dir / "rule")
    settings = MetaTrainingSettings(
        num_steps=FLAGS.num_steps,
        unroll_length=FLAGS.unroll_length,
        num_meta_epochs=FLAGS.num_meta_epochs,
        trajectories_per_meta_epoch=FLAGS.trajectories_per_meta_epoch,
        tasks_per_meta_step=FLAGS.tasks_per_meta_step,
        num_validation_tasks=FLAGS.num_validation_tasks,
        validation_metric=FLAGS.validation_metric,
        second_derivatives=FLAGS.second_derivatives,
        chunk_size=FLAGS.chunk_size,
        seed=FLAGS.seed,
    )
    with strategy.scope():
        trainer = MetaTrainer(
            _new_rule(),
            problem,
            _meta_optimizer(settings),
            settings,
            validation_problem,
            checkpoint_dir=output_dir / "checkpoints",
            checkpoint_seconds=FLAGS.checkpoint_seconds,
        )
    is_chief = strategy.extended.should_checkpoint
    callbacks: list[keras.callbacks.Callback] = []
    if is_chief:
        write_flags(output_dir / "train_flags.txt")
        callbacks = [MetaProgressBar(), MetaTensorBoard(output_dir / "logs")]
    with _stop_on_signals(trainer):
        trainer.fit(callbacks)
    if trainer.progress.best_meta_epoch == 0:
        raise ValueError(
            "A validation must end with a finite loss for a rule to be kept. Received: "
            f"none of {settings.num_meta_epochs} did. Lower --meta_learning_rate or --output_scale."
        )
    if not is_chief:
        return
    trainer.load_best()
    card = {
        "name": f"{experiment}_lstm",
        "licence": "Apache-2.0",
        "source": "Andrychowicz et al. 2016, arXiv 1606.04474",
        "training": trainer.description() | origin(experiment),
    }
    path = export_rule(trainer.rule, output_dir / "rule", card)
    print(f"Wrote the rule of meta-epoch {trainer.progress.best_meta_epoch} to {path}")


def _new_rule() -> CoordinatewiseLSTM:
    try:
        units = [int(units) for units in FLAGS.units]
    except ValueError as error:
        raise ValueError(
            "--units must be integers, one for each LSTM layer. "
            f"Received: --units={','.join(FLAGS.units)}. Give, say, --units=20,20."
        ) from error
    return CoordinatewiseLSTM(
        units=units,
        preprocessing=FLAGS.preprocessing,
        p=FLAGS.p,
        output_scale=FLAGS.output_scale,
        seed=FLAGS.seed,
    )


def _meta_optimizer(settings: MetaTrainingSettings) -> keras.optimizers.Optimizer:
    schedule = keras.optimizers.schedules.CosineDecay(
        FLAGS.meta_learning_rate, settings.num_meta_steps, FLAGS.final_meta_learning_rate_share
    )
    return keras.optimizers.Adam(schedule, global_clipnorm=FLAGS.meta_clipnorm or None)


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
        # Where another worker got the signal, this one ends as if it had been SIGTERM.
        sys.exit(128 + (received or [signal.SIGTERM])[-1])
