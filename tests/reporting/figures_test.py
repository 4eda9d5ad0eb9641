import math
import os

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from l2l_tf.reporting.figures import (
    Panel,
    ReferenceCurve,
    WidthPanel,
    draw_curves,
    draw_pictures,
    draw_widths,
)
from l2l_tf.rules.hand_designed import BASELINES
from tests.drawn_figures import check_legends_below, extent, keep_saved_figures


def _row(rule: str, curve=(4.0, 2.0, 1.0), learned: bool = False, **entries) -> dict:
    learning_rate = None if learned else 0.031623
    row = {"rule": rule, "learned": learned, "learning_rate": learning_rate, "curve": list(curve)}
    return row | entries


@pytest.fixture
def figures(monkeypatch) -> list[Figure]:
    """The figures that were saved."""
    return keep_saved_figures(monkeypatch)


@pytest.fixture
def drawn(figures, tmp_path):
    """A function that draws rows and returns the axes that were saved."""

    def draw(rows, references=(), title="Quadratics"):
        draw_curves(tmp_path / "figure.png", [Panel(title, rows, references)])
        (axes,) = figures[-1].axes
        return axes

    return draw


def _colours(axes) -> list[str]:
    return [to_hex(line.get_color()) for line in axes.get_lines()]


def test_a_figure_is_a_png_of_the_stated_size_in_a_folder_that_is_made(tmp_path):
    path = tmp_path / "made" / "figure.png"
    draw_curves(path, [Panel("Quadratics", [_row("adam")])])
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    image = matplotlib.image.imread(path)
    # 6.4 by 5.4 inches at 150 dots each, with red, green, blue and alpha.
    assert image.shape == (810, 960, 4)
    assert image.std() > 0.05  # Not blank.
    assert os.listdir(path.parent) == ["figure.png"]


def test_a_figure_that_fails_leaves_the_older_one_whole(tmp_path, monkeypatch):
    path = tmp_path / "figure.png"
    draw_curves(path, [Panel("Quadratics", [_row("adam")])])
    before = path.read_bytes()

    def disk_full(self, file, **named):
        file.write_bytes(b"\x89PNG")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", disk_full)
    with pytest.raises(OSError, match="No space left on device"):
        draw_curves(path, [Panel("Quadratics", [_row("sgd")])])
    assert path.read_bytes() == before


def test_losses_are_drawn_against_the_step_on_a_logarithmic_axis(drawn):
    axes = drawn([_row("adam", [4.0, 2.0, 1.0])])
    assert axes.get_yscale() == "log"
    assert axes.get_xscale() == "linear"
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == (
        "step",
        "loss",
        "Quadratics",
    )
    (line,) = axes.get_lines()
    np.testing.assert_array_equal(line.get_xdata(), [0, 1, 2])
    np.testing.assert_array_equal(line.get_ydata(), [4.0, 2.0, 1.0])


def test_of_many_steps_means_of_neighbours_are_drawn(drawn):
    # 10 and 30 in turn, on a slope.
    curve = 20 + 10 * (-1.0) ** np.arange(1000) + np.arange(1000) / 1000
    (line,) = drawn([_row("adam", curve)]).get_lines()
    np.testing.assert_allclose(line.get_xdata(), np.arange(4.5, 1000, 10))
    np.testing.assert_allclose(line.get_ydata(), 20 + np.arange(4.5, 1000, 10) / 1000)
    (line,) = drawn([_row("adam", curve[:500])]).get_lines()
    np.testing.assert_array_equal(line.get_ydata(), curve[:500])


def test_the_legend_names_rules_and_the_rates_of_tuned_ones(drawn):
    axes = drawn([_row("mine", learned=True), _row("adam")])
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["mine", "adam, rate 0.0316"]


def test_lines_of_baselines_are_told_apart_by_dashes_too(drawn):
    lines = drawn([*map(_row, BASELINES)]).get_lines()
    assert len({str(line._dash_pattern) for line in lines}) == len(BASELINES)


@pytest.mark.parametrize(
    "curve",
    [[4.0, math.inf, math.inf], [math.inf] * 3, [math.nan] * 3, [4.0, 0.0, -1.0]],
)
def test_a_curve_that_a_logarithmic_axis_can_not_show_does_not_fail(drawn, curve):
    axes = drawn([_row("adam"), _row("sgd", curve)])
    _, line = axes.get_lines()
    expected = [loss if math.isfinite(loss) else math.nan for loss in curve]
    np.testing.assert_array_equal(line.get_ydata(), expected)


def test_rules_that_all_diverged_make_an_empty_figure(drawn):
    drawn([_row("adam", [math.inf] * 3)])


def test_a_baseline_has_the_same_colour_in_every_figure(drawn):
    alone = {name: _colours(drawn([_row(name)]))[0] for name in BASELINES}
    together = _colours(drawn([_row("mine", learned=True), *map(_row, reversed(BASELINES))]))
    assert together[1:] == [alone[name] for name in reversed(BASELINES)]
    assert len(set(together)) == 1 + len(BASELINES)


def test_learned_rules_have_colours_of_their_own(drawn):
    rows = [_row(f"rule {index}", learned=True) for index in range(4)]
    colours = _colours(drawn([*rows, *map(_row, BASELINES)]))
    assert len(set(colours)) == 4 + len(BASELINES)


def test_there_may_be_more_learned_rules_than_colours(drawn):
    drawn([_row(f"rule {index}", learned=True) for index in range(9)])


def test_a_baseline_without_a_colour_is_drawn_too(drawn):
    colours = _colours(drawn([_row("lion"), *map(_row, BASELINES)]))
    assert colours[0] not in colours[1:]


def test_learned_rules_are_thicker_than_baselines(drawn):
    learned, baseline = drawn([_row("mine", learned=True), _row("adam")]).get_lines()
    assert learned.get_linewidth() > baseline.get_linewidth()


def test_references_are_drawn_thin_in_the_colours_of_their_rules(drawn):
    references = [
        ReferenceCurve("adam", [0, 50, 100], [3.0, 2.0, 1.5]),
        ReferenceCurve("lstm", [1, 50, 100], [3.0, 1.0, 0.5]),
    ]
    axes = drawn([_row("mine", learned=True), _row("adam")], references)
    adam, lstm, own_lstm, own_adam, _ = axes.get_lines()
    np.testing.assert_array_equal(adam.get_xdata(), [0, 50, 100])
    np.testing.assert_array_equal(adam.get_ydata(), [3.0, 2.0, 1.5])
    np.testing.assert_array_equal(lstm.get_xdata(), [1, 50, 100])
    assert adam.get_color() == own_adam.get_color()
    assert lstm.get_color() == own_lstm.get_color()
    assert max(adam.get_linewidth(), lstm.get_linewidth()) < own_adam.get_linewidth()
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["mine", "adam, rate 0.0316", "thin: Andrychowicz et al. 2016"]


def test_a_reference_can_have_the_colour_of_a_rule_of_ours_that_it_names(drawn):
    references = [
        ReferenceCurve("lstm", [0], [3.0], ours="second"),
        # The figure has no such rule, so it keeps its own colour.
        ReferenceCurve("lstm", [0], [3.0], ours="third"),
    ]
    rows = [_row("first", learned=True), _row("second", learned=True)]
    colours = _colours(drawn(rows, references))
    assert colours[:2] == colours[3:1:-1]


def test_without_references_the_legend_does_not_speak_of_any(drawn):
    labels = [text.get_text() for text in drawn([_row("adam")]).get_legend().get_texts()]
    assert labels == ["adam, rate 0.0316"]


def test_drawing_leaves_the_rows_as_they_were(drawn):
    row = _row("sgd", [4.0, math.inf])
    drawn([row])
    assert row == _row("sgd", [4.0, math.inf])


# Several panels


def test_panels_stand_side_by_side_each_with_its_own_curves(figures, tmp_path):
    panels = [Panel("left", [_row("sgd")]), Panel("right", [_row("adam"), _row("nag")])]
    draw_curves(tmp_path / "figure.png", panels)
    left, right = figures[0].axes
    assert (left.get_title(), right.get_title()) == ("left", "right")
    assert [len(axes.get_lines()) for axes in (left, right)] == [1, 2]
    assert left.get_position().x1 <= right.get_position().x0


def test_a_panel_can_begin_at_a_later_step(figures, tmp_path):
    reference = ReferenceCurve("adam", [0, 1, 2, 3], [8.0, 4.0, 3.0, 2.0])
    row = _row("adam", [4.0, 3.0, 2.0, 1.0])
    draw_curves(tmp_path / "figure.png", [Panel("late", [row], [reference], first_step=2)])
    thin, own, _ = figures[0].axes[0].get_lines()
    np.testing.assert_array_equal(thin.get_xydata(), [[2, 3.0], [3, 2.0]])
    np.testing.assert_array_equal(own.get_xydata(), [[2, 2.0], [3, 1.0]])


def test_a_curve_that_comes_from_a_file_has_null_where_it_diverged(drawn):
    (line,) = drawn([_row("adam", [4.0, None, None])]).get_lines()
    np.testing.assert_array_equal(line.get_ydata(), [4.0, math.nan, math.nan])


# Legends


def _rows(num_learned: int, rate: float = 0.1, ending: str = "") -> list[dict]:
    """Rows of some learned rules and all baselines, with long labels."""
    learned = [_row(f"cifar_lstm_sub_{index}", learned=True) for index in range(num_learned)]
    baselines = [_row(name + ending, learning_rate=rate) for name in BASELINES]
    return [*learned, *baselines]


REFERENCES = [ReferenceCurve("adam", [0, 1], [2.0, 1.0])]


@pytest.mark.parametrize("ending", ["", ", momentum 0.95"])
@pytest.mark.parametrize("num_panels", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_legends_lie_below_panels_of_different_rates(figures, tmp_path, num_panels, ending):
    panels = [
        Panel(str(index), _rows(4, 0.012345 * (1 + index), ending), REFERENCES)
        for index in range(num_panels)
    ]
    draw_curves(tmp_path / "figure.png", panels)
    (figure,) = figures
    assert figure.legends == []
    check_legends_below(figure)
    for axes in figure.axes:
        legend, panel, label = map(extent, (axes.get_legend(), axes, axes.xaxis.label))
        assert legend.y1 <= label.y0 < panel.y0
        assert panel.height >= figure.bbox.height * 2 / 3
        assert panel.width >= figure.bbox.width / num_panels * 2 / 3


def test_panels_with_the_same_labels_share_a_legend_right_of_them(figures, tmp_path):
    panels = [Panel("left", _rows(2), REFERENCES), Panel("right", _rows(2)[::-1])]
    draw_curves(tmp_path / "figure.png", panels)
    (figure,) = figures
    (legend,) = figure.legends
    assert [axes.get_legend() for axes in figure.axes] == [None, None]
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == [
        "cifar_lstm_sub_0",
        "cifar_lstm_sub_1",
        *(f"{name}, rate 0.1" for name in BASELINES),
        "thin: Andrychowicz et al. 2016",
    ]
    left, right, shared = map(extent, (*figure.axes, legend))
    assert right.x1 <= shared.x0 < shared.x1 <= figure.bbox.width
    assert 0 <= shared.y0 < shared.y1 <= figure.bbox.height
    assert right.x1 - left.x0 >= figure.bbox.width * 2 / 3
    # Beside it, panels are as large as without it.
    assert left.width >= 0.75 * 4.8 * figure.dpi


def test_the_handles_of_a_shared_legend_have_the_styles_of_the_lines(figures, tmp_path):
    panels = [Panel("left", _rows(2)), Panel("right", _rows(2)[::-1])]
    draw_curves(tmp_path / "figure.png", panels)
    (legend,) = figures[0].legends
    shown = {
        text.get_text(): to_hex(handle.get_color())
        for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=True)
    }
    for axes in figures[0].axes:
        assert shown == {line.get_label(): to_hex(line.get_color()) for line in axes.get_lines()}


def test_a_learned_rule_keeps_its_colour_from_panel_to_panel(figures, tmp_path):
    one, two = _row("one", learned=True), _row("two", learned=True)
    panels = [Panel("left", [one]), Panel("middle", [two, one]), Panel("right", [two])]
    draw_curves(tmp_path / "figure.png", panels)
    left, middle, right = map(_colours, figures[0].axes)
    assert middle == [right[0], left[0]]
    assert right != left


# Widths


def _final(rule: str, final_loss: float | None, learned: bool = False) -> dict:
    return {"rule": rule, "learned": learned, "final_loss": final_loss}


def test_final_losses_are_drawn_against_widths_on_a_logarithmic_axis(figures, tmp_path):
    rows = {
        5: [_final("mine", 0.5, True), _final("yours", 0.6, True), _final("adam", 0.9)],
        10: [_final("mine", 0.4, True), _final("yours", None, True), _final("adam", 0.8)],
    }
    reference = ReferenceCurve("lstm", [5, 10, 15], [0.6, 0.5, 0.4])
    draw_widths(tmp_path / "figure.png", [WidthPanel("one", rows, [reference])])
    (axes,) = figures[0].axes
    assert axes.get_yscale() == "log"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("hidden units of a layer", "final loss")
    thin, mine, yours, adam, _ = axes.get_lines()
    np.testing.assert_array_equal(thin.get_xydata(), [[5, 0.6], [10, 0.5], [15, 0.4]])
    np.testing.assert_array_equal(mine.get_xydata(), [[5, 0.5], [10, 0.4]])
    np.testing.assert_array_equal(yours.get_xydata(), [[5, 0.6], [10, math.nan]])
    np.testing.assert_array_equal(adam.get_xydata(), [[5, 0.9], [10, 0.8]])
    assert len({mine.get_color(), yours.get_color(), adam.get_color()}) == 3
    assert thin.get_color() == mine.get_color()
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["mine", "yours", "adam", "thin: Andrychowicz et al. 2016"]


def test_an_axis_says_what_the_curves_are_of(figures, tmp_path):
    draw_curves(tmp_path / "figure.png", [Panel("", [_row("sgd")])], "epoch", "ratio")
    (axes,) = figures[0].axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "ratio")


def test_pictures_stand_in_rows_under_the_headings_of_their_columns(figures, tmp_path):
    rows = [
        [np.full((4, 5, 3), 10 * row + column, np.uint8) for column in range(3)] for row in (0, 1)
    ]
    draw_pictures(tmp_path / "made" / "pictures.png", ["content", "lstm", "style"], rows)
    grid = figures[0].axes
    assert [axes.get_title() for axes in grid] == ["content", "lstm", "style", "", "", ""]
    shown = [np.asarray(axes.get_images()[0].get_array()) for axes in grid]
    np.testing.assert_array_equal(shown, [picture for row in rows for picture in row])
    assert (tmp_path / "made" / "pictures.png").exists()
