"""Flags, start-up and output shared by all experiment binaries."""

import contextlib
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import tensorflow as tf
from absl import app, flags, logging

from experiments.harness.path_flags import define_path, define_paths
from experiments.harness.places import kept_folder
from experiments.harness.revision import find_commit
from l2l_tf.evaluation import METRICS
from l2l_tf.files import write_text

MODES = ("train", "evaluate", "train_and_evaluate")
STEP_WEIGHTS = ("all", "last")
ESTIMATORS = ("backpropagation", "evolution")
STRATEGIES = ("default", "mirrored", "multi_worker")
# Keras takes 32 bits, and some experiments add to the seed.
MAX_SEED = 2**31 - 1

flags.DEFINE_enum(
    "mode", "train_and_evaluate", MODES, "Whether to train a rule, evaluate rules, or both."
)
define_path("output_dir", None, "Folder for everything that is written.")
define_paths(
    "rule",
    "Saved rules to evaluate, by name or path. By default, the rule trained in output_dir.",
)
flags.DEFINE_string(
    "rule_name",
    None,
    "Name of the trained rule. By default, made from the experiment and the kind of rule.",
)
define_path(
    "use",
    None,
    "JSON file that says what the rule is for; it goes into the rule's card "
    "(l2l_tf.delivery.RuleUse).",
)
define_paths(
    "untrained",
    "Saved rules to evaluate as they were before their training, by name or path.",
)
flags.DEFINE_bool("update_card", False, "Add the scores to the cards of the rules given by --rule.")
flags.DEFINE_integer("seed", 0, "Seed of initial weights and of all tasks.", 0, MAX_SEED)
flags.DEFINE_integer("num_steps", 100, "Horizon: the number of steps of a trajectory.", 1)
flags.DEFINE_integer("num_tasks", 8, "Number of fresh tasks on which rules are compared.", 1)
flags.DEFINE_integer(
    "num_other_tasks",
    None,
    "Number of tasks for further tables, such as the one on the images that rules are trained "
    "on. By default, the same as --num_tasks.",
    1,
)

define_path(
    "initial_rule",
    None,
    "Saved rule, by name or path, whose weights training starts from. By default, training "
    "starts from random weights. The initial weights are kept if no meta-epoch is better.",
)
flags.DEFINE_integer("unroll_length", 20, "Number of steps that a meta-gradient flows through.", 1)
flags.DEFINE_integer(
    "backpropagation_steps",
    None,
    "Largest number of steps of the rule itself that the meta-gradient flows through. By "
    "default, all steps of an unroll.",
    1,
)
flags.DEFINE_integer("num_meta_epochs", 20, "Number of meta-epochs. A validation ends each.", 1)
flags.DEFINE_integer(
    "trajectories_per_meta_epoch", 100, "Number of trajectories in each meta-epoch.", 1
)
flags.DEFINE_integer(
    "tasks_per_meta_step", 1, "Number of tasks that run side by side in a meta-step.", 1
)
flags.DEFINE_integer("num_validation_tasks", 8, "Number of held-out tasks for validation.", 1)
flags.DEFINE_list(
    "horizons",
    [],
    "Curriculum: the number of steps of a trajectory in each stage of training, ascending to "
    "num_steps, such as 100,200,500,1000. A stage is validated over the horizon of the next "
    "stage.",
)
flags.DEFINE_list(
    "drawn_horizons",
    [],
    "Numbers of steps, up to num_steps, from which that of each trajectory is drawn, such as "
    "50,100,200. A trajectory is then one unroll.",
)
flags.DEFINE_integer(
    "patience", 1, "Number of validations without improvement that end a stage of --horizons.", 1
)
flags.DEFINE_enum(
    "validation_metric",
    "final_loss",
    METRICS,
    "Metric by which validation chooses the best weights.",
)
flags.DEFINE_list(
    "delta_factors",
    [],
    "Factors to try on the deltas of the best rule once training has ended. Each is evaluated "
    "on the validation tasks over the whole horizon, and the best one is kept.",
)
flags.DEFINE_enum("step_weights", "all", STEP_WEIGHTS, "Steps of an unroll whose losses count.")
flags.DEFINE_float(
    "random_scale_range",
    0,
    "In training only, scale each coordinate by exp(U(-range, range)); 0: no scaling.",
    0,
)
flags.DEFINE_integer(
    "num_convex_dimensions",
    0,
    "In training only, the number of coordinates of a convex term that is added to the loss; 0: "
    "no term.",
    0,
)
flags.DEFINE_float(
    "backtrack_ratio",
    0,
    "Go back to the best weights so far when a validation is this many times worse; 0: never.",
    0,
)
flags.DEFINE_float(
    "second_derivatives",
    0,
    "How much to differentiate through the optimizee's gradients: 0 is the paper's "
    "approximation; 1 is the true derivative, which can explode; values between are a share of "
    "it.",
    0,
    1,
)
flags.DEFINE_integer(
    "chunk_size", None, "Number of coordinates that training takes at once; 0: all.", 0
)
flags.DEFINE_enum("estimator", "backpropagation", ESTIMATORS, "How meta-gradients are estimated.")
flags.DEFINE_string(
    "trained_weights",
    None,
    "Regular expression to search for in the paths of the rule's weights. The others stay as they "
    "are. By default, all are trained.",
)
flags.DEFINE_float(
    "counted_share",
    1,
    "Share of a trajectory's steps, at its end, whose losses count in meta-training.",
    0,
    1,
)
flags.DEFINE_bool(
    "rematerialize",
    False,
    "backpropagation: keep iterates alone, and take each step again in the backward pass. It takes "
    "far less memory, with second derivatives.",
)
flags.DEFINE_float(
    "max_norm",
    None,
    "backpropagation: the largest norm of a meta-gradient that counts; larger ones have exploded.",
)
flags.DEFINE_float(
    "perturbation_stddev", 0.01, "evolution: standard deviation of perturbations of weights.", 0
)
flags.DEFINE_integer(
    "min_horizon",
    None,
    "evolution: draw the length of each trajectory log-uniformly between this and --num_steps.",
    1,
)
flags.DEFINE_bool("reuse_noise", False, "evolution: keep a perturbation for a whole trajectory.")
flags.DEFINE_float("max_loss", None, "evolution: the largest loss that counts.")
flags.DEFINE_float("meta_learning_rate", 3e-3, "Adam's learning rate at the first meta-step.", 0)
flags.DEFINE_float(
    "final_meta_learning_rate_share",
    0.02,
    "Share of the meta-learning rate that is left after its cosine decay.",
    0,
    1,
)
flags.DEFINE_float("meta_clipnorm", 1, "Largest norm of a meta-gradient; 0: no clipping.", 0)
flags.DEFINE_float(
    "weight_average",
    0,
    "Momentum of a moving average of the weights over meta-steps. The average is validated and "
    "exported in place of the weights; 0: no averaging.",
    0,
    0.999999,
)
flags.DEFINE_float("checkpoint_seconds", 60, "Seconds between checkpoints.", 0)

flags.DEFINE_enum(
    "strategy",
    "default",
    STRATEGIES,
    "Where the tasks of a meta-step run: on one device, on all devices of this machine, or on "
    "those of all workers in TF_CONFIG.",
)
flags.DEFINE_integer(
    "logical_cpus", 1, "Number of devices that the CPU is split into where there is no GPU.", 1
)

flags.DEFINE_integer(
    "threads_per_operation",
    1,
    "Number of CPU threads for each operation. With 1, a rule's coordinates are cut into parts "
    "that run side by side, which is faster on few cores; 0: let TensorFlow decide.",
    0,
)

FLAGS = flags.FLAGS

flags.register_multi_flags_validator(
    ["mode", "output_dir"],
    # A mode that only one experiment has states its own requirements.
    lambda values: values["mode"] not in MODES or values["output_dir"] is not None,
    "Flag --output_dir must have a value other than None.",
)

# Errors of TensorFlow that are no fault of the program: what must hold, and what to do.
_FULL = (
    "There must be memory, and space on the disk, for the run.",
    "Free some, or run fewer tasks at once; the same command goes on from the last checkpoint.",
)
_ADVICE = {
    tf.errors.ResourceExhaustedError: _FULL,
    tf.errors.OutOfRangeError: _FULL,
    tf.errors.UnavailableError: (
        "All workers must stay reachable.",
        "Give the same command on every host again; it goes on from the last checkpoint.",
    ),
    tf.errors.PermissionDeniedError: (
        "--output_dir must be a folder that may be written to.",
        "Change its permissions, or choose another; the same command goes on from there.",
    ),
    tf.errors.UnknownError: (
        "TensorFlow must be able to use this machine's files and ports.",
        "Look whether the disk is full or the port of this worker in TF_CONFIG is taken.",
    ),
}


def run(experiment: Callable[[tf.distribute.Strategy], None]) -> None:
    """Runs an experiment under absl; invalid input ends it with one sentence on standard error.

    The folder of `--output_dir` is created first if need be. It must be writable, and it is kept
    from other runs until this one has ended. With several workers, the chief, which alone writes,
    takes care of this.

    Args:
        experiment: does everything; receives the strategy that `--strategy` names.
    """

    def main(arguments: Sequence[str]) -> None:
        # absl has raised its default to INFO, at which TensorFlow reports every file it writes.
        if not FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
        tf.get_logger().setLevel("WARNING")
        # A run that was stopped and resumed must end with the same weights, bit for bit.
        tf.config.experimental.enable_op_determinism()
        try:
            if len(arguments) > 1:
                raise ValueError(
                    "Arguments must be flags. "
                    f"Received: {arguments[1:]}. Write --name=value; --helpfull lists the names."
                )
            tf.config.threading.set_intra_op_parallelism_threads(FLAGS.threads_per_operation)
            _make_logical_cpus()
            strategy = _make_strategy()
            writes = FLAGS.output_dir is not None and strategy.extended.should_checkpoint
            with (
                kept_folder("output_dir", Path(FLAGS.output_dir))
                if writes
                else contextlib.nullcontext()
            ):
                experiment(strategy)
        except tuple(_ADVICE) as error:
            logging.debug("Where it came from:", exc_info=True)
            reason = error.message.partition("\n")[0].split("}} ")[-1].rstrip(".")
            rule, advice = _ADVICE[type(error)]
            sys.exit(f"\nerror: {rule} Received: {reason}. {advice}")
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)
        except (ValueError, TypeError, OSError) as error:
            logging.debug("Where it came from:", exc_info=True)
            sys.exit(f"error: {error}")

    app.run(main)


def check_all_read(experiment: str, modules: Iterable[str], read: set[str], advice: str) -> None:
    """Checks that no flag is given that an experiment does not read.

    Args:
        experiment: the binary's name.
        modules: the modules that define flags for several experiments.
        read: the names of those of their flags that this experiment reads.
        advice: what to do, the end of a sentence.

    Raises:
        ValueError: such a flag has another value than its default.
    """
    by_module = FLAGS.flags_by_module_dict()
    shared = [flag for module in modules for flag in by_module[module]]
    # A file of flags names all of them, most with their defaults.
    changed = [one.name for one in shared if one.present and one.value != one.default]
    unread = sorted(f"--{name}" for name in changed if name not in read)
    if unread:
        raise ValueError(
            f"Flags must be ones that experiments.{experiment} reads. "
            f"Received: {', '.join(unread)}, which it does not. Leave them out; {advice}"
        )


def origin(experiment: str) -> dict[str, str]:
    """Returns the running command, without flags that only affect drawing, and its commit."""
    arguments = [one for one in sys.argv[1:] if not one.startswith("--reference_curves=")]
    command = shlex.join(["python", "-m", f"experiments.{experiment}", *arguments])
    return {"command": command, "commit": find_commit() or "unknown"}


def write_flags(path: Path) -> None:
    """Writes the experiment's flags, in the format that `--flagfile` reads."""
    own = [
        flag
        for module, module_flags in FLAGS.flags_by_module_dict().items()
        # absl identifies the module that runs as a program by the path of its file.
        if module == sys.argv[0] or module.startswith("experiments.")
        for flag in module_flags
    ]
    write_text(path, "".join(f"{flag.serialize()}\n" for flag in own if flag.serialize()))


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
