"""One rule for any network: how is it trained, and how does it do on the models people train?

`--mode=train` trains a rule on a mixture of small networks of many kinds
(`experiments.general.training_problems`). `--mode=evaluate` trains each task of a split with tuned
optimizers of Keras, and with the learned rules that `--rule` names, which nobody tunes. It then
writes the tables and figures of `experiments.general.report`.
"""

from pathlib import Path

import tensorflow as tf
from absl import flags

from experiments.general.contenders import DEFAULT_BASELINES, check_rule
from experiments.general.evaluation import evaluate
from experiments.general.report import write_report
from experiments.general.runs import RUNS_FILE, Runs
from experiments.general.tasks import chosen_tasks
from experiments.general.training_problems import training_mixture
from experiments.general.wall_clock import given_step_times
from experiments.harness import common, images, learned_rules, tuned_rates
from experiments.harness.keras_optimizers import BASELINES
from experiments.harness.meta_training import meta_train

FLAGS = flags.FLAGS
# Redefines --mode: rules are evaluated with Keras, on other tasks than they are trained on.
del FLAGS.mode
flags.DEFINE_enum(
    "mode", "evaluate", ["train", "evaluate"], "Whether to train a rule or to evaluate rules."
)
flags.DEFINE_integer(
    "networks_of_each_kind", 2, "Number of networks of each kind that a rule is trained on.", 1
)
flags.DEFINE_list("kinds", [], "Kinds of networks to train on. By default, all of them.")
flags.DEFINE_float(
    "width_factor",
    1,
    "Factor of the largest number of units of a layer of the networks that a rule is trained on.",
    0.5,
    8,
)
FLAGS.set_default("baselines", DEFAULT_BASELINES)
FLAGS.set_default("learned_rule", "general")
FLAGS.set_default("rule_name", "general")

# Modules with flags that experiments share.
_MODULES = [module.__name__ for module in (common, images, learned_rules, tuned_rates)]
# Flags of its own for one mode.
_TO_TRAIN = {"kinds", "networks_of_each_kind", "width_factor"}
_TO_EVALUATE = {"split", "tasks", "num_seeds", "kept_runs", "step_times"}
# Of the shared flags, those that it reads, and those that it does not.
_READ_TO_EVALUATE = {"output_dir", "rule", "threads_per_operation", "baselines", "data_dir"}
_NOT_READ_TO_TRAIN = {
    *("rule", "untrained", "num_tasks", "num_other_tasks", "update_card", "delta_factors"),
    *("random_scale_range", "num_convex_dimensions", "backtrack_ratio"),
}
# No seed that a flag may have, so that a rule is not validated on networks that it is trained on.
_VALIDATION_SEED = common.MAX_SEED + 1


def main(strategy: tf.distribute.Strategy) -> None:
    """Runs the experiment that the flags describe."""
    if FLAGS.mode == "train":
        _train(strategy)
    else:
        _evaluate()


def _train(strategy: tf.distribute.Strategy) -> None:
    by_module = FLAGS.flags_by_module_dict()
    known = {flag.name for module in (common, learned_rules) for flag in by_module[module.__name__]}
    advice = "they are for evaluations, or for other rules."
    common.check_all_read("general", _MODULES, known - _NOT_READ_TO_TRAIN, advice)
    _refuse(_TO_EVALUATE)
    train = training_mixture(
        FLAGS.seed, FLAGS.networks_of_each_kind, FLAGS.kinds, FLAGS.width_factor
    )
    num_of_each = 2 if len(FLAGS.kinds) == 1 else 1
    validation = training_mixture(_VALIDATION_SEED, num_of_each, FLAGS.kinds, FLAGS.width_factor)
    meta_train("general", train, validation, strategy, Path(FLAGS.output_dir))


def _evaluate() -> None:
    advice = "each task has its own data, network and horizon."
    common.check_all_read("general", _MODULES, _READ_TO_EVALUATE, advice)
    _refuse(_TO_TRAIN)
    tasks, baselines = chosen_tasks(), tuned_rates.chosen_baselines(BASELINES)
    rules = list(dict.fromkeys(FLAGS.rule))
    for rule in rules:
        check_rule(rule)
    output_dir = Path(FLAGS.output_dir)
    runs, times = Runs(output_dir / RUNS_FILE, FLAGS.kept_runs), given_step_times()
    common.write_flags(output_dir / "flags.txt")
    evaluate(tasks, baselines, rules, FLAGS.num_seeds, runs, FLAGS.data_dir)
    write_report(output_dir, FLAGS.split, tasks, runs, FLAGS.num_seeds, times)


def _refuse(flags_of_other_mode: set[str]) -> None:
    changed = [FLAGS[name] for name in sorted(flags_of_other_mode)]
    unread = [f"--{one.name}" for one in changed if one.value != one.default]
    if unread:
        raise ValueError(
            f"Flags must be ones that --mode={FLAGS.mode} reads. "
            f"Received: {', '.join(unread)}, which it does not. Leave them out, or give the other "
            "mode."
        )


if __name__ == "__main__":
    common.run(main)
