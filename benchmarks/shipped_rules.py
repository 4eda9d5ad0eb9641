"""What a training step costs with each rule that comes with the package, beside Adam.

    python -m benchmarks.shipped_rules --update_cards

A step is that of a convolutional network of 90,000 parameters on a minibatch of 64 (`cifar_conv` of
`experiments.general`): forward pass, backward pass and update, compiled by TensorFlow, on one
thread. The optimizers take turns in one process; ratios are medians of each round's ratio. The
state is that of the optimizer's variables, without single numbers.

`--update_cards` writes the results into the rules' cards, from which `python -m
experiments.rules_table` makes its table.
"""

import shlex
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import app, flags

from benchmarks.general_steps import make, steps_on
from benchmarks.machine import describe_machine, describe_software
from benchmarks.optimizer_steps import state_bytes
from benchmarks.timing import time_in_turns
from experiments.general.tasks import TASKS
from l2l_tf import LearnedOptimizer, list_rules, load_rule
from l2l_tf.delivery import update_card

NETWORK = "cifar_conv"
_SECONDS_OF_TURN = 0.2
# The horizon of rules that must know it, which does not change what a step costs.
_NUM_STEPS = 10**6

_RULES = flags.DEFINE_list("rules", None, "Rules to time. By default, all of the package.")
_ROUNDS = flags.DEFINE_integer("rounds", 9, "Number of turns of each optimizer.", 1)
_UPDATE_CARDS = flags.DEFINE_bool("update_cards", False, "Write the results into the rules' cards.")


def costs(names: Sequence[str], num_rounds: int) -> dict[str, dict[str, Any]]:
    """Returns the entry `cost` of each rule's card.

    Args:
        names: rules of the package.
        num_rounds: the number of turns of each optimizer.
    """
    optimizers = {"adam": make("adam")} | {
        name: LearnedOptimizer(load_rule(name), num_steps=_NUM_STEPS) for name in names
    }
    steps, num_parameters = steps_on(NETWORK, optimizers, "graph")
    seconds = time_in_turns(steps, num_rounds, _SECONDS_OF_TURN)
    adam = np.array(seconds["adam"])
    state_of_adam = state_bytes(optimizers["adam"])
    command = shlex.join(["python", "-m", "benchmarks.shipped_rules", *sys.argv[1:]])
    entries = {}
    for name in names:
        low, median, high = np.quantile(np.array(seconds[name]) / adam, [0.25, 0.5, 0.75]).tolist()
        entries[name] = {
            "network": NETWORK,
            "num_parameters": num_parameters,
            "batch_size": TASKS[NETWORK].batch_size,
            "step_over_adam": median,
            "step_over_adam_quartiles": [low, high],
            "seconds_of_step": float(np.median(seconds[name])),
            "seconds_of_adam": float(np.median(adam)),
            "state_over_adam": state_bytes(optimizers[name]) / state_of_adam,
            "threads": 1,
            "num_rounds": num_rounds,
            "machine": describe_machine(),
            "command": command,
            **describe_software(),
        }
    return entries


def main(_: Sequence[str]) -> None:
    """Runs the benchmark."""
    # Each optimizer's step is one function, of which TensorFlow would warn.
    tf.get_logger().setLevel("ERROR")
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    entries = costs(_RULES.value or list(list_rules()), _ROUNDS.value)
    print(f"{'rule':24}{'step, ms':>10}{'/ adam':>8}{'state / adam':>14}")
    for name, cost in entries.items():
        print(
            f"{name:24}{1e3 * cost['seconds_of_step']:10.1f}{cost['step_over_adam']:8.2f}"
            f"{cost['state_over_adam']:14.2f}"
        )
        if _UPDATE_CARDS.value:
            update_card(list_rules()[name].path, cost=cost)


if __name__ == "__main__":
    app.run(main)
