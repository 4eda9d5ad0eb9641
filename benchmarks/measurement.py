"""Measures contenders on a workload, each in a process of its own."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.contenders import CONTENDERS
from benchmarks.plan import Plan
from benchmarks.processes import Worker, WorkerError
from benchmarks.workloads import WORKLOADS, MetaStep

# The result for one contender on one workload, as JSON values by name.
Measurement = dict[str, Any]


def measure(
    workload: str, plan: Plan, memory_limit: int, report: Callable[[str], None]
) -> list[Measurement]:
    """Returns one measurement for each contender of a plan.

    A measurement has the names of `workload` and `contender`, and a `status`:
        measured: `first_step`, the seconds of the one that traces and compiles; `median`,
            `quartiles` and `num_steps` over all timed steps of all rounds, in seconds (of the first
            step where there are no rounds); `peak_bytes` of the process; `baseline_bytes` before
            the contender began (frameworks imported, data made); and `bytes`, the difference.
        extrapolated: `median` and `bytes`, as predicted by the `trials` on shorter unrolls.
        failed, not installed: only the `reason`.

    Args:
        workload: its name.
        plan: the contenders to run, and for how long.
        memory_limit: bytes at which a contender is stopped.
        report: called with a line on each contender.
    """
    entrants = [_Entrant(name, workload, plan, memory_limit) for name in plan.contenders]
    groups = [entrants] if plan.num_rounds > 1 else [[entrant] for entrant in entrants]
    for group in groups:
        try:
            for entrant in group:
                entrant.begin()
            for _ in range(plan.num_rounds):
                for entrant in group:
                    entrant.take_turn()
        finally:
            for entrant in group:
                entrant.end()
        for entrant in group:
            report(_line(entrant.measurement))
    return [entrant.measurement for entrant in entrants]


def extrapolate(trials: Sequence[Measurement], num_steps: int) -> Measurement:
    """Returns the prediction for T steps from measurements on two unrolls, linear in T.

    Args:
        trials: measurements, each with its `unroll_length`.
        num_steps: T.
    """
    (few, some), values = trials, {}
    for key in ("median", "bytes"):
        slope = (some[key] - few[key]) / (some["unroll_length"] - few["unroll_length"])
        values[key] = few[key] + slope * (num_steps - few["unroll_length"])
    return values


class _Entrant:
    """A contender on its way through a workload, with its measurement."""

    def __init__(self, contender: str, workload: str, plan: Plan, memory_limit: int):
        self.measurement: Measurement = {"workload": workload, "contender": contender}
        self._contender = CONTENDERS[contender]
        self._plan = plan
        self._arguments = (contender, workload, plan.time_limit, memory_limit)
        self._memory_limit = memory_limit
        self._worker: Worker | None = None
        self._times: list[float] = []

    def begin(self) -> None:
        """Starts the process, unless trials on shorter unrolls predict that it would not fit."""
        if not self._contender.is_installed:
            reason = f"needs {self._contender.framework}: pip install '.[benchmark]'"
            self.measurement |= {"status": "not installed", "reason": reason}
            return
        try:
            if self._contender.is_bounded or not self._try_shorter_unrolls():
                self._worker = Worker(*self._arguments)
                first = self._worker.first
                self._note(first | {"status": "measured"} | _spread([first["first_step"]]))
        except WorkerError as error:
            self._fail(error)

    def take_turn(self) -> None:
        """Times steps if the process is alive and has not used the time of all its turns."""
        if self._worker is None or sum(self._times) > self._plan.num_rounds * self._plan.seconds:
            return
        try:
            answer = self._worker.measure(
                seconds=self._plan.seconds,
                min_steps=self._plan.min_steps,
                warm_up=self._plan.num_rounds > 1,
            )
            self._times += answer.pop("times")
            self._note(answer | _spread(self._times))
        except WorkerError as error:
            self._fail(error)

    def end(self) -> None:
        """Ends the process if it is alive."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _try_shorter_unrolls(self) -> bool:
        """Returns whether trials have shown that the whole unroll doesn't fit into memory."""
        trials = []
        for num_steps in self._plan.trial_steps:
            with Worker(*self._arguments, num_steps) as worker:
                answer = worker.first | worker.measure(seconds=self._plan.seconds / 4)
            spread = _spread(answer.pop("times"))
            trials.append({"unroll_length": num_steps} | _with_bytes(answer) | spread)
        workload = WORKLOADS[self.measurement["workload"]]
        if not trials or not isinstance(workload, MetaStep):
            return False
        predicted = extrapolate(trials, workload.num_steps)
        if predicted["bytes"] + trials[0]["baseline_bytes"] <= self._memory_limit:
            return False
        lengths = " and ".join(str(length) for length in self._plan.trial_steps)
        limit = _gigabytes(self._memory_limit)
        reason = f"extrapolated from unrolls of {lengths}: needs more than {limit}"
        self.measurement |= {"status": "extrapolated", "reason": reason, "trials": trials}
        self.measurement |= predicted
        return True

    def _note(self, answer: dict[str, Any]) -> None:
        self.measurement = _with_bytes(self.measurement | answer)

    def _fail(self, error: WorkerError) -> None:
        names = {key: self.measurement[key] for key in ("workload", "contender")}
        self.measurement = names | {"status": "failed", "reason": str(error)}
        self.end()


def _with_bytes(answer: dict[str, Any]) -> dict[str, Any]:
    return answer | {"bytes": answer["peak_bytes"] - answer["baseline_bytes"]}


def _spread(times: Sequence[float]) -> dict[str, Any]:
    low, median, high = np.quantile(times, [0.25, 0.5, 0.75]).tolist()
    return {"median": median, "quartiles": [low, high], "num_steps": len(times)}


def _line(measurement: Measurement) -> str:
    line = f"{measurement['workload']} {measurement['contender']}: {measurement['status']}"
    if "median" in measurement:
        line += f", {measurement['median']:.4g} s, {_gigabytes(measurement['bytes'])}"
    return line + (f" ({measurement['reason']})" if "reason" in measurement else "")


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB"
