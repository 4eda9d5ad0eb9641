import numpy as np
import pytest

from l2l_tf.problems import MixtureProblem, Quadratic, StackedProblem
from tests.training.toys import NoisyBowls, Parabolas


def _mixture(weights=None) -> MixtureProblem:
    return MixtureProblem([Parabolas(), NoisyBowls(), Quadratic(num_functions=2)], weights)


def test_problems_are_chosen_as_often_as_their_weights_say():
    mixture = _mixture([1, 3, 0])
    choices = np.array([mixture.choose(7, index) for index in range(2000)])
    shares = np.bincount(choices, minlength=3) / 2000
    # Three standard errors of a share of a quarter.
    np.testing.assert_allclose(shares, [0.25, 0.75, 0], atol=3 * np.sqrt(0.25 * 0.75 / 2000))


def test_the_seed_and_the_index_alone_decide():
    first, again, other = (
        [mixture.choose(seed, index) for index in range(50)]
        for mixture, seed in ((_mixture(), 0), (_mixture(), 0), (_mixture(), -1))
    )
    assert first == again
    assert first != other


def test_a_problem_alone_is_its_own_only_component():
    problem = Parabolas()
    assert problem.components == [problem]
    assert {problem.choose(0, index) for index in range(5)} == {0}
    np.testing.assert_array_equal(problem.normalized(np.array([2.0])), [2.0])
    np.testing.assert_array_equal(StackedProblem(problem, 2).normalized(np.array([2.0])), [2.0])


def test_the_configuration_names_all_problems_and_their_shares():
    config = _mixture([1, 2, 3]).get_config()
    assert config["weights"] == [1.0, 2.0, 3.0]
    assert [one["name"] for one in config["problems"]] == [
        "parabolas",
        "noisy_bowls",
        "quadratic_uniform",
    ]
    assert config["problems"][1]["config"] == NoisyBowls().get_config()


@pytest.mark.parametrize(
    ("problems", "weights", "error", "match"),
    [
        ([Parabolas(), 3], None, TypeError, "problems must hold problems"),
        ([Parabolas()], None, ValueError, "problems must be two or more"),
        ([Parabolas(), Parabolas()], None, ValueError, "different names"),
        ([Parabolas(), NoisyBowls()], [1], ValueError, "weights must hold"),
        ([Parabolas(), NoisyBowls()], [1, -1], ValueError, "weights must hold"),
        ([Parabolas(), NoisyBowls()], [0, 0], ValueError, "weights must hold"),
        ([Parabolas(), NoisyBowls()], [1, float("nan")], ValueError, "weights must hold"),
    ],
)
def test_what_makes_no_mixture_is_refused(problems, weights, error, match):
    with pytest.raises(error, match=match):
        MixtureProblem(problems, weights)
