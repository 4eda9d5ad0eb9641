"""Benchmarks in which optimizers take turns, each network and compiler in a process of its own."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from benchmarks.machine import describe_machine, describe_software
from benchmarks.report import write_json
from benchmarks.timing import time_in_turns
from experiments.harness.places import check_output

COMPILERS = ("graph", "xla")
_SECONDS_OF_TURN = 0.1

_COMPILERS = flags.DEFINE_list("compilers", list(COMPILERS), "Compilers of a step.")
_ROUNDS = flags.DEFINE_integer("rounds", 15, "Number of turns of each optimizer.", 1)
_THREADS = flags.DEFINE_integer(
    "threads", 1, "Threads of an operation, and operations at once; 0: as TensorFlow decides.", 0
)
_MEASURE = flags.DEFINE_list("measure", None, "In a worker: network, compiler.")


def run(
    benchmark: str,
    output: str,
    networks: Sequence[str],
    measured: Callable[[str, str], dict[str, Any]],
    shown: Callable[[dict[str, Any]], str],
    bars_of: Callable[[Sequence[dict[str, Any]]], list[dict[str, Any]]],
) -> None:
    """Runs a benchmark, or one measurement of it; prints it and writes it as JSON.

    Args:
        benchmark: the name of the module that runs it.
        output: the file for the results.
        networks: names of the networks to optimise.
        measured: what a worker finds for a network and a compiler.
        shown: a row as text. One whose measurement failed has the key "error".
        bars_of: the ratios that have limits: networks, compilers, ratios, limits and names.
    """
    if _MEASURE.value is not None:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(_THREADS.value)
        tf.config.threading.set_inter_op_parallelism_threads(_THREADS.value)
        print(json.dumps(measured(*_MEASURE.value)))
        return
    try:
        check_output("output", Path(output))
    except ValueError as error:
        sys.exit(f"error: {error}")
    rows = []
    for network in networks:
        for compiler in _COMPILERS.value:
            rows.append(_measure(benchmark, network, compiler))
            print(shown(rows[-1]), flush=True)
    contents: dict[str, Any] = {
        "command": shlex.join(["python", "-m", benchmark, *sys.argv[1:]]),
        "machine": describe_machine(),
        "load_before": os.getloadavg()[0],
        "threads": _THREADS.value,
        **describe_software(),
        "measurements": rows,
        "bars": bars_of(rows),
    }
    write_json(Path(output), contents)
    for bar in contents["bars"]:
        ratio = "not measured" if bar["ratio"] is None else f"{bar['ratio']:.2f}"
        where = f"{bar['network']}, {bar['compiler']}"
        print(f"{bar['name']} / {bar['other']}, {where}: {ratio} (bar {bar['limit']})")


def rounds_of(steps: Mapping[str, Callable[[], Any]]) -> dict[str, np.ndarray]:
    """Returns the seconds of each optimizer's step in each round, in a worker.

    Args:
        steps: functions that do a step and wait for its end, by name.
    """
    seconds = time_in_turns(steps, _ROUNDS.value, _SECONDS_OF_TURN)
    return {name: np.array(own) for name, own in seconds.items()}


def quartiles(name: str, values: np.ndarray) -> dict[str, Any]:
    """Returns the median of some values, by a name of its own, and their quartiles."""
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    return {name: median, "quartiles": [low, high]}


def _measure(benchmark: str, network: str, compiler: str) -> dict[str, Any]:
    """Measures the optimizers on a network, in a process of its own."""
    command = [sys.executable, "-m", benchmark, f"--measure={network},{compiler}"]
    command += [f"--rounds={_ROUNDS.value}", f"--threads={_THREADS.value}"]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    row: dict[str, Any] = {"network": network, "compiler": compiler}
    if process.returncode:
        return row | {"error": f"exit code {process.returncode}"}
    return row | json.loads(process.stdout.splitlines()[-1])
