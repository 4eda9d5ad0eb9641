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

from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags

from benchmarks import in_turns
from benchmarks.general_steps import APPLIED, OPTIMIZERS, TRAINED, bars_of, make, steps_on
from benchmarks.optimizer_steps import state_bytes
from benchmarks.timing import forget_peak, peak_bytes, time_steps
from experiments.harness.path_flags import define_path

_STEPS_OF_PEAK = 3

_OUTPUT = define_path("output", "benchmarks/general_rule.json", "File for the results.")
_NETWORKS = flags.DEFINE_list("networks", [*APPLIED, *TRAINED], "Networks to optimise.")


def main(_: Sequence[str]) -> None:
    """Runs the benchmark, or one measurement of it."""
    in_turns.run(
        "benchmarks.general_rule", _OUTPUT.value, _NETWORKS.value, _measured, _shown, bars_of
    )


def _shown(row: dict[str, Any]) -> str:
    where = f"{row['network']}, {row['compiler']}"
    if "error" in row:
        return f"{where}: {row['error']}"
    times = (f"{name} {1e3 * one['median']:.3g} ms" for name, one in row["optimizers"].items())
    ratios = (f"/ {name} {one['ratio']:.2f}" for name, one in row["ratios"].items())
    return f"{where}: {', '.join([*times, *ratios])}"


def _measured(network: str, compiler: str) -> dict[str, Any]:
    """Returns times and memory of each optimizer, and the rule's ratios to the others."""
    optimizers = {name: make(name) for name in OPTIMIZERS}
    steps, num_parameters = steps_on(network, optimizers, compiler)
    seconds = in_turns.rounds_of(steps)
    ours = seconds["general"]
    return {
        "num_parameters": num_parameters,
        "rounds": len(ours),
        "optimizers": {
            name: {
                **in_turns.quartiles("median", seconds[name]),
                "state_floats_per_parameter": state_bytes(optimizers[name]) / 4 / num_parameters,
                "bytes_of_step": _bytes_of_step(steps[name]),
            }
            for name in OPTIMIZERS
        },
        "ratios": {
            name: in_turns.quartiles("ratio", ours / seconds[name]) for name in OPTIMIZERS[:-1]
        },
    }


def _bytes_of_step(step: Callable[[], Any]) -> int:
    """Returns the peak memory of some steps beyond what is resident before them."""
    before = forget_peak()
    time_steps(step, 0, _STEPS_OF_PEAK)
    return peak_bytes() - before


if __name__ == "__main__":
    app.run(main)
