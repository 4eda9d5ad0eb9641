import dataclasses

import keras
import numpy as np
import pytest

from l2l_tf import LearnedOptimizer
from l2l_tf.analysis import (
    Record,
    RecordFit,
    adaptation,
    attribution,
    effective_rate,
    impulse_response,
    likeness,
    record_trajectory,
    state_space,
)
from l2l_tf.analysis.trajectory import chosen_coordinates
from l2l_tf.evaluation import bind, start, unroll
from l2l_tf.problems import task_seeds
from l2l_tf.rules import SGD, GeneralRule, NesterovRNNprop, RNNprop
from tests.analysis.made_up import made_record
from tests.training.toys import NoisyBowls

SEED = task_seeds(0, "test", 0, 1)[0]
NUM_STEPS = 12


def _rule(seed: int = 0) -> RNNprop:
    return RNNprop((3,), input_units=3, output_stddev=0.5, seed=seed)


# Trajectories of problems


def test_a_record_holds_what_the_unroll_did():
    rule, problem = _rule(), NoisyBowls()
    record = record_trajectory(rule, problem, SEED, NUM_STEPS, num_coordinates=6)
    bound = bind(rule, problem)
    first = start(bound, problem, SEED)
    steps, _ = unroll(bound, problem, SEED, first, NUM_STEPS, ("gradients", "deltas"))
    # Of the first tensor, [2, 2], three of four coordinates; both of the second.
    assert record.tensors == ("parameter_0", "parameter_1")
    assert list(record.owners) == [0, 0, 0, 1, 1]
    gradients = np.concatenate([first.gradient[np.newaxis], steps.gradients[:-1]])
    columns = [
        int(np.flatnonzero((gradients == own[:, np.newaxis]).all(axis=0))[0])
        for own in record.gradients.T
    ]
    assert len(set(columns)) == 5
    np.testing.assert_allclose(record.deltas, steps.deltas.numpy()[:, columns], rtol=1e-5)
    losses = np.concatenate([first.losses[np.newaxis], steps.losses[:-1]]).mean(axis=1)
    np.testing.assert_allclose(record.losses, losses, rtol=1e-5)
    # The states are those from which the recorded deltas follow.
    count, mean, *_ = record.states["rule"]
    np.testing.assert_array_equal(count, np.arange(NUM_STEPS))
    np.testing.assert_allclose(mean[1], 0.05 * record.gradients[0], rtol=1e-5)


def test_a_rule_of_whole_tensors_has_a_record_without_states():
    rule = GeneralRule(seed=0)
    record = record_trajectory(rule, NoisyBowls(), SEED, NUM_STEPS)
    assert record.states is None
    assert effective_rate(record, 2).of_gradient.shape == (2, 2)
    assert attribution(record, num_windows=2).explained.shape == (2,)
    assert 0 < likeness(record, "adam").explained <= 1
    with pytest.raises(ValueError) as raised:
        impulse_response(rule, record)
    assert str(raised.value) == (
        "This probe needs a rule that answers the gradients of single coordinates. "
        f"Received: {rule!r}, which looks at whole tensors. Take effective_rate or attribution, "
        "which need its record alone."
    )
    with pytest.raises(ValueError, match="looks at whole tensors"):
        adaptation(rule)
    with pytest.raises(ValueError, match="Received: a record without, as"):
        state_space(record)
    with pytest.raises(ValueError, match="must be one of this rule, with states"):
        impulse_response(SGD(0.1), record)


def test_coordinates_with_a_gradient_are_chosen_first():
    preferred = np.array([0, 1, 0, 0, 1, 0, 0, 0, 3.0])
    chosen = chosen_coordinates([6, 0, 3], 4, preferred=preferred)
    assert len(chosen) == 4
    assert {1, 4} <= set(chosen)
    assert 8 in chosen
    assert len(chosen_coordinates([2, 3], 100)) == 5


# A record and its rule


@pytest.mark.parametrize(
    "other",
    [_rule(seed=1), SGD(0.05), NesterovRNNprop((3,), input_units=3), RNNprop((4,), seed=0)],
)
def test_a_record_of_another_rule_is_refused(other):
    with pytest.raises(ValueError, match="The record must be one of this rule"):
        impulse_response(other, made_record(_rule()))


def test_a_record_is_of_something_and_finite():
    record = made_record(_rule())
    broken = np.array(record.gradients)
    broken[5, 2] = np.nan
    with pytest.raises(ValueError) as raised:
        dataclasses.replace(record, gradients=broken)
    assert str(raised.value) == (
        "A record must hold finite gradients and deltas. Received: some that are not, first in "
        "step 5. Record fewer steps."
    )
    empty = np.zeros((0, 6), np.float32)
    with pytest.raises(ValueError) as raised:
        Record(empty, empty, np.zeros(0), ("a",), np.zeros(6, int), {})
    assert str(raised.value) == (
        "A record must hold gradients [T, C] of one or more steps and coordinates. Received: "
        "gradients of shape (0, 6). Record a trajectory that has steps."
    )
    with pytest.raises(ValueError, match="a delta for each gradient"):
        dataclasses.replace(record, deltas=record.deltas[1:])


# Keras's fit


def _model(optimizer) -> tuple[keras.Model, np.ndarray]:
    x = np.random.default_rng(0).standard_normal((24, 3)).astype(np.float32)
    layer = keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(0))
    model = keras.Sequential([keras.Input((3,)), layer])
    model.compile(optimizer, "mse", jit_compile=False)
    return model, x


def test_fit_is_recorded_as_it_goes_on():
    rule = _rule()
    model, x = _model(LearnedOptimizer(rule))
    recording = RecordFit(rule, max_steps=5)
    with pytest.raises(ValueError, match="must have recorded one or more steps"):
        recording.record  # noqa: B018
    model.fit(x, x[:, :1], batch_size=8, epochs=3, verbose=0, callbacks=[recording])
    record = recording.record
    assert record.gradients.shape == (5, 4)
    assert record.tensors[0].endswith("kernel")
    # The rule's own deltas for these gradients are what the model did.
    assert impulse_response(rule, record, num_steps=3).deltas.shape == (2, 3, 4)
    # What comes after is not recorded.
    model.fit(x, x[:, :1], batch_size=8, verbose=0)
    np.testing.assert_array_equal(recording.record.gradients, record.gradients)
    assert "apply" not in vars(model.optimizer)


def test_gradients_in_fit_are_those_of_the_loss():
    model, x = _model(keras.optimizers.SGD(0.1))
    kernel, bias = model.get_weights()
    recording = RecordFit(SGD(0.1))
    model.fit(x, x[:, :1], batch_size=24, verbose=0, callbacks=[recording])
    residuals = x @ kernel + bias - x[:, :1]
    expected = np.concatenate([(2 * residuals * x).mean(axis=0), [2 * residuals.mean()]])
    np.testing.assert_allclose(recording.record.gradients[0], expected, rtol=1e-5)
    np.testing.assert_allclose(recording.record.deltas[0], -0.1 * expected, rtol=1e-4)


def test_an_optimizer_that_changes_gradients_is_refused():
    model, x = _model(LearnedOptimizer(_rule(), clipnorm=1.0))
    with pytest.raises(ValueError) as raised:
        model.fit(x, x[:, :1], verbose=0, callbacks=[RecordFit(_rule())])
    assert str(raised.value) == (
        "RecordFit must see each gradient as the optimizer uses it. Received: a model compiled "
        "with clipnorm. Compile it without."
    )
