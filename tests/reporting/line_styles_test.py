import itertools

import numpy as np
import pytest

from l2l_tf.reporting.line_styles import (
    hand_designed_style,
    learned_style,
    line_styles,
    published_style,
)
from l2l_tf.rules.hand_designed import BASELINES
from tests.reference.colours import lab, lightness, linear_rgb, luma

# Differences of CIE L*, of 100, at which two areas are clearly of two greys. Light lines are more,
# and have dashes besides.
LEARNED_DIFFERENCE = 12
HAND_DESIGNED_DIFFERENCE = 8
# The same of luma, of 255, by which software turns a picture grey.
LUMA_DIFFERENCE = 20
# Of light and heavy lines, in points.
WIDTH_DIFFERENCE = 0.8
OTHERS = ("lion", "muon", "adagrad", "adamw")
# Machado, Oliveira and Fernandes 2009 (doi:10.1109/TVCG.2009.113), severity 1.0, on linear RGB.
BLINDNESS = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
LEARNED = [learned_style(index) for index in range(4)]
NAMED = [hand_designed_style(rule) for rule in BASELINES]
OTHER = [hand_designed_style(rule, index) for index, rule in enumerate(OTHERS)]


def _lightness(style) -> float:
    return lightness(style["color"])


def _luma(style) -> float:
    return luma(style["color"])


def _least_difference(values) -> float:
    return min(np.diff(sorted(values)))


def test_the_lightness_of_known_colours():
    assert lightness("#ffffff") == pytest.approx(100)
    assert lightness("#000000") == pytest.approx(0)
    # Of pure red, colour calculators give 53.24.
    assert lightness("#ff0000") == pytest.approx(53.24, abs=0.01)


def test_learned_rules_differ_in_grey():
    assert _least_difference(map(_lightness, LEARNED)) >= LEARNED_DIFFERENCE
    assert _least_difference(map(_luma, LEARNED)) >= LUMA_DIFFERENCE


def test_hand_designed_rules_differ_in_grey():
    styles = [*NAMED, OTHER[0]]
    assert _least_difference(map(_lightness, styles)) >= HAND_DESIGNED_DIFFERENCE
    assert _least_difference(map(_luma, styles)) >= LUMA_DIFFERENCE


@pytest.mark.parametrize("style", [*LEARNED, *NAMED, *OTHER])
def test_every_line_stands_out_from_white_paper(style):
    assert _lightness(style) <= 80


def test_lines_of_similar_lightness_differ_in_dashes_or_width():
    for one, other in itertools.combinations([*LEARNED, *NAMED, *OTHER], 2):
        if abs(_lightness(one) - _lightness(other)) < LEARNED_DIFFERENCE:
            differs = abs(one["linewidth"] - other["linewidth"]) >= WIDTH_DIFFERENCE
            assert differs or one["linestyle"] != other["linestyle"]


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_colour_blind_readers_see_different_colours(blindness):
    seen = [
        lab(np.clip(np.array(BLINDNESS[blindness]) @ linear_rgb(style["color"]), 0, 1))
        for style in (*LEARNED, *NAMED, OTHER[0])
    ]
    # A difference of 2.3 is just noticed between large areas (Mahy et al. 1994); lines need more.
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) >= 10


def test_learned_rules_are_heavy_and_solid():
    assert {style["linestyle"] for style in LEARNED} == {"-"}
    heaviest = max(style["linewidth"] for style in (*NAMED, *OTHER))
    assert min(style["linewidth"] for style in LEARNED) >= heaviest + WIDTH_DIFFERENCE


def test_no_two_of_twelve_learned_rules_look_alike():
    assert len({str(learned_style(index)) for index in range(12)}) == 12


def test_a_momentum_does_not_change_how_a_rule_looks():
    assert hand_designed_style("nag, momentum 0.95") == hand_designed_style("nag")
    # It does not count as one of those without a style of their own.
    styles = line_styles([("nag, momentum 0.95", False), ("lion", False)])
    assert styles["lion", False] == hand_designed_style("lion", 0)


def test_a_figure_gives_each_of_its_rules_one_style():
    rules = [("mine", True), ("lion", False), ("adam", False), ("mine", True), ("muon", False)]
    styles = line_styles([*rules, ("yours", True), ("adam", True)])
    assert styles == {
        ("mine", True): learned_style(0),
        ("lion", False): hand_designed_style("lion", 0),
        ("adam", False): hand_designed_style("adam"),
        ("muon", False): hand_designed_style("muon", 1),
        ("yours", True): learned_style(1),
        ("adam", True): learned_style(2),
    }


@pytest.mark.parametrize(
    ("rule", "ours"),
    [
        ("lstm", learned_style(0)),
        ("lstm-sub", learned_style(1)),
        ("nag", hand_designed_style("nag")),
        ("lion", hand_designed_style("lion")),
    ],
)
def test_a_published_curve_is_thin_in_its_rules_colour(rule, ours):
    style = published_style(rule)
    assert style["color"] == ours["color"]
    assert style["linewidth"] <= ours["linewidth"] / 1.5
    assert style.get("linestyle", "-") == "-"
