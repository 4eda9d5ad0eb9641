"""What all experiment binaries share: flags, meta-training, comparison, files."""

import contextlib
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from absl import app, flags, logging

from l2l_tf.delivery.export import export_rule, load_card, update_card
from l2l_tf.delivery.pretrained import find_rule, load_rule
from l2l_tf.problems.problem import Problem
from l2l_tf.problems.tasks import task_seeds
from l2l_tf.reporting.callbacks import MetaProgressBar, MetaTensorBoard
from l2l_tf.reporting.figures import ReferenceCurve, draw_curves
from l2l_tf.reporting.results import (
    compare_with_baselines,
    format_table,
    result_row,
    write_json,
)
from l2l_tf.rules.coordinatewise_lstm import CoordinatewiseLSTM
from l2l_tf.rules.hand_designed import BASELINES
from l2l_tf.rules.preprocess import PREPROCESSORS
from l2l_tf.training.evaluation import evaluate
from l2l_tf.training.meta_trainer import (
    VALIDATION_METRICS,
    MetaTrainer,
    MetaTrainingSettings,
)
from l2l_tf.training.tuning import tune

MODES = ("train", "evaluate", "train_and_evaluate")

flags.DEFINE_enum("mode", "train_and_evaluate", MODES, "What to do.")
flags.DEFINE_string("output_dir", None, "Folder of everything that is written.", required=True)
flags.DEFINE_list(
    "rule",
    [],
    "Saved rules to evaluate, by name or path; without it, the one trained in output_dir.",
)
flags.DEFINE_bool("update_card", False, "Add the scores to the cards of rules given by --rule.")
flags.DEFINE_list("baselines", sorted(BASELINES), "Hand-designed rules to tune and compare with.")
flags.DEFINE_integer("seed", 0, "Seed of initial weights and of all tasks.")
flags.DEFINE_integer("num_steps", 100, "Horizon: steps of a trajectory.", 1)
flags.DEFINE_integer("num_tasks", 8, "Fresh tasks that rules are compared on.", 1)
flags.DEFINE_integer("num_tuning_tasks", 8, "Tasks that baselines' rates are chosen on.", 1)

flags.DEFINE_integer("unroll_length", 20, "Steps that a meta-gradient flows through.", 1)
flags.DEFINE_integer("num_meta_epochs", 20, "Meta-epochs, each ended by a validation.", 1)
flags.DEFINE_integer("trajectories_per_meta_epoch", 100, "Trajectories of each.", 1)
flags.DEFINE_integer("tasks_per_meta_step", 1, "Tasks run side by side in a meta-step.", 1)
flags.DEFINE_integer("num_validation_tasks", 8, "Held-out tasks of a validation.", 1)
flags.DEFINE_enum("validation_metric", "final_loss", VALIDATION_METRICS, "What chooses the best.")
flags.DEFINE_bool("second_derivatives", False, "Differentiate through optimizee gradients (slow).")
flags.DEFINE_float("meta_learning_rate", 3e-3, "Adam's rate at the first meta-step.", 0)
flags.DEFINE_float(
    "final_meta_learning_rate", 0.02, "Its share left at the end of a cosine decay.", 0, 1
)
flags.DEFINE_float("meta_clipnorm", 1, "Largest norm of a meta-gradient; 0 clips none.", 0)
flags.DEFINE_float("checkpoint_seconds", 60, "Seconds between checkpoints.", 0)

flags.DEFINE_list("units", ["20", "20"], "Units of each LSTM layer of the rule.")
flags.DEFINE_enum("preprocessing", "none", sorted(PREPROCESSORS), "What the rule sees.")
flags.DEFINE_float("p", 10, "Constant of log-and-sign preprocessing.")
flags.DEFINE_float("output_scale", 0.1, "Factor from the rule's output to a delta.")

FLAGS = flags.FLAGS


def run(experiment: Callable[[], None]) -> None:
    """Runs an experiment under absl; wrong input ends it with one sentence on standard error."""

    def main(arguments: Sequence[str]) -> None:
        # absl has raised its default to INFO, at which TensorFlow tells of every file it writes.
        if not FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
        tf.get_logger().setLevel("WARNING")
        # So that a run that was stopped and resumed ends with the same weights, bit for bit.
        tf.config.experimental.enable_op_determinism()
        try:
            if len(arguments) > 1:
                raise ValueError(
                    "Arguments must be flags. "
                    f"Received: {arguments[1:]}. Write --name=value; --help lists the names."
                )
            experiment()
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)
        except (ValueError, TypeError, OSError) as error:
            logging.debug("Where it came from:", exc_info=True)
            sys.exit(f"error: {error}")

    app.run(main)


def train_and_evaluate(
    experiment: str, problem: Problem, title: str, references: Sequence[ReferenceCurve] = ()
) -> None:
    """Does what `--mode` says on a problem and writes everything under `--output_dir`.

    Args:
        experiment: the binary's name; its rule is called `<experiment>_lstm`.
        problem: what rules are trained and compared on.
        title: the figure's title.
        references: published curves, drawn behind ours.
    """
    output_dir = Path(FLAGS.output_dir)
    if output_dir.exists() and not output_dir.is_dir():
        raise ValueError(
            "--output_dir must be a folder, or a path where one can be made. "
            f"Received: --output_dir={FLAGS.output_dir}, which is a file. Choose another path."
        )
    baselines = _chosen_baselines()
    paths = [find_rule(rule) for rule in FLAGS.rule]
    own_rule = output_dir / "rule"
    if "train" in FLAGS.mode:
        _meta_train(experiment, problem, output_dir)
    elif not paths and not own_rule.exists():
        raise FileNotFoundError(
            "--output_dir must hold a trained rule where --rule names none. Received: "
            f"--output_dir={FLAGS.output_dir}, which has no folder 'rule'. Train one with "
            "--mode=train, or give --rule."
        )
    if "evaluate" in FLAGS.mode:
        _compare(experiment, problem, baselines, paths or [own_rule], output_dir, title, references)


def _meta_train(experiment: str, problem: Problem, output_dir: Path) -> None:
    """Meta-trains a rule, or goes on with it, and exports its best weights."""
    settings = MetaTrainingSettings(
        num_steps=FLAGS.num_steps,
        unroll_length=FLAGS.unroll_length,
        num_meta_epochs=FLAGS.num_meta_epochs,
        trajectories_per_meta_epoch=FLAGS.trajectories_per_meta_epoch,
        tasks_per_meta_step=FLAGS.tasks_per_meta_step,
        num_validation_tasks=FLAGS.num_validation_tasks,
        validation_metric=FLAGS.validation_metric,
        second_derivatives=FLAGS.second_derivatives,
        seed=FLAGS.seed,
    )
    trainer = MetaTrainer(
        _new_rule(),
        problem,
        _meta_optimizer(settings),
        settings,
        checkpoint_dir=output_dir / "checkpoints",
        checkpoint_seconds=FLAGS.checkpoint_seconds,
    )
    _write_flags(output_dir / "train_flags.txt", experiment)
    with _stop_on_signals(trainer):
        trainer.fit([MetaProgressBar(), MetaTensorBoard(output_dir / "logs")])
    trainer.load_best()
    card = {
        "name": f"{experiment}_lstm",
        "licence": "Apache-2.0",
        "source": "Andrychowicz et al. 2016, arXiv 1606.04474",
        "training": trainer.description() | _origin(experiment),
    }
    path = export_rule(trainer.rule, output_dir / "rule", card)
    print(f"Wrote the rule of meta-epoch {trainer.progress.best_meta_epoch} to {path}")


def _compare(
    experiment: str,
    problem: Problem,
    baselines: Sequence[str],
    paths: Sequence[Path],
    output_dir: Path,
    title: str,
    references: Sequence[ReferenceCurve],
) -> None:
    """Tunes the baselines, runs all rules on the same fresh tasks and writes what came out."""
    rules = _load_rules(paths)
    seeds = task_seeds(FLAGS.seed, "test", 0, FLAGS.num_tasks)
    tuning_seeds = task_seeds(FLAGS.seed, "tuning", 0, FLAGS.num_tuning_tasks)
    rows = [
        result_row(name, evaluate(rule, problem, seeds, FLAGS.num_steps), learned=True)
        for name, rule in rules.items()
    ]
    progress = keras.utils.Progbar(len(baselines), unit_name="baseline")
    for index, name in enumerate(baselines):
        make_rule = BASELINES[name]
        tuning = tune(make_rule, problem, tuning_seeds, FLAGS.num_steps)
        evaluation = evaluate(make_rule(tuning.learning_rate), problem, seeds, FLAGS.num_steps)
        rows.append(result_row(name, evaluation, tuning))
        progress.update(index + 1)
    comparison = compare_with_baselines(rows)
    results = {
        "experiment": experiment,
        "problem": problem.name,
        "problem_config": problem.get_config(),
        "num_steps": FLAGS.num_steps,
        "num_tasks": FLAGS.num_tasks,
        "seed": FLAGS.seed,
        "rows": rows,
        **comparison,
    }
    write_json(output_dir / "results.json", results)
    draw_curves(output_dir / f"{experiment}.png", rows, title, references)
    _write_flags(output_dir / "evaluate_flags.txt", experiment)
    for path in paths:
        if FLAGS.update_card or path == output_dir / "rule":
            _add_scores(path, results, _origin(experiment))
    print(format_table(rows))
    if comparison["ratio_to_best_baseline"] is not None:
        print(
            f"Final loss of the best learned rule over that of the best baseline, "
            f"{comparison['best_baseline']}: {comparison['ratio_to_best_baseline']:.3f}"
        )
    print(f"Wrote results.json and {experiment}.png to {output_dir}")


def _load_rules(paths: Sequence[Path]) -> dict[str, keras.layers.Layer]:
    """Returns saved rules by the names on their cards, and by path too where names are equal."""
    names = [load_card(path).get("name", path.name) for path in paths]
    return {
        name if names.count(name) == 1 else f"{name} ({path})": load_rule(path)
        for name, path in zip(names, paths, strict=True)
    }


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
        FLAGS.meta_learning_rate, settings.num_meta_steps, FLAGS.final_meta_learning_rate
    )
    return keras.optimizers.Adam(schedule, global_clipnorm=FLAGS.meta_clipnorm or None)


def _chosen_baselines() -> list[str]:
    unknown = sorted(set(FLAGS.baselines) - BASELINES.keys())
    if unknown:
        raise ValueError(
            f"--baselines must be among {sorted(BASELINES)}. Received: {unknown}. "
            "Check the spelling, or leave the flag out for all."
        )
    return FLAGS.baselines


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
    if received:
        print(
            f"\nStopped after {trainer.progress.num_trajectories} trajectories; "
            "the same command goes on from here."
        )
        sys.exit(128 + received[-1])


def _origin(experiment: str) -> dict[str, str]:
    """Returns the command that runs and the commit that it runs from."""
    command = shlex.join(["python", "-m", f"experiments.{experiment}", *sys.argv[1:]])
    commit = "unknown"
    # There may be no git, or no repository.
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    return {"command": command, "commit": commit}


def _write_flags(path: Path, experiment: str) -> None:
    """Writes the experiment's flags, in the format that `--flagfile` reads."""
    # absl knows the module that runs as a program by the path of its file.
    own_modules = (sys.argv[0], "experiments.common", f"experiments.{experiment}")
    own = [
        flag
        for module, module_flags in FLAGS.flags_by_module_dict().items()
        if module in own_modules
        for flag in module_flags
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{flag.serialize()}\n" for flag in own if flag.serialize()))


def _add_scores(path: Path, results: dict[str, Any], origin: dict[str, str]) -> None:
    """Adds an evaluation's numbers to the card of a saved rule, under the problem and horizon."""
    scores = {key: results[key] for key in ("num_tasks", "seed", "ratio_to_best_baseline")}
    scores["rows"] = [
        {
            key: row[key]
            for key in (
                "rule",
                "learning_rate",
                "final_loss",
                "final_loss_stderr",
                "mean_loss",
                "diverged",
                "num_runs",
            )
        }
        for row in results["rows"]
    ]
    name = f"{results['problem']}, {results['num_steps']} steps"
    card = load_card(path)
    update_card(path, scores=card.get("scores", {}) | {name: scores | origin})
