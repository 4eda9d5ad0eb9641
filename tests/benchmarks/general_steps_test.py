import numpy as np
import pytest

from benchmarks import general_steps


@pytest.mark.parametrize("name", general_steps.APPLIED)
def test_networks_have_the_sizes_that_their_names_say(name):
    parameters = general_steps.APPLIED[name].initial_parameters(np.random.default_rng(0))
    wanted = {"10k": 1e4, "100k": 1e5, "1m": 1e6, "10m": 1e7}[name.split("_")[1]]
    assert sum(one.size for one in parameters) == pytest.approx(wanted, rel=0.1)


def test_a_measurement_that_failed_meets_no_bar():
    failed = {"network": "mlp_1m", "compiler": "xla", "error": "exit code 137"}
    bars = general_steps.bars_of([failed])
    assert [(bar["other"], bar["ratio"]) for bar in bars] == [("adam", None), ("muon", None)]
