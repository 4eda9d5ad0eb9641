"""What is optimised: problems, and the seeds that name their tasks."""

from l2l_tf.problems.augmented import RandomlyScaled, WithConvexTerm
from l2l_tf.problems.classification import ClassificationProblem
from l2l_tf.problems.problem import Problem, StackedProblem
from l2l_tf.problems.quadratic import Quadratic
from l2l_tf.problems.style_transfer import StyleTransferProblem
from l2l_tf.problems.tasks import task_seeds

__all__ = [
    "ClassificationProblem",
    "Problem",
    "Quadratic",
    "RandomlyScaled",
    "StackedProblem",
    "StyleTransferProblem",
    "WithConvexTerm",
    "task_seeds",
]
