"""How do optimizers do, untuned or tuned, on the kinds of Keras models that people train?

`--mode=evaluate` trains each task of a split with tuned optimizers of Keras, and with the learned
rules that `--rule` names, which nobody tunes. It then writes the tables and figures of
`experiments.general.report`.
"""

from pathlib import Path

import tensorflow as tf
from absl import flags

from experiments.general.contenders import DEFAULT_BASELINES, check_rule
from experiments.general.evaluation import evaluate
from experiments.general.report import write_report
from experiments.general.runs import RUNS_FILE, Runs
from experiments.general.tasks import chosen_tasks
from experiments.harness import common, images, tuned_rates
from experiments.harness.keras_optimizers import BASELINES

FLAGS = flags.FLAGS
# Redefines --mode: rules are trained elsewhere.
del FLAGS.mode
flags.DEFINE_enum("mode", "evaluate", ["evaluate"], "Whether to evaluate rules.")
FLAGS.set_default("baselines", DEFAULT_BASELINES)

# What it reads of the flags that experiments share.
_READ = {"output_dir", "rule", "threads_per_operation", "baselines", "data_dir"}


def main(strategy: tf.distribute.Strategy) -> None:
    """Runs the experiment that the flags describe."""
    del strategy  # Runs are of one device.
    modules = [module.__name__ for module in (common, images, tuned_rates)]
    advice = "each task has its own data, network and horizon."
    common.check_all_read("general", modules, _READ, advice)
    tasks, baselines = chosen_tasks(), tuned_rates.chosen_baselines(BASELINES)
    rules = list(dict.fromkeys(FLAGS.rule))
    for rule in rules:
        check_rule(rule)
    output_dir = Path(FLAGS.output_dir)
    runs = Runs(output_dir / RUNS_FILE, FLAGS.kept_runs)
    common.write_flags(output_dir / "flags.txt")
    evaluate(tasks, baselines, rules, FLAGS.num_seeds, runs, FLAGS.data_dir)
    write_report(output_dir, FLAGS.split, tasks, runs, FLAGS.num_seeds)


if __name__ == "__main__":
    common.run(main)
