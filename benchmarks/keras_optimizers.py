"""LearnedOptimizer beside Keras's Adam: time and memory of a step, and time to trace one.

    python -m benchmarks.keras_optimizers --output=benchmarks/keras_optimizers.json

A step is `optimizer.apply` on given gradients of an MLP, compiled by TensorFlow or by XLA. Each
runs in a process of its own, which reports its peak memory beyond what TensorFlow, the variables
and the gradients take. `rule` is the rule's own step on a vector of as many gradients, as
`benchmarks.engine` times it.

Over minutes, this machine's speed differs by more than the two do. The ratios that have limits
therefore come from further processes, each of which alternates between two things: the optimizer's
step and the rule's, the step with a guard and without, or tracing a training step of the paper's
network for CIFAR-10 with the optimizer and with Adam.
"""

import json
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks.machine import describe_machine, describe_software
from benchmarks.networks import MLP
from benchmarks.report import write_json
from benchmarks.timing import peak_bytes, time_steps
from experiments.harness.path_flags import define_path
from experiments.harness.places import check_output

_NETWORKS = {
    "mlp_10k": MLP((100, 90, 10)),
    "mlp_1m": MLP((784, 1000, 200, 10)),
    "mlp_10m": MLP((784, 5000, 1200, 10)),
}
_OPTIMIZERS = ("adam", "learned", "learned_bfloat16", "rule")
_COMPILERS = ("graph", "xla")
_CIFAR_NET = "cifar"
# Pairs that alternate in one process.
_JOINT_UPDATE = "learned_and_rule"
_GUARD = "guarded_and_learned"
_TRACING = "learned_and_adam"
# The limits that the project sets itself.
_BARS = {
    "joint update / rule": 1.15,
    "guarded / learned": 1.15,
    "tracing: learned / adam": 1.2,
}
# The steps of a round together take this long, unless one step takes longer.
_SECONDS_OF_ROUND = 0.1
_MIN_ROUNDS = 11

_OUTPUT = define_path("output", "benchmarks/keras_optimizers.json", "File for the results.")
_SIZES = flags.DEFINE_list("networks", list(_NETWORKS), "Networks to optimise.")
_SECONDS = flags.DEFINE_float("seconds", 5.0, "Seconds of timed steps of each optimizer.", 0)
_TURNS_SECONDS = flags.DEFINE_float(
    "turns_seconds", 30.0, "Seconds of steps of each pair that alternates.", 0
)
_NUM_TRACES = flags.DEFINE_integer("num_traces", 11, "Number of traces with each optimizer.", 1)
_MEASURE = flags.DEFINE_list("measure", None, "In a worker: network, optimizer, compiler.")


def main(_: Sequence[str]) -> None:
    """Runs the benchmark, or one measurement of it."""
    if _MEASURE.value is not None:
        network, optimizer, compiler = _MEASURE.value
        if optimizer == _TRACING:
            result = _trace_in_turns()
        elif optimizer == _JOINT_UPDATE:
            num_coordinates = sum(one.size for one in _parameters(network))
            result = _in_turns(_made_step(network, "learned"), _rule_step(num_coordinates)[0])
        elif optimizer == _GUARD:
            result = _in_turns(_made_step(network, "guarded"), _made_step(network, "learned"))
        else:
            result = _step(network, optimizer, compiler)
        print(json.dumps(result))
        return
    try:
        check_output("output", Path(_OUTPUT.value))
    except ValueError as error:
        sys.exit(f"error: {error}")
    rows = []
    for network in _SIZES.value:
        for compiler in _COMPILERS:
            for optimizer in _OPTIMIZERS:
                if (optimizer, compiler) != ("rule", "xla"):
                    rows.append(_measure(network, optimizer, compiler))
        rows.append(_measure(network, _JOINT_UPDATE, "graph"))
        rows.append(_measure(network, _GUARD, "graph"))
    rows.append(_measure(_CIFAR_NET, _TRACING, "graph"))
    bars = _bars(rows)
    contents: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.keras_optimizers", *sys.argv[1:]]),
        "machine": describe_machine(),
        **describe_software(),
        "measurements": rows,
        "bars": bars,
    }
    write_json(Path(_OUTPUT.value), contents)
    for bar in bars:
        ratio = "not measured" if bar["ratio"] is None else f"{bar['ratio']:.2f}"
        print(f"{bar['bar']}, {bar['network']}: {ratio} (bar {bar['limit']})")


def _measure(network: str, optimizer: str, compiler: str) -> dict[str, Any]:
    """Measures one optimizer in a process of its own, prints the result and returns it."""
    command = [sys.executable, "-m", "benchmarks.keras_optimizers"]
    command += [f"--measure={network},{optimizer},{compiler}"]
    command += [f"--seconds={_SECONDS.value}", f"--num_traces={_NUM_TRACES.value}"]
    command.append(f"--turns_seconds={_TURNS_SECONDS.value}")
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    row: dict[str, Any] = {"network": network, "optimizer": optimizer, "compiler": compiler}
    if process.returncode:
        row["error"] = f"exit code {process.returncode}"
    else:
        row |= json.loads(process.stdout.splitlines()[-1])
    print(
        " ".join(
            f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
            for key, value in row.items()
        ),
        flush=True,
    )
    return row


def _bars(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the ratios that have limits; null for one whose measurement failed."""
    names = {
        _JOINT_UPDATE: "joint update / rule",
        _GUARD: "guarded / learned",
        _TRACING: "tracing: learned / adam",
    }
    return [
        {
            "bar": names[row["optimizer"]],
            "network": row["network"],
            "ratio": row.get("ratio"),
            "limit": _BARS[names[row["optimizer"]]],
        }
        for row in rows
        if row["optimizer"] in names
    ]


def _step(network: str, optimizer: str, compiler: str) -> dict[str, Any]:
    """Returns time and memory of an optimizer's step on fixed gradients."""
    parameters = _parameters(network)
    num_coordinates = sum(parameter.size for parameter in parameters)
    state_bytes = 0
    if optimizer == "rule":
        run, baseline = _rule_step(num_coordinates)
    else:
        run, baseline, state_bytes = _optimizer_step(parameters, optimizer, compiler)
    (first,) = time_steps(run, seconds=0)
    times = time_steps(run, _SECONDS.value, min_steps=3)
    low, median, high = np.quantile(times, [0.25, 0.5, 0.75]).tolist()
    return {
        "num_coordinates": num_coordinates,
        "first_step": first,
        "median": median,
        "quartiles": [low, high],
        "num_steps": len(times),
        "bytes": peak_bytes() - baseline,
        "state_bytes_per_coordinate": state_bytes / num_coordinates,
    }


def _made_step(network: str, optimizer: str) -> Callable[[], Any]:
    return _optimizer_step(_parameters(network), optimizer, "graph")[0]


def _in_turns(ours: Callable[[], Any], others: Callable[[], Any]) -> dict[str, Any]:
    """Returns the time of one step as a multiple of another's."""
    # The first step of each traces.
    slower = max(time_steps(step, 0, 2)[1] for step in (ours, others))
    num_steps = max(1, int(_SECONDS_OF_ROUND / slower))

    def seconds_of(step: Callable[[], Any]) -> float:
        return statistics.mean(time_steps(step, 0, num_steps))

    num_rounds = max(_MIN_ROUNDS, int(_TURNS_SECONDS.value / (2 * num_steps * slower)))
    ratios = _ratios(lambda: seconds_of(ours), lambda: seconds_of(others), num_rounds)
    return {**ratios, "steps_per_round": num_steps}


def _ratios(
    ours: Callable[[], float], others: Callable[[], float], num_rounds: int
) -> dict[str, Any]:
    """Returns the ratios of the results of two functions, which take turns at coming first."""
    ratios = []
    for index in range(num_rounds):
        if index % 2:
            other, our = others(), ours()
        else:
            our, other = ours(), others()
        ratios.append(our / other)
    low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75]).tolist()
    return {"ratio": median, "ratio_quartiles": [low, high], "rounds": num_rounds}


def _parameters(network: str) -> list[np.ndarray]:
    return _NETWORKS[network].initial_parameters(np.random.default_rng(0))


def _rule_step(num_coordinates: int) -> tuple[Callable[[], Any], int]:
    """Returns the rule's own step, and the peak memory before it was made."""
    from benchmarks.contenders.ours import inner_step
    from benchmarks.workloads import InnerStep

    workload = InnerStep(num_coordinates)
    workload.load()
    baseline = peak_bytes()
    return inner_step(workload), baseline


def _optimizer_step(
    parameters: Sequence[np.ndarray], optimizer: str, compiler: str
) -> tuple[Callable[[], Any], int, int]:
    """Returns a step, the peak memory before the optimizer was made, and its state's bytes."""
    from benchmarks.optimizer_steps import apply_step, gradients_for, state_bytes

    gradients = gradients_for(parameters)
    baseline = peak_bytes()
    made = _make(optimizer)
    run = apply_step(made, parameters, gradients, compiler)
    return run, baseline, state_bytes(made)


def _trace_in_turns() -> dict[str, Any]:
    """Returns the time to trace a training step of the CIFAR net as a multiple of Adam's."""
    import keras
    import tensorflow as tf

    from l2l_tf.problems.networks import conv_net

    model = conv_net()
    variables = model.trainable_variables
    images, labels = tf.zeros([8, 32, 32, 3]), tf.zeros([8], tf.int32)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def seconds_to_trace(optimizer: str) -> float:
        made = _make(optimizer)
        made.build(variables)

        def step() -> None:
            with tf.GradientTape() as tape:
                value = loss(labels, model(images, training=True))
            made.apply(tape.gradient(value, variables), variables)

        began = time.perf_counter()
        tf.function(step, autograph=False).get_concrete_function()
        return time.perf_counter() - began

    seconds: dict[str, list[float]] = {"learned": [], "adam": []}

    def trace(optimizer: str) -> float:
        seconds[optimizer].append(seconds_to_trace(optimizer))
        return seconds[optimizer][-1]

    # The first trace of each warms up whatever Keras and TensorFlow load late.
    for optimizer in seconds:
        seconds_to_trace(optimizer)
    ratios = _ratios(lambda: trace("learned"), lambda: trace("adam"), _NUM_TRACES.value)
    return {**ratios, **{f"{one}_seconds": statistics.median(seconds[one]) for one in seconds}}


def _make(optimizer: str) -> Any:
    import keras

    if optimizer == "adam":
        return keras.optimizers.Adam(1e-3)
    from benchmarks.contenders.ours import make_rule
    from l2l_tf.delivery import LearnedOptimizer

    if optimizer == "guarded":
        from l2l_tf.rules import Adam, Guarded

        return LearnedOptimizer(Guarded(make_rule(), Adam(1e-3)))
    state_dtype = "bfloat16" if optimizer == "learned_bfloat16" else "float32"
    return LearnedOptimizer(make_rule(), state_dtype=state_dtype)


if __name__ == "__main__":
    app.run(main)
