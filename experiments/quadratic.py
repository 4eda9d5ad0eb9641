"""Does a rule learned on random quadratics beat tuned hand-designed ones on fresh ones?

Andrychowicz et al. 2016, section 3.1 and figure 4 (left), arXiv 1606.04474.
"""

import json
from pathlib import Path

import tensorflow as tf
from absl import flags

from experiments import common, pipeline
from l2l_tf.problems.quadratic import FAMILIES, Quadratic
from l2l_tf.reporting.figures import ReferenceCurve

flags.DEFINE_enum("variant", "uniform", sorted(FAMILIES), "How W and y are drawn.")
flags.DEFINE_integer("num_functions", 128, "Functions in a task.", lower_bound=1)
flags.DEFINE_integer("num_dimensions", 10, "Dimensions of a function.", lower_bound=1)
flags.DEFINE_float("initial_stddev", 0.01, "Standard deviation of initial parameters.", 0)
flags.DEFINE_string(
    "reference_curves",
    None,
    "JSON file of the paper's curves, {'fig4_quadratics': {'ADAM': {'step': [...], 'loss': [...]}, "
    "...}}; those of figure 4 (left), which are of the variant uniform, are drawn behind ours.",
)

FLAGS = flags.FLAGS

# In the paper's figure, hand-designed rules are at step 1 where no step was taken yet, the LSTM
# where one was.
_FIRST_ITERATE = {"ADAM": 0, "RMSprop": 0, "SGD": 0, "NAG": 0, "LSTM": 1}


def main(strategy: tf.distribute.Strategy) -> None:
    """Runs the experiment as the flags say."""
    problem = Quadratic(
        FLAGS.variant, FLAGS.num_functions, FLAGS.num_dimensions, FLAGS.initial_stddev
    )
    title = f"{FLAGS.num_dimensions}-dimensional quadratics ({FLAGS.variant})"
    pipeline.train_and_evaluate("quadratic", problem, strategy, title, _references())


def _references() -> list[ReferenceCurve]:
    if FLAGS.reference_curves is None:
        return []
    if FLAGS.variant != "uniform":
        raise ValueError(
            "--reference_curves must go with --variant=uniform, the family of the paper's figure. "
            f"Received: --variant={FLAGS.variant}. Leave one of the two out."
        )
    try:
        figure = json.loads(Path(FLAGS.reference_curves).read_text())["fig4_quadratics"]
        return [_reference(name, curve) for name, curve in figure.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            "--reference_curves must be a JSON file with an entry 'fig4_quadratics' that holds "
            "'step' and 'loss' of each rule. "
            f"Received: --reference_curves={FLAGS.reference_curves}, where {error!r}. "
            "Check the path, or leave the flag out."
        ) from error


def _reference(name: str, curve: dict[str, list[float]]) -> ReferenceCurve:
    pairs = zip(curve["step"], curve["loss"], strict=True)
    points = [(float(step) - 1 + _FIRST_ITERATE[name], float(loss)) for step, loss in pairs]
    steps, losses = zip(*points, strict=True)
    return ReferenceCurve(name.lower(), steps, losses)


if __name__ == "__main__":
    common.run(main)
