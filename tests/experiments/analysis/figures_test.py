import pytest

from experiments.analysis.figures import draw_all
from experiments.analysis.findings import probe
from l2l_tf.rules import SGD
from tests.analysis.made_up import made_record
from tests.drawn_figures import check_legends_below, extent, keep_saved_figures


@pytest.mark.slow
def test_legends_cover_nothing(tmp_path, monkeypatch):
    figures = keep_saved_figures(monkeypatch)
    rule = SGD(0.05, momentum=0.9)
    found = probe("momentum on noise", "momentum", "noise", rule, made_record(rule, num_steps=100))
    names = draw_all(tmp_path, [found] * 4)
    assert len(figures) == len(names) > 0
    num_legends = 0
    for figure in figures:
        check_legends_below(figure)
        panels = [axes for axes in figure.axes if axes.get_legend()]
        num_legends += len(panels)
        # There are two rows of panels.
        assert all(extent(axes).height >= figure.bbox.height / 2 * 0.6 for axes in panels)
    assert num_legends >= 4 * 8
