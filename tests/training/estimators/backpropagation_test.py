"""Valid settings of truncated back-propagation; meta_gradient_test.py tests its results."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.problems import task_seeds
from l2l_tf.rules import GeneralRule
from l2l_tf.training import MetaTrainer, MetaTrainingSettings, TruncatedBackpropagation
from l2l_tf.training.estimators import Run
from tests.training.toys import LinearRule, NoisyBowls, Parabolas


def test_another_number_of_step_weights_than_steps_is_refused():
    settings = MetaTrainingSettings(num_steps=9, unroll_length=3)
    estimator = TruncatedBackpropagation(step_weights=[1.0, 2.0])
    with pytest.raises(ValueError) as raised:
        MetaTrainer(
            LinearRule(), Parabolas(), keras.optimizers.SGD(1.0), settings, estimator=estimator
        )
    assert str(raised.value) == (
        "step_weights must hold a weight for each step of an unroll. "
        "Received: 2 weights with unroll_length=3. Give as many weights as steps."
    )


@pytest.mark.parametrize("name", ["chunk_size", "backpropagation_steps"])
def test_what_may_be_left_out_and_is_no_whole_number_is_refused(name):
    with pytest.raises(TypeError, match=f"^{name} must"):
        TruncatedBackpropagation(**{name: 2.5})


def test_backpropagation_through_no_step_is_refused():
    with pytest.raises(ValueError, match=r"^backpropagation_steps must"):
        TruncatedBackpropagation(backpropagation_steps=0)


def test_a_negative_chunk_is_refused():
    with pytest.raises(ValueError, match=r"^chunk_size must"):
        TruncatedBackpropagation(chunk_size=-1)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_of_second_derivatives_that_is_none_is_refused(share):
    with pytest.raises(ValueError) as raised:
        TruncatedBackpropagation(second_derivatives=share)
    assert str(raised.value) == (
        f"second_derivatives must be in [0, 1]. Received: second_derivatives={share}. "
        "0 leaves them out, 1 is the true derivative."
    )


def test_chunks_with_second_derivatives_are_refused():
    with pytest.raises(ValueError) as raised:
        TruncatedBackpropagation(chunk_size=4, second_derivatives=True)
    assert str(raised.value) == (
        "chunk_size must be None or 0 with second derivatives, which need the tape of a whole "
        "unroll. Received: chunk_size=4. Leave out one of the two."
    )


def _estimate(estimator, rule, num_steps=6, problem=None):
    run = Run(rule, problem or NoisyBowls(), 2, horizon=num_steps, unroll_length=num_steps)
    estimator.check(run)
    seeds = task_seeds(0, "train", 0, 2)
    return estimator.estimate(run, seeds, estimator.begin(run, seeds), num_steps)


def test_only_chosen_weights_have_gradients():
    rule = GeneralRule(seed=0)
    gradients = _estimate(TruncatedBackpropagation(1.0, weights="mix_bias|rate_"), rule).gradients
    names = [weight.name for weight in rule.trainable_variables]
    moved = {name for name, one in zip(names, gradients, strict=True) if np.any(one.numpy())}
    assert moved == {"mix_bias", "rate_kernel", "rate_bias"}


def test_weights_that_there_are_not_are_refused():
    with pytest.raises(ValueError, match=r"^weights must match the path of a trainable weight"):
        _estimate(TruncatedBackpropagation(weights="nothing"), LinearRule())


def test_of_a_trajectory_the_last_steps_count_that_are_asked_for():
    # From 1, x_t = (1 + 2 slope)^t.
    rule = LinearRule()
    slope = -0.1
    rule.slope.assign(slope)
    result = _estimate(TruncatedBackpropagation(1.0, counted_share=1 / 3), rule, 6, Parabolas())
    steps = np.array([5, 6])
    np.testing.assert_allclose(result.meta_loss, ((1 + 2 * slope) ** (2 * steps)).sum(), rtol=1e-5)
    exact = (2 * steps * (1 + 2 * slope) ** (2 * steps - 1) * 2).sum()
    np.testing.assert_allclose(result.gradients[0], exact, rtol=1e-5)


@pytest.mark.parametrize("share", [0, 1.5, float("nan")])
def test_a_share_of_steps_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match=r"^counted_share must be in \(0, 1\]"):
        TruncatedBackpropagation(counted_share=share)


@pytest.mark.slow
@pytest.mark.parametrize(("second_derivatives", "backpropagation_steps"), [(0.5, 4), (1.0, None)])
def test_steps_taken_again_give_the_same_gradients(second_derivatives, backpropagation_steps):
    rule = GeneralRule(seed=0, dtype="float64")
    generator = np.random.RandomState(0)
    for weight in rule.trainable_variables:
        weight.assign(weight + 0.1 * generator.standard_normal(weight.shape))
    problem = NoisyBowls(dtype="float64")
    problem.loss_unit, problem.is_logarithmic = 3.0, True

    @tf.function(autograph=False)
    def gradients(rematerializes):
        estimator = TruncatedBackpropagation(
            second_derivatives,
            backpropagation_steps,
            rematerializes=rematerializes,
            counted_share=0.5,
        )
        result = _estimate(estimator, rule, 10, problem)
        return [result.meta_loss, *result.gradients, *tf.nest.flatten(result.state)]

    kept_gradients = gradients(False)
    # Without matrices, nothing is orthogonalised.
    assert sum(np.any(one.numpy()) for one in kept_gradients) == len(kept_gradients) - 2
    for kept, again in zip(kept_gradients, gradients(True), strict=True):
        np.testing.assert_allclose(again, kept, rtol=1e-9, atol=1e-12)


def test_logarithms_count_with_second_derivatives_alone():
    problem = Parabolas()
    problem.is_logarithmic = True
    with pytest.raises(ValueError, match=r"^second_derivatives must be given"):
        _estimate(TruncatedBackpropagation(), LinearRule(), problem=problem)


def test_a_meta_gradient_that_has_exploded_is_zero():
    rule = LinearRule()
    # x_t = (-3)^t.
    rule.slope.assign(-2.0)
    whole = _estimate(TruncatedBackpropagation(1.0), rule, 6, Parabolas())
    norm = float(tf.linalg.global_norm(whole.gradients))
    for max_norm, share in ((0.9 * norm, 0), (1.1 * norm, 1)):
        estimator = TruncatedBackpropagation(1.0, max_norm=max_norm)
        result = _estimate(estimator, rule, 6, Parabolas())
        np.testing.assert_allclose(result.gradients[0], share * whole.gradients[0])
    with pytest.raises(ValueError, match=r"^max_norm must"):
        TruncatedBackpropagation(max_norm=0.0)
