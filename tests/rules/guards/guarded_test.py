import json
import math

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.delivery.rule_config import rule_from_config, rule_to_config
from l2l_tf.evaluation import evaluate, start, unroll
from l2l_tf.problems import Quadratic, task_seeds
from l2l_tf.rules import (
    SGD,
    Adam,
    CoordinatewiseLSTM,
    GeneralRule,
    Guarded,
    LossGuarded,
    Muon,
    NAdam,
    Route,
    RoutedRule,
    StepInfo,
    guarded,
)
from l2l_tf.training import meta_gradient
from tests.rules.guards.toys import VARIABLES, Times, gradients, norm, run
from tests.training.toys import NoisyBowls

FALLBACKS = {"sgd": SGD(0.1), "adam": Adam(0.01), "muon": Muon(0.02)}


def _lstm(seed=0):
    return CoordinatewiseLSTM((4,), output_stddev=0.3, seed=seed)


# The radius


@pytest.mark.parametrize("name", FALLBACKS)
def test_theta_of_zero_is_the_fallback_bit_for_bit(name):
    deltas, state = run(Guarded(_lstm(), FALLBACKS[name], theta=0), gradients())
    expected, _ = run(FALLBACKS[name], gradients())
    for one, other in zip(tf.nest.flatten(deltas), tf.nest.flatten(expected), strict=True):
        np.testing.assert_array_equal(one, other)
    assert int(state.ledger.num_guarded) == 3
    assert float(state.ledger.mean_share) == 1


@pytest.mark.parametrize("theta", [1e30, math.inf])
@pytest.mark.parametrize("scope", ["tensor", "all"])
def test_a_large_theta_is_the_rule_bit_for_bit(theta, scope):
    deltas, state = run(Guarded(_lstm(), Adam(0.01), theta=theta, scope=scope), gradients())
    expected, _ = run(_lstm(), gradients())
    for one, other in zip(tf.nest.flatten(deltas), tf.nest.flatten(expected), strict=True):
        np.testing.assert_array_equal(one, other)
    assert int(state.ledger.num_guarded) == 0
    assert float(state.ledger.mean_share) == 0


def test_a_delta_beyond_the_radius_is_on_its_edge_in_the_same_direction():
    rule = Guarded(Times(5.0), SGD(0.1), "relative", theta=0.5)
    (delta,), state = run(rule, gradients(1))
    (gradient,) = gradients(1)
    # v = 5.1 g is to be of length .05 |g|.
    for one, own in zip(delta, gradient, strict=True):
        np.testing.assert_allclose(one, (-0.1 + 0.05) * own.numpy(), rtol=1e-6)
    np.testing.assert_allclose(state.ledger.mean_share, 1 - 0.05 / 5.1, rtol=1e-6)


@pytest.mark.parametrize("scope", ["tensor", "all"])
def test_norms_are_of_each_tensor_or_of_all(scope):
    rule = Guarded(_lstm(), Adam(0.01), theta=0.7, scope=scope, adapts=False)
    deltas, state = run(rule, gradients())
    fallbacks, _ = run(Adam(0.01), gradients())
    for delta, fallback in zip(deltas, fallbacks, strict=True):
        differences = [one - other for one, other in zip(delta, fallback, strict=True)]
        together = norm(differences) / norm(fallback)
        apart = [norm([v]) / norm([d]) for v, d in zip(differences, fallback, strict=True)]
        # The rule wants more, so it ends on the edge.
        np.testing.assert_allclose(together if scope == "all" else apart, 0.7, rtol=1e-4)
        if scope == "all":
            assert max(apart) > 0.701
    assert int(state.ledger.num_guarded) == 3


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("mode", ["trust", "relative", "budget"])
def test_what_is_not_finite_becomes_the_fallback(bad, mode):
    rule = Guarded(Times(bad), SGD(0.1), mode, 0.5, budget=1.0 if mode == "budget" else None)
    deltas, state = run(rule, gradients())
    expected, _ = run(SGD(0.1), gradients())
    for one, other in zip(tf.nest.flatten(deltas), tf.nest.flatten(expected), strict=True):
        np.testing.assert_array_equal(one, other)
    assert float(state.ledger.mean_share) == 1
    assert float(state.ledger.budget_left) == (1 if mode == "budget" else 0)


def test_with_a_gradient_of_zero_nothing_moves():
    zeros = [[tf.zeros_like(one) for one in step] for step in gradients()]
    deltas, _ = run(Guarded(_lstm(), SGD(0.1), "relative", 0.5), zeros)
    assert norm(tf.nest.flatten(deltas)) == 0


def test_a_radius_whose_square_is_too_small_for_a_number_is_zero():
    tiny = [[1e-24 * one for one in step] for step in gradients(2)]
    deltas, _ = run(Guarded(Times(-50.0), SGD(0.1), "relative", 0.5), tiny)
    expected, _ = run(SGD(0.1), tiny)
    assert norm(tf.nest.flatten(expected)) > 0
    for one, other in zip(tf.nest.flatten(deltas), tf.nest.flatten(expected), strict=True):
        np.testing.assert_array_equal(one, other)


# The budget


def test_what_is_spent_never_exceeds_the_budget():
    budget, theta, rate = 0.5, 0.3, 0.1
    rule = Guarded(Times(40.0), SGD(rate), "budget", theta, budget=budget, spending=0.25)
    deltas, state = run(rule, gradients(12))
    left, spent = budget, 0.0
    for delta, gradient in zip(deltas, gradients(12), strict=True):
        square = norm([one + rate * own for one, own in zip(delta, gradient, strict=True)]) ** 2
        over = square - (theta * rate * norm(gradient)) ** 2
        np.testing.assert_allclose(over, 0.25 * left, rtol=1e-3)
        spent += over
        left -= 0.25 * left
    assert spent <= budget * (1 + 1e-5)
    np.testing.assert_allclose(state.ledger.budget_left, left, rtol=1e-4)


def test_nothing_is_spent_by_a_rule_that_stays_within_the_radius():
    rule = Guarded(Times(-0.11), SGD(0.1), "budget", 0.3, budget=0.5)
    deltas, state = run(rule, gradients())
    assert float(state.ledger.budget_left) == 0.5
    expected, _ = run(Times(-0.11), gradients())
    np.testing.assert_array_equal(deltas[0][0], expected[0][0])


# Batches, states


def test_each_batch_entry_is_guarded_for_itself():
    rule = Guarded(Times(3.0), SGD(0.1), "budget", 0.5, budget=0.2)
    of_batch = gradients(2, (2, 2))
    # One entry has a NaN, one has small gradients.
    scales = tf.constant([[1.0, np.nan], [1e-3, 1.0]])[..., tf.newaxis]
    of_batch = [[kernel * scales[..., tf.newaxis], bias * scales] for kernel, bias in of_batch]
    together, state = run(rule, of_batch, (2, 2))
    assert state.ledger.num_guarded.shape == (2, 2)
    for entry in np.ndindex(2, 2):
        alone, own = run(rule, [[one[entry] for one in step] for step in of_batch])
        for one, other in zip(tf.nest.flatten(together), tf.nest.flatten(alone), strict=True):
            np.testing.assert_allclose(one[entry], other, rtol=1e-5)
        np.testing.assert_allclose(state.ledger.budget_left[entry], own.ledger.budget_left, 1e-5)


def test_a_corrupted_state_recovers_where_it_is_corrupted():
    rule = Guarded(_lstm(), SGD(0.1), scope="tensor")
    _, state = run(rule, gradients(2))
    corrupted = tf.nest.map_structure(lambda leaf: leaf.numpy(), state.rule)
    tf.nest.flatten(corrupted)[0][3, 1] = np.nan
    more = gradients(2, seed=1)
    deltas, after = run(rule, more, state=state._replace(rule=corrupted))
    _, healthy = run(rule, more, state=state)
    assert np.isfinite(deltas[0][0]).all()
    for leaf, other in zip(tf.nest.flatten(after.rule), tf.nest.flatten(healthy.rule), strict=True):
        assert np.isfinite(leaf).all()
        others = np.arange(8) != 3
        np.testing.assert_allclose(leaf.numpy()[others], other.numpy()[others], rtol=1e-6)
    # The tensor of the coordinate is the fallback's for one step, the other one is the rule's.
    np.testing.assert_allclose(deltas[0][0], -0.1 * more[0][0], rtol=1e-6)


def test_general_keeps_its_persistence_when_a_tensor_of_its_state_recovers():
    bound = Guarded(GeneralRule(seed=0), SGD(0.1)).bind(VARIABLES)
    state, ones = bound.initial_state(), tf.ones([bound.num_coordinates])
    for step in range(5):
        _, state = bound(ones, state, StepInfo(tf.constant(step), None, ones, tf.constant(100)))
    kernel, bias = state.rule.tensors
    assert np.min(kernel.persistence) > 0.3
    corrupted = kernel._replace(square=np.nan * kernel.square)
    state = state._replace(rule=state.rule._replace(tensors=[corrupted, bias]))
    _, after = bound(ones, state, StepInfo(tf.constant(50), None, ones, tf.constant(100)))
    recovered, other = after.rule.tensors
    np.testing.assert_array_equal(recovered.persistence, kernel.persistence)
    assert np.abs(recovered.mean).max() == 0
    assert np.abs(other.mean).min() > 0


@pytest.mark.parametrize("bad", [np.nan, 1e20])
@pytest.mark.parametrize("fallback", [Adam(0.01), NAdam(0.01)], ids=["adam", "nadam"])
def test_the_fallback_starts_anew_after_a_gradient_that_it_cannot_hold(bad, fallback):
    before, after = gradients(30), gradients(3, seed=1)
    spoilt = [bad * one for one in before[-1]]
    rule = Guarded(_lstm(), fallback, theta=0)
    deltas, _ = run(rule, [*before[:-1], spoilt, *after])
    expected, _ = run(fallback, after)
    for one, other in zip(deltas[30:], expected, strict=True):
        for own, alone in zip(one, other, strict=True):
            np.testing.assert_allclose(own, alone, rtol=1e-5)


def test_the_fallback_starts_anew_for_each_batch_entry():
    before, after = gradients(30, (2,)), gradients(1, (2,), seed=1)
    spoilt = [one * np.reshape([1e20, 1], [2, *[1] * (one.ndim - 1)]) for one in before[-1]]
    deltas, _ = run(
        Guarded(_lstm(), NAdam(0.01), theta=0), [*before[:-1], spoilt, *after], batch_shape=(2,)
    )
    alone, _ = run(NAdam(0.01), [[one[0] for one in after[0]]])
    other, _ = run(NAdam(0.01), [[one[1] for one in step] for step in [*before, *after]])
    for index in range(2):
        np.testing.assert_allclose(deltas[-1][index][0], alone[-1][index], rtol=1e-5)
        np.testing.assert_allclose(deltas[-1][index][1], other[-1][index], rtol=1e-4)


# In unrolls: the theorem, backtracking, training


def test_relative_descends_by_what_the_theorem_says():
    problem = Quadratic(num_functions=3, num_dimensions=4)
    seed = tf.constant([0, 1])
    matrices, _ = problem.batch(seed, tf.constant(0))
    beta = 2 * np.linalg.svd(matrices.numpy().astype(np.float64))[1].max() ** 2
    rule = Guarded(Times(1e6), SGD(1 / beta), "relative", theta=0.9)
    first = start(rule, problem, seed)
    steps, _ = unroll(rule, problem, seed, first, 20, ["gradients"])
    losses = np.concatenate([first.losses[np.newaxis], steps.losses])
    of_steps = np.concatenate([first.gradient[np.newaxis], steps.gradients])[:-1]
    squares = np.square(of_steps.reshape(20, 3, 4).astype(np.float64)).sum(-1)
    least = (1 - 0.9**2) / (2 * beta) * squares
    assert (losses[:-1] - losses[1:] >= least - 1e-5 * losses[:-1]).all()


def test_backtracking_finds_a_step_size_and_takes_back_what_failed():
    problem, seeds = Quadratic(num_functions=2, num_dimensions=3), task_seeds(0, "test", 0, 2)
    make = lambda backtracking: Guarded(  # noqa: E731
        Times(1e6), SGD(30.0), "relative", 0.5, backtracking=backtracking
    )
    wild = evaluate(make(False), problem, seeds, 60)
    tame = evaluate(make(True), problem, seeds, 60)
    assert wild.num_diverged == 4
    assert tame.num_diverged == 0
    assert (tame.final_losses < 0.5 * tame.losses[0]).all()
    first = tf.where(tame.losses[1] > tame.losses[0])
    assert first.shape[0] == 4  # Its first step was too long, and it is where it was before.
    np.testing.assert_allclose(tame.losses[2], tame.losses[0], rtol=1e-3)


def test_backtracking_is_refused_where_losses_are_not_of_one_function():
    rule = Guarded(_lstm(), SGD(0.05), "relative", backtracking=True)
    problem = NoisyBowls(num_functions=2)
    for watched in (rule, LossGuarded(rule, Adam(0.1))):
        with pytest.raises(ValueError) as raised:
            start(watched, problem, tf.constant([3, 1]))
        assert str(raised.value).startswith(
            "backtracking must be left out where each step has another minibatch, because it "
            "compares their losses. Received: backtracking=True on 'noisy_bowls'."
        )
    parts = RoutedRule(_lstm(), [Route(_lstm(1), kind="dense")])
    with pytest.raises(ValueError) as raised:
        guarded(parts, SGD(0.1), mode="relative", backtracking=True)
    assert str(raised.value).startswith(
        "backtracking must be left out for a rule with parts, which have one loss together. "
        "Received: backtracking=True with parts ['dense', 'other']."
    )


def test_meta_gradients_flow_through_the_clip():
    problem, rule = NoisyBowls(num_functions=2), Guarded(_lstm(), SGD(0.05), theta=0.5)
    seed = tf.constant([3, 1])
    first = start(rule, problem, seed)
    before = None
    for _ in range(12):
        result = meta_gradient(rule, problem, seed, first, 6)
        assert all(np.isfinite(one).all() for one in result.gradients)
        assert max(np.abs(one).max() for one in result.gradients) > 0
        before = before or float(result.meta_loss)
        for weight, gradient in zip(rule.trainable_variables, result.gradients, strict=True):
            weight.assign_sub(0.03 * gradient / (1e-8 + tf.norm(gradient)))
    assert float(meta_gradient(rule, problem, seed, first, 6).meta_loss) < before
    bound = rule.bind(problem.variables, problem.batch_shape)
    _, last = unroll(bound, problem, seed, first, 6)
    assert int(tf.reduce_min(last.rule_state.ledger.num_guarded)) > 0


# Parts, saving, arguments


def test_of_a_rule_with_parts_each_is_guarded():
    parts = RoutedRule(_lstm(), [Route(_lstm(1), kind="dense")])
    rule = guarded(parts, SGD(0.1), mode="budget", theta=0.5, budget=1.0)
    assert [one.settings.budget for one in rule.parts.values()] == [0.5, 0.5]
    deltas, _ = run(rule, gradients(2))
    only_kernel = [[kernel, tf.zeros_like(bias)] for kernel, bias in gradients(2)]
    alone, _ = run(rule.parts["dense"], only_kernel)
    # At its edge, the length of a part's difference depends on its own gradient alone.
    for delta, own, step in zip(deltas, alone, only_kernel, strict=True):
        length = norm([own[0] + 0.1 * step[0], own[1]])
        assert norm([delta[0] + 0.1 * step[0]]) == pytest.approx(length, rel=1e-4)


def test_its_configuration_is_json_and_makes_it_again():
    rule = Guarded(_lstm(), Adam(0.01), theta=math.inf, scope="all")
    again = rule_from_config(json.loads(json.dumps(rule_to_config(rule), allow_nan=False)))
    assert again.settings == rule.settings
    assert again.fallback.learning_rate == 0.01
    for one, other in zip(again.get_weights(), rule.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "tight"}, "mode must be one of ['budget', 'relative', 'trust']"),
        ({"theta": -1}, "theta must be at least 0. Received: theta=-1."),
        ({"theta": True}, "theta must be at least 0. Received: theta=True."),
        (
            {"theta": np.array([1.0, 2.0])},
            "theta must be at least 0. Received: theta=array([1., 2.]).",
        ),
        ({"theta": "2"}, "theta must be at least 0. Received: theta='2'."),
        ({"theta": math.nan}, "theta must be at least 0. Received: theta=nan."),
        ({"scope": "layer"}, "scope must be one of ['all', 'tensor']"),
        (
            {"mode": "relative", "adapts": True},
            "adapts must go with mode='trust'. Received: mode='relative'. Leave adapts out, or "
            "change the mode.",
        ),
        ({"budget": 1.0}, "budget must go with mode='budget'. Received: mode='trust'."),
        ({"spending": 0.1}, "spending must go with mode='budget'. Received: mode='trust'."),
        (
            {"backtracking": True},
            "backtracking must go with mode='relative' or 'budget'. Received: mode='trust'.",
        ),
        *(
            ({"mode": "relative", "fallback": SGD(rate)}, "learning_rate must be positive and fin")
            for rate in (-1.0, 0.0, math.nan)
        ),
        ({"mode": "relative", "theta": 1}, "theta must be below 1 with mode='relative'."),
        ({"mode": "budget", "theta": 0.5}, "budget must be positive and finite."),
        (
            {"mode": "budget", "theta": 0.5, "budget": 1.0, "spending": 2.0},
            "spending must be at most 1. Received: spending=2.0.",
        ),
        (
            {"mode": "budget", "budget": 1.0, "scope": "tensor"},
            "scope must be 'all' with mode='budget', which has one budget for all tensors.",
        ),
        (
            {"mode": "relative", "theta": 0.5, "fallback": Adam(0.1)},
            "fallback must be SGD without momentum with mode='relative'",
        ),
    ],
)
def test_wrong_settings_are_named(arguments, message):
    given = {"fallback": SGD(0.1), **arguments}
    with pytest.raises(ValueError) as raised:
        Guarded(_lstm(), **given)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("rule", "fallback", "message"),
    [
        (3, SGD(0.1), "rule must be a rule, with a method get_config."),
        (SGD, SGD(0.1), "rule must be a rule, with a method get_config."),
        (_lstm(), "adam", "fallback must be a rule, with a method get_config."),
        (_lstm(), _lstm(), "fallback must be a hand-designed rule"),
        (Guarded(_lstm(), SGD(0.1)), Adam(0.1), "rule must have no guard yet."),
        (LossGuarded(_lstm(), SGD(0.1)), Adam(0.1), "rule must have no guard yet."),
        (_lstm(), Guarded(_lstm(), SGD(0.1)), "fallback must be a hand-designed rule"),
    ],
)
def test_what_is_no_rule_is_named(rule, fallback, message):
    with pytest.raises(TypeError) as raised:
        Guarded(rule, fallback)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize("flag", ["adapts", "backtracking"])
@pytest.mark.parametrize("value", ["no", 1])
def test_flags_are_true_or_false(flag, value):
    with pytest.raises(TypeError) as raised:
        Guarded(_lstm(), SGD(0.1), "relative", **{flag: value})
    expected = f"{flag} must be True or False. Received: {flag}={value!r}. Leave it out."
    assert str(raised.value) == expected


def test_theta_is_chosen_by_the_mode():
    assert Guarded(_lstm(), SGD(0.1)).settings.theta == 1.5
    assert Guarded(_lstm(), SGD(0.1), "relative").settings.theta == 0.9
    assert Guarded(_lstm(), SGD(0.1), "budget", budget=1.0).settings.theta == 0.9


def test_a_rule_with_parts_is_referred_to_the_function():
    parts = RoutedRule(_lstm(), [Route(_lstm(1), kind="dense")])
    with pytest.raises(TypeError, match="which guards each"):
        Guarded(parts, SGD(0.1))


def test_backtracking_reads_losses_and_parameters():
    bound = Guarded(_lstm(), SGD(0.1), "relative", 0.5, backtracking=True).bind([])
    assert bound.needs == {"losses", "parameters"}
    with pytest.raises(ValueError) as raised:
        bound(tf.zeros([0]), bound.initial_state(), StepInfo(losses=tf.zeros([1])))
    assert str(raised.value) == (
        "info must tell losses and parameters to a guard with backtracking. Received: a StepInfo "
        "without parameters. Give them in each call."
    )
