"""GeneralRule beside Keras's Adam and Muon: time and memory of a step.

    python -m benchmarks.general_rule --output=benchmarks/general_rule.json

A step is `optimizer.apply` on given gradients, of MLPs and convolutional networks with 10^4 to 10^7
parameters; or a whole training step of a network of `experiments.general`, with its size of
minibatches and a made-up minibatch. Both are compiled by TensorFlow or by XLA. Keras's Muon
orthogonalises dense kernels (in training, not that of the outputs) and takes AdamW's steps
elsewhere. The rule orthogonalises all kernels, so that Muon is a like measure for MLPs alone.

Each network and compiler has a process of its own, in which the optimizers take turns. Times are
medians of rounds, and ratios are medians of each round's ratio. The memory of a step is the peak
of resident memory beyond what is resident before it, on Linux.
"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from absl import app, flags

from benchmarks.general_steps import (
    APPLIED,
    COMPILERS,
    OPTIMIZERS,
    TRAINED,
    bars_of,
    make,
    steps_on,
)
from benchmarks.machine import describe_machine, describe_software
from benchmarks.optimizer_steps import state_bytes
from benchmarks.report import write_json
from benchmarks.timing import forget_peak, peak_bytes, time_in_turns, time_steps
from experiments.harness.path_flags import define_path
from experiments.harness.places import check_output

_SECONDS_OF_TURN = 0.1
_STEPS_OF_PEAK = 3

_OUTPUT = define_path("output", "benchmarks/general_rule.json", "File for the results.")
_NETWORKS = flags.DEFINE_list("networks", [*APPLIED, *TRAINED], "Networks to optimise.")
_COMPILERS = flags.DEFINE_list("compilers", list(COMPILERS), "Compilers of a step.")
_ROUNDS = flags.DEFINE_integer("rounds", 15, "Number of turns of each optimizer.", 1)
_THREADS = flags.DEFINE_integer(
    "threads", 1, "Threads of an operation, and operations at once; 0: as TensorFlow decides.", 0
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
    print(_line("", ("compiler", *(f"{one} ms" for one in OPTIMIZERS), "/ adam", "/ muon")))
    for network in _NETWORKS.value:
        for compiler in _COMPILERS.value:
            row = _measure(network, compiler)
            print(_shown(row), flush=True)
            rows.append(row)
    bars = bars_of(rows)
    contents: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.general_rule", *sys.argv[1:]]),
        "machine": describe_machine(),
        "load_before": os.getloadavg()[0],
        "threads": _THREADS.value,
        **describe_software(),
        "measurements": rows,
        "bars": bars,
    }
    write_json(Path(_OUTPUT.value), contents)
    for bar in bars:
        ratio = "not measured" if bar["ratio"] is None else f"{bar['ratio']:.2f}"
        print(
            f"general / {bar['other']}, {bar['network']}, {bar['compiler']}: {ratio} "
            f"(bar {bar['limit']})"
        )


def _measure(network: str, compiler: str) -> dict[str, Any]:
    """Measures the optimizers on a network, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.general_rule", f"--measure={network},{compiler}"]
    command += [f"--rounds={_ROUNDS.value}", f"--threads={_THREADS.value}"]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    row: dict[str, Any] = {"network": network, "compiler": compiler}
    if process.returncode:
        return row | {"error": f"exit code {process.returncode}"}
    return row | json.loads(process.stdout.splitlines()[-1])


def _shown(row: dict[str, Any]) -> str:
    if "error" in row:
        return _line(row["network"], (row["compiler"], row["error"]))
    times = (f"{1e3 * row['optimizers'][one]['median']:.3g}" for one in OPTIMIZERS)
    ratios = (f"{row['ratios'][one]['ratio']:.2f}" for one in OPTIMIZERS[:-1])
    return _line(row["network"], (row["compiler"], *times, *ratios))


def _line(name: str, cells: Sequence[str]) -> str:
    return f"{name:18}" + "".join(f"{cell:>12}" for cell in cells)


def _measured(network: str, compiler: str) -> dict[str, Any]:
    """Returns times and memory of each optimizer, and the rule's ratios to the others."""
    tf.config.threading.set_intra_op_parallelism_threads(_THREADS.value)
    tf.config.threading.set_inter_op_parallelism_threads(_THREADS.value)
    optimizers = {name: make(name) for name in OPTIMIZERS}
    steps, num_parameters = steps_on(network, optimizers, compiler)
    seconds = time_in_turns(steps, _ROUNDS.value, _SECONDS_OF_TURN)
    ours = np.array(seconds["general"])
    return {
        "num_parameters": num_parameters,
        "rounds": _ROUNDS.value,
        "optimizers": {
            name: {
                **_quartiles("median", np.array(seconds[name])),
                "state_floats_per_parameter": state_bytes(optimizers[name]) / 4 / num_parameters,
                "bytes_of_step": _bytes_of_step(steps[name]),
            }
            for name in OPTIMIZERS
        },
        "ratios": {
            name: _quartiles("ratio", ours / np.array(seconds[name])) for name in OPTIMIZERS[:-1]
        },
    }


def _quartiles(name: str, values: np.ndarray) -> dict[str, Any]:
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    return {name: median, "quartiles": [low, high]}


def _bytes_of_step(step: Callable[[], Any]) -> int:
    """Returns the peak memory of some steps beyond what is resident before them."""
    before = forget_peak()
    time_steps(step, 0, _STEPS_OF_PEAK)
    return peak_bytes() - before


if __name__ == "__main__":
    app.run(main)
