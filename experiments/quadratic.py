"""Does a rule trained on random quadratics beat tuned hand-designed rules on fresh ones?

Andrychowicz et al. 2016, section 3.1 and figure 4 (left), arXiv 1606.04474.
"""

import tensorflow as tf
from absl import flags

from experiments.harness import common, pipeline
from experiments.harness.references import reference_curves
from l2l_tf.problems import Quadratic
from l2l_tf.problems.quadratic import FAMILIES
from l2l_tf.reporting.figures import ReferenceCurve

flags.DEFINE_enum(
    "variant", "uniform", sorted(FAMILIES), "Family of functions: how W and y are drawn."
)
flags.DEFINE_integer("num_functions", 128, "Number of functions in a task.", lower_bound=1)
flags.DEFINE_integer("num_dimensions", 10, "Number of dimensions of a function.", lower_bound=1)
flags.DEFINE_float("initial_stddev", 0.01, "Standard deviation of initial parameters.", 0)

FLAGS = flags.FLAGS


def main(strategy: tf.distribute.Strategy) -> None:
    """Runs the experiment that the flags describe."""
    problem = Quadratic(
        FLAGS.variant, FLAGS.num_functions, FLAGS.num_dimensions, FLAGS.initial_stddev
    )
    title = f"{FLAGS.num_dimensions}-dimensional quadratics ({FLAGS.variant})"
    problems = pipeline.Problems(problem, problem, {"fresh tasks": problem})
    pipeline.train_and_evaluate("quadratic", problems, strategy, title, _references())


def _references() -> list[ReferenceCurve]:
    if FLAGS.reference_curves is not None and FLAGS.variant != "uniform":
        raise ValueError(
            "--reference_curves must go with --variant=uniform, the family of the paper's figure. "
            f"Received: --variant={FLAGS.variant}. Leave one of the two out."
        )
    return reference_curves("fig4_quadratics")


if __name__ == "__main__":
    common.run(main)
