import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.delivery.export import export_rule, load_saved_rule
from l2l_tf.evaluation.unroll import start, unroll
from l2l_tf.problems import task_seeds
from l2l_tf.rules import (
    SGD,
    CoordinatewiseLSTM,
    FlatLayout,
    NesterovRNNprop,
    RNNprop,
    Route,
    RoutedRule,
)
from l2l_tf.rules.nesterov_rnnprop import with_nesterov
from l2l_tf.training.meta_gradient import meta_gradient
from tests.reference import rnnprop as reference
from tests.reference import truncated_backpropagation
from tests.rules.execution.arrangements import in_chunks
from tests.rules.run_rule import run_rule
from tests.training.toys import NoisyBowls

NUM_STEPS, NUM_COORDINATES = 40, 5
SEED = task_seeds(0, "train", 3, 1)[0]


def _rule(**arguments) -> NesterovRNNprop:
    """Returns a small rule with each weight away from its initial value."""
    defaults = {"units": (4, 3), "input_units": 5, "seed": 0, "nesterov_rate": 0.03}
    rule = NesterovRNNprop(**defaults | arguments)
    draw = np.random.default_rng(1)
    rule.set_weights([weight + draw.normal(size=weight.shape) for weight in rule.get_weights()])
    return rule


def _gradients(dtype: str = "float32") -> np.ndarray:
    """Returns `[T, N]`: normal, shrinking to e^-3 of their size, with one coordinate zero."""
    normal = np.random.default_rng(0).normal(size=[NUM_STEPS, NUM_COORDINATES])
    sizes = np.exp(np.linspace(0, -3, NUM_STEPS))[:, None] * [0, 1e-3, 0.1, 1, 10]
    return (sizes * normal).astype(dtype)


@pytest.mark.parametrize("damping_power", [0.0, 1.0, 2.5])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 5e-5)])
def test_deltas_are_those_of_the_formulas(damping_power, dtype, tolerance):
    rule = _rule(damping_power=damping_power, dtype=dtype)
    gradients = _gradients(dtype)
    expected = reference.corrected_nesterov(rule, gradients)
    deltas = run_rule(rule, gradients)
    assert deltas.dtype == dtype
    np.testing.assert_allclose(deltas, expected, atol=tolerance)
    assert np.ptp(expected, axis=1).max() > 100 * tolerance


def test_a_new_rule_moves_as_nesterov_momentum():
    rule = NesterovRNNprop(nesterov_rate=0.03, beta_1=0.8, seed=0)
    expected = run_rule(SGD(0.03, momentum=0.8, nesterov=True), _gradients())
    np.testing.assert_allclose(run_rule(rule, _gradients()), expected, rtol=1e-4, atol=1e-9)


def test_what_an_rnnprop_has_learned_vanishes_with_the_gradients_and_faster_than_they_do():
    rule = _rule(units=(3,), beta_1=0.5, beta_2=0.5)
    nesterov = SGD(rule.nesterov_rate, momentum=0.5, nesterov=True)
    sizes = np.array([1.0] * 30 + [1e-2] * 30 + [1e-4] * 30, np.float32)
    gradients = sizes[:, None] * np.sign(np.random.default_rng(3).normal(size=[90, 2]))
    gradients = gradients.astype(np.float32)
    corrections = np.abs(run_rule(rule, gradients) - run_rule(nesterov, gradients))
    # At the end of each part, RNNprop's own deltas are alike; damped, they are 1e-4 and 1e-8 times.
    large, small, smaller = (corrections[end - 5 : end].mean() for end in (30, 60, 90))
    assert large > 1e-2
    assert 1e-5 < small / large < 1e-3
    assert smaller / large < 1e-6


def test_it_is_made_of_an_rnnprop_which_stays_as_it_is():
    rule = RNNprop((4,), input_units=3, output_scale=0.2, output_stddev=1.0, seed=4, name="mine")
    config = rule.get_config()
    made = NesterovRNNprop.of(rule, 0.02, 3.0)
    assert made.get_config() == config | {"nesterov_rate": 0.02, "damping_power": 3.0}
    for one, other in zip(made.weights, rule.weights, strict=True):
        assert one.name == other.name
        np.testing.assert_array_equal(one, other)
    made.weights[0].assign(tf.zeros_like(made.weights[0]))
    assert rule.weights[0].numpy().any()
    assert rule.get_config() == config


def test_each_part_of_a_routed_rule_becomes_one_for_the_same_variables():
    def is_small(variable):
        return np.prod(variable.shape) < 10

    rule = RoutedRule(
        RNNprop((3,), output_stddev=1.0, seed=0),
        [
            Route(RNNprop((4,), seed=1), kind="conv"),
            Route(RNNprop((2,), seed=2), name="gamma"),
            Route(RNNprop((1,), seed=3), predicate=is_small),
        ],
        name="mine",
    )
    made = with_nesterov(rule, 0.02)
    assert made.name == "mine"
    assert [(one.kind, one.name, one.predicate) for one in made.routes] == [
        ("conv", None, None),
        (None, "gamma", None),
        (None, None, is_small),
    ]
    assert list(made.parts) == list(rule.parts)
    for name, part in made.parts.items():
        assert type(part) is NesterovRNNprop
        assert part.nesterov_rate == 0.02
        for one, other in zip(part.weights, rule.parts[name].weights, strict=True):
            np.testing.assert_array_equal(one, other)
    assert all(type(part) is RNNprop for part in rule.parts.values())


@pytest.mark.parametrize("rule", [CoordinatewiseLSTM((3,)), _rule()], ids=["lstm", "twice"])
def test_another_rule_is_refused(rule):
    routed = RoutedRule(RNNprop((3,)), [Route(rule, kind="conv")])
    for one in (rule, routed):
        with pytest.raises(
            TypeError, match=r"^rule must be an RNNprop, to which Nesterov momentum"
        ):
            with_nesterov(one, 0.02)


def test_a_rate_or_a_power_out_of_range_is_refused_of_a_rule_too():
    with pytest.raises(ValueError, match=r"^nesterov_rate must"):
        NesterovRNNprop.of(RNNprop((3,)), -1)
    with pytest.raises(ValueError, match=r"^damping_power must be 0 or a finite number"):
        with_nesterov(RNNprop((3,)), 0.02, 0.5)


@pytest.mark.parametrize("chunk_size", [1, 2, NUM_COORDINATES])
def test_deltas_in_chunks_are_those_of_the_rule(chunk_size):
    rule, gradients = _rule(dtype="float64"), _gradients("float64")
    cut = in_chunks(rule, FlatLayout([[NUM_COORDINATES]]), chunk_size)
    np.testing.assert_allclose(run_rule(cut, gradients), run_rule(rule, gradients), atol=1e-13)


def test_an_exported_rule_moves_as_the_rule_and_so_does_its_saved_model(tmp_path):
    rule, gradients = _rule(), _gradients()
    path = export_rule(rule, tmp_path / "rule", {"name": "mine"})
    expected = run_rule(rule, gradients)
    reloaded = load_saved_rule(path)
    assert type(reloaded) is NesterovRNNprop
    assert reloaded.get_config() == rule.get_config()
    np.testing.assert_array_equal(run_rule(reloaded, gradients), expected)
    saved_model = tf.saved_model.load(str(path))
    state = saved_model.initial_state(NUM_COORDINATES)
    for gradient, wanted in zip(tf.constant(gradients), expected, strict=True):
        delta, state = saved_model.update(gradient, state)
        np.testing.assert_allclose(delta, wanted, atol=5e-5)


@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-39, 1e-30, 1e-8, 1e10, 1e36])
def test_deltas_stay_finite_for_gradients_of_almost_any_size(size):
    rule = _rule()
    signs = np.sign(np.random.default_rng(0).normal(size=[50, 2]))
    with np.errstate(under="ignore"):
        gradients = (size * signs).astype(np.float32)
    assert np.isfinite(run_rule(rule, gradients)).all()


@pytest.mark.parametrize("second_derivatives", [False, True])
def test_the_meta_gradient_is_that_of_an_unroll_written_out(second_derivatives):
    rule, problem = _rule(dtype="float64"), NoisyBowls(dtype="float64")
    _, iterate = unroll(rule, problem, SEED, start(rule, problem, SEED), 3)
    step_weights = tf.constant([1.0, 0.5, 2.0, 3.0], tf.float64)
    arguments = (problem, SEED, iterate, 4, step_weights, second_derivatives)
    result = meta_gradient(rule, *arguments)
    meta_loss, expected = truncated_backpropagation.meta_gradient(rule, *arguments)
    np.testing.assert_allclose(result.meta_loss, meta_loss, rtol=1e-12)
    for ours, theirs in zip(result.gradients, expected, strict=True):
        assert np.abs(theirs).max() > 0
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("damping_power", [0.0, 1.0, 2.0])
def test_weights_have_finite_derivatives_at_gradients_of_zero(damping_power):
    rule = _rule(damping_power=damping_power)
    gradient = tf.zeros([2])
    with tf.GradientTape() as tape:
        tape.watch(gradient)
        delta, state = rule(gradient, rule.initial_state(2))
        delta, _ = rule(gradient, state)
    for derivative in tape.gradient(delta, [gradient, *rule.trainable_weights]):
        assert np.isfinite(derivative).all()


def test_a_factor_scales_all_that_it_adds_up():
    rule, gradients = _rule(), _gradients()
    before = run_rule(rule, gradients)
    scaled = rule.rescaled(3)
    assert (scaled.output_scale, scaled.nesterov_rate) == (0.3, 0.09)
    np.testing.assert_allclose(run_rule(scaled, gradients), 3 * before, rtol=1e-4, atol=1e-7)


CONFIG = {
    "name": "mine",
    "trainable": False,
    "units": [4, 3],
    "input_units": 6,
    "beta_1": 0.9,
    "beta_2": 0.99,
    "epsilon": 1e-6,
    "output_scale": 0.2,
    "output_stddev": 0.5,
    "seed": 8,
    "nesterov_rate": 0.02,
    "damping_power": 3.0,
}


def test_the_config_is_plain_holds_every_argument_and_rebuilds_the_rule():
    rule = NesterovRNNprop(**CONFIG, dtype="float64")
    config = rule.get_config()
    assert json.loads(json.dumps(config)) == config
    assert {key: value for key, value in config.items() if key != "dtype"} == CONFIG
    rebuilt = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(rule))
    assert type(rebuilt) is NesterovRNNprop
    gradients = _gradients("float64")
    np.testing.assert_array_equal(run_rule(rebuilt, gradients), run_rule(rule, gradients))


@pytest.mark.parametrize(("argument", "value"), [("nesterov_rate", 0.0), ("input_units", 0)])
def test_an_argument_out_of_range_is_refused(argument, value):
    with pytest.raises(ValueError, match=f"^{argument} must"):
        NesterovRNNprop(**{argument: value})


def test_a_damping_power_between_none_and_one_is_refused():
    with pytest.raises(ValueError) as raised:
        NesterovRNNprop(damping_power=0.5)
    assert str(raised.value) == (
        "damping_power must be 0 or a finite number of at least 1. Received: damping_power=0.5. "
        "Give, say, 2."
    )


@pytest.mark.parametrize(
    "state",
    [
        _rule().initial_state(2),
        (_rule().initial_state(3)[0], tf.zeros([1])),
        (_rule().initial_state(3)[0], tf.zeros([])),
        RNNprop((4, 3)).initial_state(3),
    ],
    ids=["coordinates", "one_peak", "scalar_peak", "rnnprop"],
)
def test_a_state_of_another_gradient_or_rule_is_refused(state):
    with pytest.raises(ValueError, match="state must hold that of an RNNprop and the largest"):
        _rule()(tf.zeros([3]), state)
