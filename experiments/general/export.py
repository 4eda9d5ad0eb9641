"""Saves the general rule before anything is learned, as rules are shipped: `<output_dir>/rule`.

A SavedModel of a rule that looks at whole tensors is of given tensors. This one is of those of the
suite's smallest network for images.
"""

from pathlib import Path

import tensorflow as tf
from absl import flags

from experiments.general.contenders import UNTRAINED
from experiments.general.tasks import TASKS
from experiments.harness import common
from experiments.harness.meta_training import use_entry
from l2l_tf.delivery import export_rule

FLAGS = flags.FLAGS

# What it reads of the flags that experiments share.
_READ = {"output_dir", "use", "threads_per_operation"}
# The task whose network has the tensors of the SavedModel.
_TASK = "mnist_mlp20_sigmoid"
_UNTRAINED = "general_untrained"


def main(strategy: tf.distribute.Strategy) -> None:
    """Writes the rule that the flags describe."""
    del strategy  # Nothing runs.
    advice = "the rule has its initial weights."
    common.check_all_read("general.export", [common.__name__], _READ, advice)
    rule = UNTRAINED[_UNTRAINED]()
    card = {
        "name": "general",
        "licence": "Apache-2.0",
        "source": "our own, with the directions of Adam (Kingma and Ba 2014, arXiv 1412.6980) and "
        "Muon (K. Jordan 2024)",
        "training": {
            "problem": "none: these are the initial weights",
            "seed": rule.seed,
            "saved_model_of": _TASK,
            **common.origin("general.export"),
        },
        **use_entry(),
    }
    variables = TASKS[_TASK].model(0).trainable_variables
    path = export_rule(rule, Path(FLAGS.output_dir) / "rule", card, variables)
    print(f"Wrote the rule with its initial weights to {path}")


if __name__ == "__main__":
    common.run(main)
