"""Bars, tables and JSON of a benchmark's measurements."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measurement import Measurement
from benchmarks.workloads import WORKLOADS
from l2l_tf.files import write_text


class Results:
    """Measurements and floors, by name.

    Args:
        measurements: the measurements, in the order in which they are shown.
        floors: the floors, by the name of the workload.
    """

    def __init__(self, measurements: Sequence[Measurement], floors: dict[str, dict[str, float]]):
        self.measurements = measurements
        self.floors = floors

    def value(self, workload: str, contender: str, key: str) -> float:
        """Returns a number of a measurement.

        Raises:
            KeyError: there is no such measurement, or it has no numbers.
        """
        for one in self.measurements:
            if (one["workload"], one["contender"]) == (workload, contender):
                return one[key]
        raise KeyError(workload, contender)

    def ratio(self, workload: str, contender: str, key: str = "median") -> float:
        """Returns ours over a contender's."""
        return self.value(workload, "ours", key) / self.value(workload, contender, key)

    def ratio_to_floor(self, workload: str, key: str = "seconds") -> float:
        """Returns our time over the floor."""
        return self.value(workload, "ours", "median") / self.floors[workload][key]

    def spread_of_sizes(self) -> float:
        """Returns our inner step's largest time for a coordinate over its smallest."""
        times = [
            self.value(name, "ours", "median") / workload.num_coordinates
            for name, workload in WORKLOADS.items()
            if name.startswith("inner_")
        ]
        return max(times) / min(times)


@dataclasses.dataclass(frozen=True)
class Bar:
    """A ratio that the project limits.

    Attributes:
        name: the two quantities of the ratio.
        limit: the largest ratio that is allowed.
        ratio: returns the ratio from results; raises KeyError if something was not measured.
    """

    name: str
    limit: float
    ratio: Callable[[Results], float]


BARS = (
    Bar("mnist: ours / plain TensorFlow", 0.75, lambda r: r.ratio("mnist", "plain_tensorflow")),
    Bar("mnist: ours / JAX", 0.30, lambda r: r.ratio("mnist", "jax_scan")),
    Bar("mnist: ours / floor", 1.6, lambda r: r.ratio_to_floor("mnist")),
    Bar(
        "mnist: ours / floor, products called one by one",
        1.6,
        lambda r: r.ratio_to_floor("mnist", "seconds_by_call"),
    ),
    Bar("cifar: ours / plain TensorFlow", 0.70, lambda r: r.ratio("cifar", "plain_tensorflow")),
    Bar(
        "mlp_1m, memory: ours / plain TensorFlow",
        0.15,
        lambda r: r.ratio("mlp_1m", "plain_tensorflow", "bytes"),
    ),
    Bar(
        "mnist_two_tasks: two devices / one device",
        1.1,
        lambda r: (
            r.value("mnist_two_tasks", "two_devices", "median")
            / r.value("mnist_two_tasks", "one_device", "median")
        ),
    ),
    Bar("inner step, time of a coordinate: largest / least", 1.3, Results.spread_of_sizes),
)


def check_bars(results: Results) -> list[dict[str, Any]]:
    """Returns name, limit, ratio and whether it is met for each bar; null if not measured."""
    rows = []
    for bar in BARS:
        try:
            ratio = bar.ratio(results)
        except KeyError:
            rows.append({"bar": bar.name, "limit": bar.limit, "ratio": None, "is_met": None})
        else:
            is_met = ratio <= bar.limit
            rows.append({"bar": bar.name, "limit": bar.limit, "ratio": ratio, "is_met": is_met})
    return rows


def format_results(results: Results) -> str:
    """Returns the measurements, the floors and the bars as tables."""
    measured = [["workload", "contender", "median", "quartiles", "first", "memory", ""]]
    measured += [_measurement_cells(one) for one in results.measurements]
    floors = [["workload", "GFLOP", "GFLOP/s", "floor", "GFLOP/s by call", "floor by call"]]
    for workload, one in results.floors.items():
        rates = (f"{one['gflops_per_second']:.0f}", f"{one['gflops_per_second_by_call']:.0f}")
        times = (_time(one["seconds"]), _time(one["seconds_by_call"]))
        floors.append([workload, f"{one['flops'] / 1e9:.3g}", rates[0], times[0], *rates[1:]])
        floors[-1].append(times[1])
    bars = [["bar", "limit", "ratio", ""]]
    for row in check_bars(results):
        ratio = "-" if row["ratio"] is None else f"{row['ratio']:.2f}"
        word = {True: "met", False: "not met", None: "not measured"}[row["is_met"]]
        bars.append([row["bar"], f"{row['limit']:.2f}", ratio, word])
    return "\n\n".join(_table(lines) for lines in (measured, floors, bars))


def write_json(path: Path, contents: dict[str, Any]) -> None:
    """Writes JSON without replacing NaN by null: a measurement that is no number is an error."""
    write_text(path, json.dumps(contents, indent=2, allow_nan=False) + "\n")


def _measurement_cells(one: Measurement) -> list[str]:
    cells = [one["workload"], one["contender"], "-", "-", "-", "-", one.get("reason", "")]
    if "median" in one:
        cells[2] = _time(one["median"])
        cells[5] = f"{one['bytes'] / 1e6:,.0f} MB"
    if "quartiles" in one:
        cells[3] = " to ".join(_time(time) for time in one["quartiles"])
        cells[4] = _time(one["first_step"])
    return cells


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def _table(lines: list[list[str]]) -> str:
    """Returns lines of cells as a table with a rule under the first."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    lines = [lines[0], ["-" * width for width in widths], *lines[1:]]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
