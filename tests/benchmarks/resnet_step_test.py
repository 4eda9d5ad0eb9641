import re

import pytest

from tests.forks import run_module

LINE = re.compile(r"(\w+): (\d+) ms \(([\d.]+) of Adam's\), (\d+) MB \(([\d.]+)\)")


@pytest.mark.slow
def test_learned_rules_are_timed_beside_adam_in_processes_of_their_own():
    output = run_module("benchmarks.resnet_step", "--batch_size=2", "--num_steps=2")
    found = [LINE.fullmatch(line).groups() for line in output.splitlines()]
    names, *numbers = zip(*found, strict=True)
    assert names == ("adam", "two_lstms", "rnnprop")
    milliseconds, times, megabytes, sizes = ([float(one) for one in column] for column in numbers)
    assert (times[0], sizes[0]) == (1, 1)
    for index in (1, 2):
        # Up to the rounding of what is printed: half a millisecond of each, half a hundredth.
        expected = milliseconds[index] / milliseconds[0]
        rounding = 0.005 + (1 + expected) * 0.6 / milliseconds[0]
        assert times[index] == pytest.approx(expected, abs=rounding)
        # Their state alone is 80 numbers for each parameter, Adam's two.
        assert megabytes[index] - megabytes[0] > 50
