"""Time and memory of a function in this process."""

import ctypes
import resource
import sys
import time
from collections.abc import Callable
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


def peak_bytes() -> int:
    """Returns the peak resident memory of this process."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def forget_peak() -> int:
    """Frees memory, makes the present use the peak and returns it, in bytes; on Linux."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()
