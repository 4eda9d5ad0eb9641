import pytest

from experiments.style.figures import relative_panel
from l2l_tf.reporting.figures import ReferenceCurve


def _row(rule: str, curve: list, learned: bool = False) -> dict:
    return {"rule": rule, "learned": learned, "final_loss": curve[-1], "curve": curve}


def test_curves_are_in_units_of_the_last_loss_of_the_best_hand_designed_rule():
    rows = [
        _row("lstm", [8.0, 2.0, 1.0], learned=True),
        _row("adam", [8.0, 6.0, 4.0]),
        _row("nag", [8.0, 5.0, 5.0]),
        _row("sgd", [8.0, None, None]),
    ]
    references = [
        ReferenceCurve("lstm", [1, 2], [3.0, 1.5]),
        ReferenceCurve("adam", [0, 1], [9.0, 6.0]),
        ReferenceCurve("rmsprop", [0, 1], [9.0, 3.0]),
    ]
    panel = relative_panel("64 x 64", {"rows": rows}, references)
    assert [row["curve"] for row in panel.rows] == [
        [2.0, 0.5, 0.25],
        [2.0, 1.5, 1.0],
        [2.0, 1.25, 1.25],
        [2.0, None, None],
    ]
    assert [one.losses for one in panel.references] == [[1.0, 0.5], [3.0, 2.0], [3.0, 1.0]]
    assert [one.steps for one in panel.references] == [[1, 2], [0, 1], [0, 1]]
    assert rows[0]["curve"] == [8.0, 2.0, 1.0]


@pytest.mark.parametrize("rows", [[], [_row("lstm", [8.0, 2.0], learned=True)]])
def test_without_a_baseline_or_references_curves_stay_as_they_are(rows):
    panel = relative_panel("64 x 64", {"rows": rows}, [])
    assert [row["curve"] for row in panel.rows] == [row["curve"] for row in rows]
    assert panel.references == []
