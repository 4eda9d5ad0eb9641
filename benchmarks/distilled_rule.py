"""DistilledRule beside Keras's Adam and the LSTM it was distilled from: time and memory of a step.

    python -m benchmarks.distilled_rule --output=benchmarks/distilled_rule.json

A step is `optimizer.apply` on given gradients of MLPs with 10^4 to 10^7 parameters, compiled by
TensorFlow or by XLA. Each network and compiler has a process of its own, in which the optimizers
take turns. Times are medians of rounds, and ratios are medians of each round's ratio to Adam. The
LSTM is left out of the largest network, where its state alone takes gigabytes.
"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks.machine import describe_machine, describe_software
from benchmarks.networks import MLP
from benchmarks.report import write_json
from benchmarks.timing import time_in_turns
from experiments.harness.path_flags import define_path
from experiments.harness.places import check_output

_NETWORKS = {
    "mlp_10k": MLP((100, 90, 10)),
    "mlp_1m": MLP((784, 1000, 200, 10)),
    "mlp_10m": MLP((784, 5000, 1200, 10)),
}
_WITHOUT_LSTM = ("mlp_10m",)
_COMPILERS = ("graph", "xla")
# The limits that the project sets itself: network, compiler, the ratio to Adam.
_BARS = (("mlp_1m", "graph", 3.0), ("mlp_1m", "xla", 2.0))
_SECONDS_OF_TURN = 0.1

_OUTPUT = define_path("output", "benchmarks/distilled_rule.json", "File for the results.")
_CHOSEN = flags.DEFINE_list("networks", list(_NETWORKS), "Networks to optimise.")
_COMPILED = flags.DEFINE_list("compilers", list(_COMPILERS), "Compilers of a step.")
_ROUNDS = flags.DEFINE_integer("rounds", 15, "Number of turns of each optimizer.", 1)
_THREADS = flags.DEFINE_integer(
    "threads", 0, "Threads of an operation, and operations at once; 0: as TensorFlow decides.", 0
)
_MEASURE = flags.DEFINE_list("measure", None, "In a worker: network, compiler.")


def main(_: Sequence[str]) -> None:
    """Runs the benchmark, or one measurement of it."""
    if _MEASURE.value is not None:
        print(json.dumps(_measured(*_MEASURE.value)))
        return
    try:
        check_output("output", Path(_OUTPUT.value))
    except ValueError as error:
        sys.exit(f"error: {error}")
    rows = []
    for network in _CHOSEN.value:
        for compiler in _COMPILED.value:
            rows.append(_measure(network, compiler))
            print(_shown(rows[-1]), flush=True)
    contents: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.distilled_rule", *sys.argv[1:]]),
        "machine": describe_machine(),
        "load_before": os.getloadavg()[0],
        "threads": _THREADS.value,
        **describe_software(),
        "measurements": rows,
        "bars": _bars(rows),
    }
    write_json(Path(_OUTPUT.value), contents)
    for bar in contents["bars"]:
        ratio = "not measured" if bar["ratio"] is None else f"{bar['ratio']:.2f}"
        print(
            f"distilled / adam, {bar['network']}, {bar['compiler']}: {ratio} (bar {bar['limit']})"
        )


def _measure(network: str, compiler: str) -> dict[str, Any]:
    """Measures the optimizers on a network, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.distilled_rule"]
    command += [f"--measure={network},{compiler}"]
    command += [f"--rounds={_ROUNDS.value}", f"--threads={_THREADS.value}"]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    row: dict[str, Any] = {"network": network, "compiler": compiler}
    if process.returncode:
        return row | {"error": f"exit code {process.returncode}"}
    return row | json.loads(process.stdout.splitlines()[-1])


def _shown(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"{row['network']}, {row['compiler']}: {row['error']}"
    parts = (
        f"{name} {1e3 * one['median']:.3g} ms ({one['ratio_to_adam']:.2f}, "
        f"{one['state_floats_per_parameter']:.2f} floats)"
        for name, one in row["optimizers"].items()
    )
    return f"{row['network']}, {row['compiler']}: {'; '.join(parts)}"


def _bars(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the ratios that have limits; null for one that was not measured."""
    measured = {
        (row["network"], row["compiler"]): row["optimizers"]["distilled"]["ratio_to_adam"]
        for row in rows
        if "error" not in row
    }
    return [
        {
            "network": network,
            "compiler": compiler,
            "ratio": measured.get((network, compiler)),
            "limit": limit,
        }
        for network, compiler, limit in _BARS
    ]


def _measured(network: str, compiler: str) -> dict[str, Any]:
    """Returns the times of each optimizer, their ratios to Adam's, and the sizes of states."""
    import keras
    import tensorflow as tf

    from benchmarks.optimizer_steps import apply_step, gradients_for, state_bytes
    from l2l_tf import LearnedOptimizer
    from l2l_tf.rules import DistilledRule, RNNprop

    tf.config.threading.set_intra_op_parallelism_threads(_THREADS.value)
    tf.config.threading.set_inter_op_parallelism_threads(_THREADS.value)
    parameters = _NETWORKS[network].initial_parameters(np.random.default_rng(0))
    gradients = gradients_for(parameters)
    optimizers: dict[str, Any] = {
        "adam": keras.optimizers.Adam(1e-3),
        "distilled": LearnedOptimizer(DistilledRule()),
    }
    if network not in _WITHOUT_LSTM:
        optimizers["rnnprop"] = LearnedOptimizer(RNNprop(output_stddev=0.01, seed=0))
    steps = {
        name: apply_step(one, parameters, gradients, compiler) for name, one in optimizers.items()
    }
    seconds = time_in_turns(steps, _ROUNDS.value, _SECONDS_OF_TURN)
    num_parameters = sum(parameter.size for parameter in parameters)
    adam = np.array(seconds["adam"])
    return {
        "num_parameters": num_parameters,
        "rounds": _ROUNDS.value,
        "optimizers": {
            name: {
                "median": float(np.median(own)),
                "quartiles": np.quantile(own, [0.25, 0.75]).tolist(),
                "ratio_to_adam": float(np.median(np.array(own) / adam)),
                "state_floats_per_parameter": state_bytes(optimizers[name]) / 4 / num_parameters,
            }
            for name, own in seconds.items()
        },
    }


if __name__ == "__main__":
    app.run(main)
