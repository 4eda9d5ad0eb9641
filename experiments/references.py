"""The paper's curves, drawn behind ours where a flag names a file of them."""

import json
from pathlib import Path

from absl import flags

from l2l_tf.reporting.figures import ReferenceCurve

flags.DEFINE_string(
    "reference_curves",
    None,
    "JSON file of the paper's curves, {figure: {'ADAM': {'step': [...], 'loss': [...]}, ...}, "
    "...}; those of the figure that shows this experiment are drawn behind ours.",
)

FLAGS = flags.FLAGS

# In the paper's figures, hand-designed rules are at step 1 where no step was taken yet, the LSTM
# where one was.
_FIRST_ITERATE = {"ADAM": 0, "RMSprop": 0, "SGD": 0, "NAG": 0, "LSTM": 1}


def reference_curves(*figures: str) -> list[ReferenceCurve]:
    """Returns the curves of the named figures from the file that `--reference_curves` names.

    Without that flag there are none. Several figures are parts of one, their steps one after the
    other.

    Raises:
        ValueError: there is no such file, or it lacks a figure.
    """
    if FLAGS.reference_curves is None:
        return []
    try:
        published = json.loads(Path(FLAGS.reference_curves).read_text())
        first, *rest = (published[figure] for figure in figures)
        return [
            _joined(name, [curve, *(part[name] for part in rest)]) for name, curve in first.items()
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"--reference_curves must be a JSON file with an entry {' and '.join(figures)!r} that "
            "holds 'step' and 'loss' of each rule. "
            f"Received: --reference_curves={FLAGS.reference_curves}, where {error!r}. "
            "Check the path, or leave the flag out."
        ) from error


def _joined(name: str, parts: list[dict[str, list[float]]]) -> ReferenceCurve:
    points = [
        (float(step) - 1 + _FIRST_ITERATE[name], float(loss))
        for part in parts
        for step, loss in zip(part["step"], part["loss"], strict=True)
    ]
    steps, losses = zip(*points, strict=True)
    return ReferenceCurve(name.lower(), steps, losses)
