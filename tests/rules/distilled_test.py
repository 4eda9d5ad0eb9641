import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from l2l_tf import LearnedOptimizer, load_rule
from l2l_tf.rules import DistilledRule, RNNprop
from tests.reference.distilled import distilled_deltas
from tests.rules.run_rule import run_rule

# A gain, a momentum and a memory are kept as logarithms and logits.
GAIN, REFERENCE_GAIN, MOMENTUM, MEMORY = 2.0, 4.0, 0.6, 0.9
# The reference has no epsilon, which is a hundred-thousandth of the smallest gradients.
TOLERANCE = 1e-7
DIRECTION, FLOOR, SLOPE, THRESHOLD = (0.7, -1.3), 0.1, 0.8, 0.7


def _logit(share: float) -> float:
    return math.log(share / (1 - share))


def _recursive(dtype: str = "float64", **arguments) -> DistilledRule:
    rule = DistilledRule(dtype=dtype, **arguments)
    rule.set_weights(
        [
            np.log(GAIN),
            np.log(REFERENCE_GAIN),
            np.array([_logit(MOMENTUM), _logit(MEMORY)]),
            np.array(DIRECTION),
            np.log([FLOOR, SLOPE]),
            np.array(THRESHOLD),
        ]
    )
    return rule


def _gradients(num_steps: int = 8) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((num_steps, 4)) * [1e-3, 1, 1, 1e4]


def test_the_recursive_form_is_that_of_its_docstring():
    gradients = _gradients()
    expected = distilled_deltas(
        gradients,
        GAIN,
        reference_gain=REFERENCE_GAIN,
        momentum=MOMENTUM,
        memory=MEMORY,
        direction=DIRECTION,
        floor=FLOOR,
        slope=SLOPE,
        threshold=THRESHOLD,
    )
    np.testing.assert_allclose(run_rule(_recursive(), gradients), expected, rtol=TOLERANCE)


def test_taps_are_a_finite_impulse_response_of_saturated_gradients():
    rule = DistilledRule("taps", num_taps=3, dtype="float64", decay=0.9, output_scale=2.0)
    rule.set_weights([np.log(GAIN), np.array([0.5, -0.2, 0.1])])
    expected = distilled_deltas(
        _gradients(), GAIN, decay=0.9, output_scale=2.0, taps=[0.5, -0.2, 0.1]
    )
    np.testing.assert_allclose(run_rule(rule, _gradients()), expected, rtol=TOLERANCE)


def test_deltas_do_not_depend_on_the_scale_of_the_loss_and_are_bounded():
    rule = _recursive("float32")
    gradients = _gradients().astype(np.float32)
    deltas = run_rule(rule, gradients)
    np.testing.assert_allclose(run_rule(rule, 1e6 * gradients), deltas, rtol=1e-3, atol=1e-6)
    # Confidence is never above 1.
    bound = 0.1 * sum(map(abs, DIRECTION)) * (FLOOR + SLOPE * (1 - THRESHOLD) ** 2)
    extreme = run_rule(rule, np.float32([[1e-30, 1e18, 0, -1e18]] * 3))
    assert np.isfinite(extreme).all()
    assert np.abs(extreme).max() <= bound


def test_agreement_keeps_steps_large_and_noise_makes_them_small():
    rule = DistilledRule()
    constant = run_rule(rule, np.ones((60, 1), np.float32))
    noise = np.random.default_rng(0).standard_normal((60, 50)).astype(np.float32)
    answers = np.sqrt(np.square(run_rule(rule, noise)).mean(axis=1))
    assert np.abs(constant[-1]) > 0.07
    assert answers[-20:].mean() < 0.25 * answers[:3].mean()
    # Zeros are no disagreement.
    silent = np.concatenate([np.zeros((30, 1)), np.ones((1, 1))]).astype(np.float32)
    np.testing.assert_allclose(run_rule(rule, silent)[-1], constant[0], rtol=0.1)


SHIPPED = "mnist_rnnprop_distilled"


@pytest.mark.parametrize("make", [DistilledRule, lambda: load_rule(SHIPPED, replay=False)])
def test_alternating_signs_make_steps_small_and_keep_them_small(make):
    rule = make()
    alternating = np.tile([[1.0], [-1.0]], [200, 1]).astype(np.float32)
    sizes = np.abs(run_rule(rule, alternating))[:, 0]
    assert sizes[0] > 0.03
    # The floor is a twentieth of the gate at confidence 1 or less, and the momentum is small.
    assert sizes[60:].max() < 0.06 * sizes[0]


@pytest.mark.parametrize("make", [DistilledRule, lambda: load_rule(SHIPPED, replay=False)])
def test_on_quadratics_it_comes_to_rest_and_stays_there(make):
    rule = make()
    curvatures = tf.constant([0.01, 0.1, 1.0, 10.0])

    def step(position, state):
        delta, state = rule(curvatures * position, state)
        return position + delta, state

    step = tf.function(step, autograph=False)
    position, state, distances = tf.ones([4]), rule.initial_state(4), []
    for _ in range(400):
        position, state = step(position, state)
        distances.append(np.abs(position))
    # The steps of one whose gate opens again would grow.
    for stop in (200, 400):
        assert np.max(distances[stop - 20 : stop]) < 0.02


def test_its_state_is_three_numbers_for_each_coordinate():
    step, *vectors = [*DistilledRule().initial_state(7)[:2], *DistilledRule().initial_state(7)[2]]
    assert step.shape == ()
    assert [one.shape for one in vectors] == [(7,)] * 3
    assert sum(weight.size for weight in map(np.asarray, DistilledRule().get_weights())) == 9


def test_a_rescaled_copy_takes_larger_steps():
    rule, gradients = _recursive(), _gradients()
    larger = rule.rescaled(3)
    np.testing.assert_allclose(run_rule(larger, gradients), 3 * run_rule(rule, gradients))
    assert rule.output_scale == 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"form": "fir"}, "form must be one of ['recursive', 'taps']. Received: form='fir'."),
        ({"num_taps": 0}, "num_taps must be an integer of at least 1. Received: num_taps=0."),
        ({"decay": 1.0}, "decay must be between 0 and 1. Received: decay=1.0."),
        ({"dtype": "float16"}, "dtype must be one of ['float32', 'float64']. Received: dtype="),
        ({"output_scale": 0}, "output_scale must be positive and finite. Received: output_scale=0"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError) as raised:
        DistilledRule(**arguments)
    assert str(raised.value).startswith(message)


def test_an_optimizer_does_not_cut_its_small_state_into_chunks():
    names = []
    for rule in (DistilledRule(), RNNprop((2,), seed=0)):
        optimizer = LearnedOptimizer(rule, chunk_size=4)
        optimizer.build([keras.Variable(np.zeros(16, np.float32))])
        names.append([one.name for one in optimizer.variables if "chunks" in one.name])
    assert names[0] == []
    assert names[1] != []
