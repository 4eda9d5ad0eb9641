"""Time and memory of a function in this process."""

import ctypes
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def time_steps(
    step: Callable[[], Any], seconds: float, min_steps: int = 1, warm_up: bool = False
) -> list[float]:
    """Returns the seconds that each of several steps took.

    Args:
        step: does one step and waits for its end.
        seconds: no further step begins after this time.
        min_steps: the least number of steps, however long they take, at least 1.
        warm_up: whether to leave out the first step if there are others, because other processes
            ran before it.
    """
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < min_steps or time.perf_counter() < end:
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return times[1:] if warm_up and len(times) > 1 else times


def time_in_turns(
    steps: Mapping[str, Callable[[], Any]], num_rounds: int, seconds_of_turn: float
) -> dict[str, list[float]]:
    """Returns the mean seconds of a step of each contender, in each of several rounds.

    In a round each has one turn, so that whatever else the machine does affects all of them. The
    one that comes first changes from round to round. Before the first round each does two steps, of
    which the first traces.

    Args:
        steps: functions that do a step and wait for its end, by name.
        num_rounds: the number of rounds.
        seconds_of_turn: how long a turn takes, unless one step takes longer.
    """
    turns = {
        name: max(1, int(seconds_of_turn / time_steps(step, 0, 2)[1]))
        for name, step in steps.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for index in range(num_rounds):
        first = index % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(statistics.mean(time_steps(steps[name], 0, turns[name])))
    return seconds


def peak_bytes() -> int:
    """Returns the peak resident memory of this process."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def forget_peak() -> int:
    """Frees memory, makes the present use the peak and returns it, in bytes; on Linux."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()
