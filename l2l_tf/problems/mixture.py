"""Meta-training on several problems."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from l2l_tf.problems.problem import Problem


class MixtureProblem:
    """Problems of different sizes and kinds. Each trajectory is drawn from one of them.

    A `MetaTrainer` accepts a mixture in place of a problem, for training and for validation. The
    choice of problem for a trajectory depends only on the run's seed and the trajectory's index.
    Each problem's losses count as it says (`Problem.normalized`), in meta-gradients and in
    validations: in units of its `loss_unit`, or as logarithms of these.

    Args:
        problems: two or more problems with different names.
        weights: relative frequencies of the problems. None means equal.
        name: the name of the mixture.

    Attributes:
        components: the problems.

    Raises:
        TypeError: one of the problems is not a problem.
        ValueError: there are fewer than two problems, two share a name, or the weights are of
            another number, negative, not finite or all zero.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        weights: Sequence[float] | None = None,
        name: str = "mixture",
    ):
        problems = list(problems)
        if not all(isinstance(problem, Problem) for problem in problems):
            raise TypeError(
                "problems must hold problems (l2l_tf.problems.Problem). "
                f"Received: {problems}. Give instances of its subclasses."
            )
        names = [problem.name for problem in problems]
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError(
                "problems must be two or more of different names. "
                f"Received: problems named {names}. Take a single one as it is."
            )
        weights = [1.0] * len(problems) if weights is None else [*map(float, weights)]
        are_shares = all(0 <= weight < math.inf for weight in weights) and sum(weights) > 0
        if len(weights) != len(problems) or not are_shares:
            raise ValueError(
                "weights must hold a finite number, 0 or positive, for each problem, not all 0. "
                f"Received: weights={weights} for {len(problems)} problems. Leave them out to draw "
                "all alike."
            )
        self.components = problems
        self.weights = weights
        self.name = name

    def choose(self, seed: int, index: int) -> int:
        """Returns the index of the component that a trajectory's tasks are drawn from.

        Args:
            seed: the run's seed.
            index: the trajectory's index, from 0.
        """
        shares = np.array(self.weights) / sum(self.weights)
        # NumPy takes no negative seeds.
        entropy = [seed % 2**64, index]
        return int(np.random.default_rng(entropy).choice(len(shares), p=shares))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, as plain values for JSON."""
        return {
            "problems": [
                {"name": problem.name, "config": problem.get_config()}
                for problem in self.components
            ],
            "weights": self.weights,
            "name": self.name,
        }
