"""Speed and memory of meta-steps and inner steps, side by side with other implementations.

    python -m benchmarks.engine --output=benchmarks/results.json

Prints tables and writes results.json, in about 15 minutes on two cores. This process stays small
and imports no framework, because its memory would count in that of the processes it starts.
"""

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from benchmarks.contenders import CONTENDERS
from benchmarks.machine import describe_machine, describe_software, memory_bytes
from benchmarks.measurement import measure
from benchmarks.plan import PLANS
from benchmarks.report import Results, check_bars, format_results, write_json
from experiments.harness.path_flags import define_path
from experiments.harness.places import check_output

_OUTPUT = define_path("output", "benchmarks/results.json", "File for the results.")
_WORKLOADS = flags.DEFINE_list("workloads", list(PLANS), "Workloads to run.")
_CONTENDERS = flags.DEFINE_list("contenders", list(CONTENDERS), "Contenders to run, if installed.")
_ROUNDS = flags.DEFINE_integer(
    "rounds", None, "Number of turns of each contender. By default, as planned for the workload.", 1
)
_FLOORS = flags.DEFINE_bool("floors", True, "Whether to time matrix products by themselves.")
_QUICK = flags.DEFINE_bool(
    "quick", False, "Whether to do only the least that shows that everything works."
)
_MEMORY_SHARE = flags.DEFINE_float(
    "memory_share", 0.8, "Share of the machine's memory that a contender may take.", 0, 1
)

for _flag, _names in ((_WORKLOADS, PLANS), (_CONTENDERS, CONTENDERS)):
    flags.register_validator(
        _flag,
        lambda chosen, names=_names: set(chosen) <= set(names),
        f"must be among {', '.join(_names)}",
    )


def main(arguments: Sequence[str]) -> None:
    """Runs the benchmark."""
    if len(arguments) > 1:
        sys.exit(f"error: Arguments must be flags. Received: {arguments[1:]}. Write --name=value.")
    output = Path(_OUTPUT.value)
    # Check this before everything has run.
    try:
        check_output("output", output)
    except ValueError as error:
        sys.exit(f"error: {error}")
    floors = _measure_floors(_WORKLOADS.value) if _FLOORS.value else {}
    memory_limit = int(_MEMORY_SHARE.value * memory_bytes())
    measurements = []
    for name in _WORKLOADS.value:
        plan = PLANS[name].only(_CONTENDERS.value)
        if _QUICK.value:
            plan = plan.quick()
        if _ROUNDS.value is not None:
            plan = plan.with_rounds(_ROUNDS.value)
        measurements += measure(name, plan, memory_limit, lambda line: print(line, flush=True))
    results = Results(measurements, floors)
    write_json(
        output,
        {
            "command": shlex.join(["python", "-m", "benchmarks.engine", *sys.argv[1:]]),
            "machine": describe_machine(),
            **describe_software(),
            "memory_limit_bytes": memory_limit,
            "measurements": results.measurements,
            "floors": results.floors,
            "bars": check_bars(results),
        },
    )
    print(f"\n{format_results(results)}")


def _measure_floors(workloads: Sequence[str]) -> dict[str, dict[str, float]]:
    command = [sys.executable, "-m", "benchmarks.floors", f"--workloads={','.join(workloads)}"]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


if __name__ == "__main__":
    app.run(main)
