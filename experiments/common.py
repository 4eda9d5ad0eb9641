"""What all experiment binaries share: flags, how they run, what they leave of themselves."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import tensorflow as tf
from absl import app, flags, logging

from l2l_tf.rules.preprocess import PREPROCESSORS
from l2l_tf.training.meta_settings import VALIDATION_METRICS

MODES = ("train", "evaluate", "train_and_evaluate")
STRATEGIES = ("default", "mirrored", "multi_worker")

flags.DEFINE_enum("mode", "train_and_evaluate", MODES, "What to do.")
flags.DEFINE_string("output_dir", None, "Folder of everything that is written.", required=True)
flags.DEFINE_list(
    "rule",
    [],
    "Saved rules to evaluate, by name or path; without it, the one trained in output_dir.",
)
flags.DEFINE_bool("update_card", False, "Add the scores to the cards of rules given by --rule.")
flags.DEFINE_integer("seed", 0, "Seed of initial weights and of all tasks.", 0)
flags.DEFINE_integer("num_steps", 100, "Horizon: steps of a trajectory.", 1)
flags.DEFINE_integer("num_tasks", 8, "Fresh tasks that rules are compared on.", 1)

flags.DEFINE_integer("unroll_length", 20, "Steps that a meta-gradient flows through.", 1)
flags.DEFINE_integer("num_meta_epochs", 20, "Meta-epochs, each ended by a validation.", 1)
flags.DEFINE_integer("trajectories_per_meta_epoch", 100, "Trajectories of each.", 1)
flags.DEFINE_integer("tasks_per_meta_step", 1, "Tasks run side by side in a meta-step.", 1)
flags.DEFINE_integer("num_validation_tasks", 8, "Held-out tasks of a validation.", 1)
flags.DEFINE_enum("validation_metric", "final_loss", VALIDATION_METRICS, "What chooses the best.")
flags.DEFINE_bool("second_derivatives", False, "Differentiate through optimizee gradients.")
flags.DEFINE_integer("chunk_size", None, "Coordinates taken at once in training; 0: all.", 0)
flags.DEFINE_float("meta_learning_rate", 3e-3, "Adam's rate at the first meta-step.", 0)
flags.DEFINE_float(
    "final_meta_learning_rate_share", 0.02, "What a cosine decay leaves of that rate.", 0, 1
)
flags.DEFINE_float("meta_clipnorm", 1, "Largest norm of a meta-gradient; 0 clips none.", 0)
flags.DEFINE_float("checkpoint_seconds", 60, "Seconds between checkpoints.", 0)

flags.DEFINE_enum(
    "strategy",
    "default",
    STRATEGIES,
    "Where tasks of a meta-step run: on one device, on all devices of this machine, or on those of "
    "all workers in TF_CONFIG.",
)
flags.DEFINE_integer("logical_cpus", 1, "Devices that the CPU is split into, where no GPU is.", 1)

flags.DEFINE_list("units", ["20", "20"], "Units of each LSTM layer of the rule.")
flags.DEFINE_enum("preprocessing", "none", sorted(PREPROCESSORS), "What the rule sees.")
flags.DEFINE_float("p", 10, "Constant of log-and-sign preprocessing.")
flags.DEFINE_float("output_scale", 0.1, "Factor from the rule's output to a delta.")

FLAGS = flags.FLAGS


def run(experiment: Callable[[tf.distribute.Strategy], None]) -> None:
    """Runs an experiment under absl; wrong input ends it with one sentence on standard error.

    Args:
        experiment: does everything; gets the strategy that `--strategy` names.
    """

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
                    f"Received: {arguments[1:]}. Write --name=value; --helpfull lists the names."
                )
            _make_logical_cpus()
            strategy = _make_strategy()
            experiment(strategy)
        except tf.errors.UnavailableError as error:
            logging.debug("Where it came from:", exc_info=True)
            reason = error.message.partition("\n")[0].split("}} ")[-1].rstrip(".")
            sys.exit(
                f"\nerror: All workers must stay reachable. Received: {reason}. Give the same "
                "command on every host again; it goes on from the last checkpoint."
            )
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)
        except (ValueError, TypeError, OSError) as error:
            logging.debug("Where it came from:", exc_info=True)
            sys.exit(f"error: {error}")

    app.run(main)


def origin(experiment: str) -> dict[str, str]:
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


def write_flags(path: Path) -> None:
    """Writes the experiment's flags, in the format that `--flagfile` reads."""
    own = [
        flag
        for module, module_flags in FLAGS.flags_by_module_dict().items()
        # absl knows the module that runs as a program by the path of its file.
        if module == sys.argv[0] or module.startswith("experiments.")
        for flag in module_flags
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{flag.serialize()}\n" for flag in own if flag.serialize()))


def _make_logical_cpus() -> None:
    if FLAGS.logical_cpus > 1 and FLAGS.strategy != "mirrored":
        raise ValueError(
            "--logical_cpus must go with --strategy=mirrored, which alone uses several devices of "
            f"one process. Received: --logical_cpus={FLAGS.logical_cpus} with "
            f"--strategy={FLAGS.strategy}. Leave it out, or choose that strategy."
        )
    devices = [tf.config.LogicalDeviceConfiguration()] * FLAGS.logical_cpus
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)


def _make_strategy() -> tf.distribute.Strategy:
    if FLAGS.strategy == "mirrored":
        gpus = tf.config.list_logical_devices("GPU")
        devices = gpus or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    if FLAGS.strategy == "multi_worker":
        _check_cluster()
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.get_strategy()


def _check_cluster() -> None:
    cluster = os.environ.get("TF_CONFIG", "")
    try:
        parts = json.loads(cluster)
        workers, task = parts["cluster"], parts["task"]
        known = 0 <= task["index"] < len(workers[task["type"]])
    except (ValueError, LookupError, TypeError):
        known = False
    if not known:
        raise ValueError(
            "--strategy=multi_worker must find the cluster in the environment variable TF_CONFIG. "
            f"Received: TF_CONFIG={cluster!r}. Give, say, "
            '\'{"cluster": {"worker": ["host0:5000", "host1:5000"]}, '
            '"task": {"type": "worker", "index": 0}}\', with another index on each host.'
        )
