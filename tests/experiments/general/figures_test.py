import math

import matplotlib.image

from experiments.general.figures import draw_losses, draw_profile, profile
from experiments.general.scores import results_of
from tests.experiments.general.made_up import made_up_run, tuned_runs

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
