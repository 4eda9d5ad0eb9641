import dataclasses

import numpy as np
import pytest

from l2l_tf.analysis import state_space
from l2l_tf.rules import SGD, Adam
from tests.analysis.made_up import made_record


def _record_of(states):
    record = made_record(SGD(0.05))
    return dataclasses.replace(record, states={"rule": [states, np.arange(40.0)]})


def test_components_and_dimensions_of_known_states_are_found():
    draw = np.random.default_rng(0)
    # Two directions of equal variance in a space of four.
    basis = np.linalg.qr(draw.standard_normal((4, 4)))[0][:2]
    found = state_space(_record_of(5 + draw.standard_normal((40, 6, 2)) @ basis))
    assert found.participation_ratio == pytest.approx(2, abs=0.1)
    # Divided by the root mean variance of four numbers, two variances are 4 in all.
    np.testing.assert_allclose(found.variances[:2], 2, rtol=0.3)
    np.testing.assert_allclose(found.scales, np.sqrt(0.5), rtol=0.3)
    np.testing.assert_allclose(found.variances[2:], 0, atol=1e-12)
    np.testing.assert_allclose(found.components[:2] @ basis.T @ basis, found.components[:2])
    np.testing.assert_allclose(found.mean, 5, atol=0.3)
    assert found.projections.shape == (40, 6, 3)
    assert found.by_step.shape == (40,)


def test_states_along_a_line_use_one_dimension():
    line = np.linspace(0, 1, 240).reshape(40, 6, 1) * [1.0, -2.0]
    assert state_space(_record_of(line)).participation_ratio == pytest.approx(1)


def test_what_is_no_state_of_a_coordinate_is_left_out():
    # Mean and mean square, not the count.
    assert len(state_space(made_record(Adam(0.01))).variances) == 2


def test_the_scale_of_the_loss_does_not_matter():
    rule = Adam(0.01)
    small, large = (state_space(made_record(rule, scale=scale)) for scale in (1e-3, 1e3))
    assert large.participation_ratio == pytest.approx(small.participation_ratio, rel=1e-3)
    np.testing.assert_allclose(large.variances, small.variances, rtol=1e-3)


def test_a_part_must_be_there():
    with pytest.raises(ValueError) as raised:
        state_space(made_record(SGD(0.05)), "conv")
    assert str(raised.value) == (
        "part must be one of ['rule']. Received: part='conv'. Name the part of the rule to look at."
    )
