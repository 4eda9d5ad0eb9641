import numpy as np
import pytest

from benchmarks.contenders import CONTENDERS
from benchmarks.networks import ConvNet
from benchmarks.plan import PLANS
from benchmarks.workloads import WORKLOADS, MetaStep, rule_weights


@pytest.mark.parametrize(
    ("name", "num_coordinates"),
    [("mnist", 15_910), ("cifar", 22_682), ("mlp_1m", 987_210), ("inner_1e7", 10**7)],
)
def test_workloads_have_the_sizes_that_they_are_named_for(name, num_coordinates):
    assert WORKLOADS[name].num_coordinates == num_coordinates


def test_data_are_the_same_each_time():
    one, other = (MetaStep(ConvNet(8, 2, 4), batch_size=2, num_steps=1) for _ in range(2))
    for first, second in zip(one.parameters, other.parameters, strict=True):
        np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(one.inputs, other.inputs)
    np.testing.assert_array_equal(one.labels, other.labels)
    for name, weight in rule_weights().items():
        np.testing.assert_array_equal(weight, rule_weights()[name])


def test_all_that_contenders_get_is_in_single_precision():
    workload = MetaStep(ConvNet(8, 2, 4), batch_size=2, num_steps=1)
    arrays = [*workload.parameters, workload.inputs, *rule_weights().values()]
    assert {array.dtype for array in arrays} == {np.dtype("float32")}


def test_every_workload_has_a_plan_with_known_contenders():
    assert PLANS.keys() == WORKLOADS.keys()
    assert {name for plan in PLANS.values() for name in plan.contenders} == CONTENDERS.keys()
