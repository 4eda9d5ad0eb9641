import re

import pytest

from tests.forks import run_module


@pytest.mark.slow
def test_a_meta_step_is_compared_with_a_pass_and_the_rule():
    small = ("--image_size=32", "--unroll_length=2", "--units=3", "--repeats=2")
    output = run_module("benchmarks.style_memory", "--network=squeezenet", *small)
    *parts, maps, last = output.splitlines()
    found = [re.fullmatch(r"(\w+): (\d+) MB, ([\d.e-]+) s", line).groups() for line in parts]
    assert [name for name, _, _ in found] == ["pass", "rule", "meta_step"]
    assert re.fullmatch(r"maps of all steps, if they were kept: \d MB", maps)
    megabytes = [float(size) for _, size, _ in found]
    assert all(float(seconds) > 0 for _, _, seconds in found)
    ratio, verdict = re.fullmatch(
        r"meta_step / \(pass \+ rule\): ([\d.]+); bar: at most 1.3, (.*)", last
    ).groups()
    # Up to the rounding of what is printed: half a megabyte each, and half a hundredth.
    network_and_rule = megabytes[0] + megabytes[1]
    assert float(ratio) <= (megabytes[2] + 0.5) / (network_and_rule - 1) + 0.005
    assert float(ratio) >= (megabytes[2] - 0.5) / (network_and_rule + 1) - 0.005
    assert verdict == ("met" if float(ratio) <= 1.3 else "not met")
