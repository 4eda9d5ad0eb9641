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
    autonomous_response,
    effective_rate,
    gradient_statistics,
    impulse_response,
    likeness,
    record_trajectory,
    saturation,
    state_space,
    update_function,
)
from l2l_tf.analysis.trajectory import chosen_coordinates
from l2l_tf.evaluation import bind, start, unroll
from l2l_tf.problems import task_seeds
from l2l_tf.rules import SGD, Adam, CoordinatewiseLSTM, DistilledRule, GeneralRule, RNNprop, guarded
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
    [_rule(seed=1), SGD(0.05), CoordinatewiseLSTM((3,), seed=0), RNNprop((4,), seed=0)],
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
    with pytest.raises(
        TypeError, match=r"losses must be an array of NumPy. Received: losses=\[1.0"
    ):
        dataclasses.replace(record, losses=[1.0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"losses": np.zeros(9)},
            "A record must hold a loss for each of 40 steps. Received: losses of shape (9,). "
            "Record them together.",
        ),
        (
            {"owners": np.array([0, 0, 1, 1, 2, 2])},
            "owners must be indices of the 2 tensors. Received: owners from 0 to 2. Count tensors "
            "from 0.",
        ),
        (
            {"parts": {"rule": np.array([7])}},
            "parts must hold each of 6 coordinates once. Received: parts={'rule': array([7])}. "
            "Give {'rule': np.arange(6)} for a rule without parts.",
        ),
    ],
)
def test_what_a_record_holds_fits_together(changes, message):
    with pytest.raises(ValueError) as raised:
        dataclasses.replace(made_record(SGD(0.1)), **changes)
    assert str(raised.value) == message


STEPS = "steps must be one or more integers from 0 to 39, the record's last step. Received: steps="
GRID = "grid must be one or more finite numbers, ascending. Received: grid="


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        (lambda rule, record: update_function(rule, record, steps=[1000]), f"{STEPS}[1000]."),
        (lambda rule, record: impulse_response(rule, record, [40]), f"{STEPS}[40]."),
        (lambda rule, record: autonomous_response(rule, record, [-1]), f"{STEPS}[-1]."),
        (lambda rule, record: impulse_response(rule, record, []), f"{STEPS}[]."),
        (lambda rule, record: update_function(rule, record, grid=1.0), f"{GRID}1.0."),
        (lambda rule, record: update_function(rule, record, grid=[np.nan, 1]), f"{GRID}[nan, 1]."),
        (
            lambda rule, record: saturation(update_function(rule, record, grid=[1, 2]), record),
            "function must be of gradients of both signs. Received: gradients from ",
        ),
        (lambda rule, record: likeness(record, "foo"), "name must be one of ['adam', "),
        (
            lambda rule, record: adaptation(rule, [1, np.inf]),
            "sizes must be two or more positive, finite numbers, ascending. Received: sizes=[1, ",
        ),
        (
            lambda rule, record: record_trajectory(rule, NoisyBowls(), 0, 3),
            "seed must be two integers that name a task. Received: seed=0. Take one of task_seeds(",
        ),
        (
            lambda rule, record: adaptation(DistilledRule(dtype="float64")),
            "rule must compute in float32. Received: <DistilledRule",
        ),
    ],
)
def test_wrong_arguments_of_probes_are_named(probe, message):
    rule = SGD(0.05, momentum=0.9)
    with pytest.raises(ValueError) as raised:
        probe(rule, made_record(rule))
    assert str(raised.value).startswith(message)


def test_what_is_no_rule_or_no_record_is_refused():
    with pytest.raises(TypeError, match=r"rule must be a rule\. Received: rule='mnist_rnnprop'"):
        adaptation("mnist_rnnprop")
    for probe in (gradient_statistics, effective_rate, attribution, state_space):
        with pytest.raises(TypeError, match=r"record must be a Record\. Received: record=None"):
            probe(None)
    with pytest.raises(TypeError, match=r"record must be a Record\. Received: record=None"):
        impulse_response(SGD(0.1), None)


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


def test_losses_in_fit_are_those_of_minibatches():
    rate = 0.1
    model, x = _model(keras.optimizers.SGD(rate))
    kernel, bias = model.get_weights()
    recording = RecordFit(SGD(rate))
    # The last minibatch has 6 of 24 examples.
    model.fit(x, x[:, :1], batch_size=9, epochs=2, shuffle=False, verbose=0, callbacks=[recording])
    expected = []
    for rows in 2 * [slice(0, 9), slice(9, 18), slice(18, 24)]:
        residuals = x[rows] @ kernel + bias - x[rows, :1]
        expected.append(np.square(residuals).mean())
        kernel = kernel - rate * (2 * residuals * x[rows]).mean(axis=0)[:, np.newaxis]
        bias = bias - rate * 2 * residuals.mean()
    # Differences of sums in float32.
    np.testing.assert_allclose(recording.record.losses, expected, rtol=1e-4)


CHANGED = "RecordFit must see each gradient as the optimizer uses it, and each delta as the rule "


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (lambda: LearnedOptimizer(_rule(), clipnorm=1.0), f"{CHANGED}gives it. Received: a model "
         "compiled with clipnorm. Compile it without."),
        (lambda: LearnedOptimizer(_rule(), learning_rate=0.5, weight_decay=0.1), f"{CHANGED}gives "
         "it. Received: a model compiled with weight_decay, learning_rate=0.5. Compile it "
         "without."),
        (lambda: LearnedOptimizer(_rule(seed=1)), "rule must be the one that the model's optimizer "
         "has. Received: rule=<RNNprop"),
        (lambda: LearnedOptimizer(guarded(_rule(), Adam(0.001))), "rule must be the one that the "
         "model's optimizer has. Received: rule=<RNNprop"),
    ],
)  # fmt: skip
def test_an_optimizer_that_does_something_else_is_refused(optimizer, message):
    model, x = _model(optimizer())
    with pytest.raises(ValueError) as raised:
        model.fit(x, x[:, :1], verbose=0, callbacks=[RecordFit(_rule())])
    assert str(raised.value).startswith(message)
    with pytest.raises(TypeError, match=r"rule must be a rule\. Received: rule='mnist_rnnprop'"):
        RecordFit("mnist_rnnprop")


def test_what_a_keras_optimizer_does_must_be_what_the_rule_does():
    model, x = _model(keras.optimizers.SGD(0.1))
    recording = RecordFit(SGD(0.2))
    model.fit(x, x[:, :1], verbose=0, callbacks=[recording])
    with pytest.raises(ValueError, match="whose deltas differ from the rule's by up to"):
        recording.record  # noqa: B018


def test_a_fit_is_recorded_once_and_from_the_first_step():
    model, x = _model(LearnedOptimizer(_rule()))
    with pytest.raises(ValueError) as raised:
        model.fit(x, x[:, :1], verbose=0, callbacks=[RecordFit(_rule()), RecordFit(_rule())])
    assert str(raised.value) == (
        "callbacks must hold one RecordFit at most. Received: two. Record more coordinates with "
        "one of them."
    )

    class Interrupting(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.fit(x, x[:, :1], verbose=0, callbacks=[RecordFit(_rule()), Interrupting()])
    # What was left behind does not disturb the next.
    recording = RecordFit(_rule())
    model.fit(x, x[:, :1], verbose=0, callbacks=[recording])
    assert recording.record.num_steps == 1
    assert "apply" not in vars(model.optimizer)
    with pytest.raises(ValueError) as raised:
        model.fit(x, x[:, :1], verbose=0, callbacks=[recording])
    assert str(raised.value) == (
        "RecordFit must record an optimizer from its first step. Received: one that has taken 1. "
        "Compile the model with a new one."
    )
