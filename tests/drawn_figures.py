"""Figures that were saved, and where their parts lie."""

import pytest
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox


def keep_saved_figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Returns a list to which every figure that is saved from now on is added."""
    figures: list[Figure] = []
    savefig = Figure.savefig

    def keep(self, *arguments, **named):
        figures.append(self)
        savefig(self, *arguments, **named)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def extent(part: Artist) -> Bbox:
    """Returns where a part of a saved figure lies, in pixels."""
    return part.get_window_extent(FigureCanvasAgg(part.get_figure()).get_renderer())


def check_legends_below(figure: Figure) -> None:
    """Fails unless each legend lies below its axes, within the figure, apart from all else."""
    tight = [
        axes.get_tightbbox(
            FigureCanvasAgg(figure).get_renderer(),
            bbox_extra_artists=[
                *axes.get_lines(),
                *(axes.xaxis, axes.yaxis, axes.title),
            ],
        )
        for axes in figure.axes
    ]
    legends = [extent(axes.get_legend()) for axes in figure.axes if axes.get_legend()]
    for index, legend in enumerate(legends):
        assert figure.bbox.x0 <= legend.x0 < legend.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= legend.y0 < legend.y1 <= figure.bbox.y1
        others = [*tight, *legends[:index]]
        assert [other for other in others if Bbox.intersection(legend, other) is not None] == []
