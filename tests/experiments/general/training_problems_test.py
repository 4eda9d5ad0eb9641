"""The networks that a rule for any network is trained on."""

import numpy as np
import pytest
import tensorflow as tf

from experiments.general.training_problems import KINDS, training_mixture
from l2l_tf.problems import task_seeds
from l2l_tf.problems.augmented import WithRandomGains


@pytest.fixture(scope="module")
def networks():
    return training_mixture(3, 1)


def test_there_is_a_network_of_each_kind(networks):
    names = [problem.name.removesuffix("_gains") for problem in networks.components]
    assert names == [f"{kind}_0" for kind in KINDS]


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_has_a_loss_near_its_unit_and_gradients(networks, kind):
    problem = networks.components[list(KINDS).index(kind)]
    seed = task_seeds(0, "train", 0, 1)[0]
    parameters = problem.initial_parameters(seed)
    with tf.GradientTape() as tape:
        tape.watch(parameters)
        loss = problem.loss(parameters, problem.batch(seed, tf.constant(0)))
    gradients = [tf.convert_to_tensor(one) for one in tape.gradient(loss, parameters)]
    assert 0.3 < float(loss[0]) / problem.loss_unit < 10
    assert problem.is_logarithmic
    assert all(np.isfinite(one.numpy()).all() for one in gradients)
    assert sum(np.any(one.numpy()) for one in gradients) > len(gradients) / 2
    assert problem.num_coordinates < 60_000


def test_a_seed_gives_the_same_networks_and_another_one_others(networks):
    def shapes(mixture):
        return [problem.parameter_shapes for problem in mixture.components]

    kinds = ["labels", "teacher"]
    chosen = [networks.components[list(KINDS).index(kind)].parameter_shapes for kind in KINDS]
    again = shapes(training_mixture(3, 1, kinds))
    assert again == [chosen[list(KINDS).index(kind)] for kind in ("teacher", "labels")]
    assert shapes(training_mixture(4, 1, kinds)) != again


def test_some_have_random_gains_and_several_of_a_kind_differ():
    problems = training_mixture(0, 8, ["labels"]).components
    assert 1 <= sum(isinstance(one, WithRandomGains) for one in problems) <= 7
    assert len({str(one.parameter_shapes) for one in problems}) > 4


def test_a_factor_makes_networks_wider():
    narrow, wide = (training_mixture(0, 6, ["labels"], factor).components for factor in (1, 4))
    assert sum(one.num_coordinates for one in wide) > 2 * sum(one.num_coordinates for one in narrow)
