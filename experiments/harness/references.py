"""The paper's curves, drawn behind ours if a flag names a file of them."""

import json
from pathlib import Path
from typing import Any

from absl import flags

from experiments.harness.path_flags import define_path
from l2l_tf.reporting.figures import ReferenceCurve

define_path(
    "reference_curves",
    None,
    "JSON file of the paper's curves, {figure: {'ADAM': {'step': [...], 'loss': [...]}, ...}, "
    "...}. The curves of the figure that shows this experiment are drawn behind ours. For "
    "figure 6, optional entries 'fig6_1layer' and 'fig6_2layers' have 'units' in place of "
    "'step'.",
)

FLAGS = flags.FLAGS

# In the paper's figures, step 1 is before the first step for hand-designed rules, and after it for
# the LSTM.
_FIRST_ITERATE = {"ADAM": 0, "RMSprop": 0, "SGD": 0, "NAG": 0, "LSTM": 1, "LSTM-sub": 1}


def reference_curves(*figures: str) -> list[ReferenceCurve]:
    """Returns the curves of the named figures from the file that `--reference_curves` names.

    Without that flag there are none. Several figures are parts of one curve: their steps follow
    each other.

    Raises:
        ValueError: there is no such file, or it lacks a figure.
    """
    if FLAGS.reference_curves is None:
        return []
    try:
        published = _published()
        first, *rest = (published[figure] for figure in figures)
        return [
            _joined(name, [curve, *(part[name] for part in rest)]) for name, curve in first.items()
        ]
    except _WRONG_CONTENTS as error:
        raise _refusal(" and ".join(figures), "step", error) from error


def reference_points(figure: str) -> list[ReferenceCurve]:
    """Returns the points of a figure against hidden units; the units are stored as its steps.

    Files of curves need not have such points; without them, the list is empty.

    Raises:
        ValueError: there is no such file, or it holds something else in their place.
    """
    if FLAGS.reference_curves is None:
        return []
    try:
        return [
            _curve(name, _points(points, "units"))
            for name, points in _published().get(figure, {}).items()
        ]
    except _WRONG_CONTENTS as error:
        raise _refusal(figure, "units", error) from error


_WRONG_CONTENTS = (OSError, ValueError, KeyError, TypeError, AttributeError)


def _published() -> dict[str, Any]:
    return json.loads(Path(FLAGS.reference_curves).read_text())


def _refusal(figures: str, axis: str, error: Exception) -> ValueError:
    return ValueError(
        f"--reference_curves must be a JSON file with an entry {figures!r} that "
        f"holds '{axis}' and 'loss' of each rule. "
        f"Received: --reference_curves={FLAGS.reference_curves}, where {error!r}. "
        "Check the path, or leave the flag out."
    )


def _joined(name: str, parts: list[dict[str, list[float]]]) -> ReferenceCurve:
    points = [
        (step - 1 + _FIRST_ITERATE[name], loss)
        for part in parts
        for step, loss in _points(part, "step")
    ]
    return _curve(name, points)


def _curve(name: str, points: list[tuple[float, float]]) -> ReferenceCurve:
    steps, losses = zip(*points, strict=True)
    return ReferenceCurve(name.lower(), steps, losses)


def _points(curve: dict[str, list[float]], axis: str) -> list[tuple[float, float]]:
    return [(float(x), float(loss)) for x, loss in zip(curve[axis], curve["loss"], strict=True)]
