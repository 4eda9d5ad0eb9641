import itertools
import math

import matplotlib.image
from matplotlib.colors import to_hex

from experiments.general.figures import draw_losses, draw_profile, profile
from experiments.general.scores import results_of
from experiments.harness.keras_optimizers import BASELINES
from tests.drawn_figures import check_legends_below, extent, keep_saved_figures
from tests.experiments.general.made_up import made_up_run, tuned_runs
from tests.reference.colours import lightness

LOSSES = {
    "one": {"adam": 2.0, "mine": 1.0},
    "two": {"adam": 3.0, "mine": 4.5},
    "three": {"adam": 1.0, "mine": math.inf},
    "four": {"adam": 1.0},
}


def test_a_profile_counts_the_tasks_within_each_factor():
    # Factors of mine are 1, 1.5 and infinity, on three tasks.
    assert profile(LOSSES, "mine") == ([1.0, 1.5, 4.0], [1 / 3, 2 / 3, 2 / 3])
    # Factors of adam are 2, 1, 1 and 1.
    assert profile(LOSSES, "adam") == ([1.0, 2.0, 4.0], [3 / 4, 1.0, 1.0])


def test_a_profile_and_losses_are_drawn(tmp_path):
    draw_profile(tmp_path / "profile.png", LOSSES, "Four tasks")
    assert matplotlib.image.imread(tmp_path / "profile.png").shape[2] == 4
    runs = [
        made_up_run("one", "mine", None, 0, [2.0, math.inf]),
        *tuned_runs("one", "muon_cosine", [2.0, 1.0]),
    ]
    table, _ = results_of(runs, ["one"], num_seeds=1)
    draw_losses(tmp_path / "losses.png", table, "One task")
    height, width, _ = matplotlib.image.imread(tmp_path / "losses.png").shape
    assert width > height


NAMES = ("general", "general_untrained", *BASELINES)


def test_lines_of_a_profile_differ_in_grey_and_its_legend_covers_none(tmp_path, monkeypatch):
    figures = keep_saved_figures(monkeypatch)
    losses = {"one": {name: 1.0 + index / 10 for index, name in enumerate(NAMES)}}
    draw_profile(tmp_path / "profile.png", losses, "One task")
    (axes,) = figures[0].axes
    check_legends_below(figures[0])
    assert extent(axes).height >= figures[0].bbox.height * 2 / 3
    lines = axes.get_lines()
    assert [line.get_label() for line in lines] == list(NAMES)
    for one, other in itertools.combinations(lines, 2):
        # Points of CIE L*, as between colours of one figure of `l2l_tf.reporting.figures`.
        if abs(lightness(to_hex(one.get_color())) - lightness(to_hex(other.get_color()))) < 12:
            differs = abs(one.get_linewidth() - other.get_linewidth()) > 0.8
            assert differs or str(one._dash_pattern) != str(other._dash_pattern)
    heaviest = max(line.get_linewidth() for line in lines[2:])
    assert min(line.get_linewidth() for line in lines[:2]) > heaviest
