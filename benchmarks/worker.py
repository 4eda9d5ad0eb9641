"""One contender on one workload in a process of its own, timed on demand.

    echo '{"seconds": 5}' | python -m benchmarks.worker --contender=ours --workload=mnist

Prints a line of JSON after the first step, and one for each line of standard input. `processes.py`
is the other end. Output of frameworks goes to standard error.
"""

import dataclasses
import importlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, TextIO

from absl import app, flags

from benchmarks.contenders import CONTENDERS
from benchmarks.timing import peak_bytes, time_steps
from benchmarks.workloads import WORKLOADS, MetaStep

_CONTENDER = flags.DEFINE_enum(
    "contender", None, list(CONTENDERS), "Contender to run.", required=True
)
_WORKLOAD = flags.DEFINE_enum("workload", None, list(WORKLOADS), "Workload to run.", required=True)
_NUM_STEPS = flags.DEFINE_integer("num_steps", None, "Steps of the unroll, if not the workload's.")
_MEMORY_LIMIT = flags.DEFINE_integer("memory_limit", None, "Bytes at which the process gives up.")

_SECONDS_BETWEEN_LOOKS = 0.02
_MAX_ERROR_LENGTH = 200


def serve(requests: TextIO, answer: Callable[..., None]) -> None:
    """Makes the contender ready, does the first step, and times further steps on request."""
    workload = WORKLOADS[_WORKLOAD.value]
    if _NUM_STEPS.value is not None and isinstance(workload, MetaStep):
        workload = dataclasses.replace(workload, num_steps=_NUM_STEPS.value)
    contender = CONTENDERS[_CONTENDER.value]
    if contender.threads_per_operation:
        # This must precede everything that runs; afterwards it can't be changed.
        framework = importlib.import_module(contender.framework)
        framework.config.threading.set_intra_op_parallelism_threads(contender.threads_per_operation)
    module = importlib.import_module(contender.module)
    workload.load()
    baseline = peak_bytes()
    make = module.meta_step if isinstance(workload, MetaStep) else module.inner_step
    step = make(workload)
    (first_step,) = time_steps(step, seconds=0)
    answer(baseline_bytes=baseline, first_step=first_step, peak_bytes=peak_bytes())
    for line in requests:
        times = time_steps(step, **json.loads(line))
        answer(times=times, peak_bytes=peak_bytes())


def _give_up_beyond(limit: int, answer: Callable[..., None]) -> None:
    """Ends the process when its memory passes a limit, before the machine runs out."""
    while peak_bytes() <= limit:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    answer(error=f"more than {limit / 1e9:.1f} GB of memory")
    os._exit(1)


def main(_: list[str]) -> None:
    """Serves until standard input ends."""
    # Frameworks and their compilers may print anything, so answers have a channel of their own.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    if _MEMORY_LIMIT.value is not None:
        watch = (_MEMORY_LIMIT.value, answer)
        threading.Thread(target=_give_up_beyond, args=watch, daemon=True).start()
    try:
        serve(sys.stdin, answer)
    except Exception as error:
        # Whatever a framework raises is this contender's result; its traceback goes to stderr.
        traceback.print_exc()
        summary = " ".join(f"{type(error).__name__}: {error}".split())
        answer(error=summary[:_MAX_ERROR_LENGTH])
        sys.exit(1)


if __name__ == "__main__":
    app.run(main)
