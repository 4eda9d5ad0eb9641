"""DistilledRule beside Keras's Adam and the LSTM it was distilled from: time and memory of a step.

    python -m benchmarks.distilled_rule --output=benchmarks/distilled_rule.json

A step is `optimizer.apply` on given gradients of MLPs with 10^4 to 10^7 parameters, compiled by
TensorFlow or by XLA. Each network and compiler has a process of its own, in which the optimizers
take turns. Times are medians of rounds, and ratios are medians of each round's ratio to Adam. The
LSTM is left out of the largest network, where its state alone takes gigabytes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks import in_turns
from benchmarks.networks import MLP
from experiments.harness.path_flags import define_path

_NETWORKS = {
    "mlp_10k": MLP((100, 90, 10)),
    "mlp_1m": MLP((784, 1000, 200, 10)),
    "mlp_10m": MLP((784, 5000, 1200, 10)),
}
_WITHOUT_LSTM = ("mlp_10m",)
# The limits that the project sets itself: network, compiler, the ratio to Adam.
_BARS = (("mlp_1m", "graph", 3.0), ("mlp_1m", "xla", 2.0))

_OUTPUT = define_path("output", "benchmarks/distilled_rule.json", "File for the results.")
_CHOSEN = flags.DEFINE_list("networks", list(_NETWORKS), "Networks to optimise.")


def main(_: Sequence[str]) -> None:
    """Runs the benchmark, or one measurement of it."""
    in_turns.run(
        "benchmarks.distilled_rule", _OUTPUT.value, _CHOSEN.value, _measured, _shown, _bars
    )


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
            "name": "distilled",
            "network": network,
            "compiler": compiler,
            "other": "adam",
            "ratio": measured.get((network, compiler)),
            "limit": limit,
        }
        for network, compiler, limit in _BARS
    ]


def _measured(network: str, compiler: str) -> dict[str, Any]:
    """Returns the times of each optimizer, their ratios to Adam's, and the sizes of states."""
    import keras

    from benchmarks.optimizer_steps import apply_step, gradients_for, state_bytes
    from l2l_tf import LearnedOptimizer
    from l2l_tf.rules import DistilledRule, RNNprop

    parameters = _NETWORKS[network].initial_parameters(np.random.default_rng(0))
    gradients = gradients_for(parameters)
    optimizers: dict[str, Any] = {
        "adam": keras.optimizers.Adam(1e-3),
        "distilled": LearnedOptimizer(DistilledRule()),
    }
    if network not in _WITHOUT_LSTM:
        optimizers["rnnprop"] = LearnedOptimizer(RNNprop(output_stddev=0.01, seed=0))
    seconds = in_turns.rounds_of(
        {name: apply_step(one, parameters, gradients, compiler) for name, one in optimizers.items()}
    )
    num_parameters = sum(parameter.size for parameter in parameters)
    return {
        "num_parameters": num_parameters,
        "rounds": len(seconds["adam"]),
        "optimizers": {
            name: {
                **in_turns.quartiles("median", own),
                "ratio_to_adam": float(np.median(own / seconds["adam"])),
                "state_floats_per_parameter": state_bytes(optimizers[name]) / 4 / num_parameters,
            }
            for name, own in seconds.items()
        },
    }


if __name__ == "__main__":
    app.run(main)
