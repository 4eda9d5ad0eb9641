"""All contenders compute the same numbers; frameworks that aren't installed are skipped."""

import dataclasses
import functools
import importlib

import numpy as np
import pytest

from benchmarks.contenders import CONTENDERS
from benchmarks.networks import MLP, ConvNet
from benchmarks.plan import PLANS
from benchmarks.workloads import InnerStep, MetaStep

# Each compiles something, and is compared with TensorFlow, whose tracing alone takes a second.
pytestmark = [
    pytest.mark.slow,
    # torch.compile warns of torch's own parts.
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning:torch"),
]

META_STEPS = {
    "mlp": MetaStep(MLP((6, 4, 3)), batch_size=5, num_steps=3),
    "conv_net": MetaStep(ConvNet(8, num_channels=2, num_units=4), batch_size=5, num_steps=3),
}
INNER_STEP = InnerStep(7)
REFERENCES = ("plain_tensorflow", "plain_one_thread")  # the same module
OTHERS = [name for name in PLANS["mnist"].contenders if name not in REFERENCES]


def _module(name):
    pytest.importorskip(CONTENDERS[name].framework)
    return importlib.import_module(CONTENDERS[name].module)


@functools.cache
def _reference_meta_steps(network):
    """Returns two meta-steps of the reference, one after the other."""
    run = _module("plain_tensorflow").meta_step(META_STEPS[network])
    return run(), run()


@functools.cache
def _reference_inner_steps():
    run = _module("plain_tensorflow").inner_step(INNER_STEP)
    return np.array(run()), np.array(run())


@pytest.mark.parametrize("network", META_STEPS)
@pytest.mark.parametrize("name", OTHERS)
def test_meta_steps_agree(name, network):
    run = _module(name).meta_step(META_STEPS[network])
    expected, second = _reference_meta_steps(network)
    result = run()
    np.testing.assert_allclose(result.losses, expected.losses, rtol=1e-5)
    assert result.meta_gradient.keys() == expected.meta_gradient.keys()
    for weight, gradient in expected.meta_gradient.items():
        tolerance = 1e-4 * np.abs(gradient).max()
        np.testing.assert_allclose(
            result.meta_gradient[weight], gradient, atol=tolerance, err_msg=weight
        )
    # Adam has then moved the rule alike, but for where each framework adds its epsilon.
    after = second.losses
    assert not np.allclose(after, expected.losses, rtol=1e-4)
    np.testing.assert_allclose(run().losses, after, rtol=1e-4)


@pytest.mark.parametrize("name", OTHERS)
def test_inner_steps_agree(name):
    run = _module(name).inner_step(INNER_STEP)
    first, second = _reference_inner_steps()
    np.testing.assert_allclose(run(), first, rtol=1e-4)
    assert not np.allclose(second, first, rtol=1e-3), "the state has no effect"
    np.testing.assert_allclose(run(), second, rtol=1e-4)


def test_a_trainer_of_twice_the_same_task_has_the_losses_of_one():
    workload = META_STEPS["mlp"]
    losses = _module("plain_tensorflow").meta_step(workload)().losses
    run = _module("one_device").meta_step(dataclasses.replace(workload, num_tasks=2))
    assert run() == pytest.approx(losses.sum(), rel=1e-5)
    # It goes on from there, through several trajectories.
    assert np.isfinite([run() for _ in range(12)]).all()
