import dataclasses

import matplotlib.image
import numpy as np
import pytest

from experiments.analysis import report as report_module
from experiments.analysis.findings import numbers, probe
from experiments.analysis.problems import PROBLEMS, own_problem
from experiments.analysis.report import report, sentences
from l2l_tf.analysis import Adaptation
from l2l_tf.delivery import list_rules, load_card
from l2l_tf.rules import SGD, GeneralRule
from tests.analysis.made_up import made_record
from tests.experiments.binaries import refusals, run, strict_json

FIGURES = (
    *("gradients", "update_function", "impulse_response", "autonomous_response"),
    *(
        "effective_rate",
        "saturation",
        "adaptation",
        "noise_response",
        "fixed_points",
        "state_space",
        "attribution",
    ),
)


def _numbers_of_momentum():
    rule = SGD(0.05, momentum=0.9)
    return numbers(probe("momentum", "momentum", "noise", rule, made_record(rule, num_steps=100)))


def test_a_report_states_what_is_known_of_momentum():
    of_momentum = _numbers_of_momentum()
    told = "\n".join(sentences(of_momentum))
    assert "It is nearly momentum of rate 0.05, which explains 1.00" in told
    assert "hidden/kernel 0.05 to 0.05; hidden/bias 0.05 to 0.05" in told
    assert "Those that explain most alone: momentum 1.00" in told
    assert "nowhere in step 0 (0% of gradients are beyond)" in told
    assert "half of the movement is done after 7 steps" in told
    # Its mean delay over 40 steps is less than 9.
    assert "(as that of momentum 0.90 over 40 steps)" in told
    assert "depends on the gradient's size everywhere" in told
    assert "it climbs" not in told
    # Momentum adds noise up: 0.05 / (1 - 0.9^2)^0.5. A sample of 64.
    sizes = of_momentum["noise"]["sizes"]
    assert [sizes[0][0], sizes[-1][0]] == pytest.approx([0.05, 0.115], rel=0.3)
    assert "where the mean is 3" in told
    assert "1 of the state without gradients, 0 starts lost" in told
    assert "is stable (largest eigenvalue 0.900)" in told
    # The rate is per usual gradient. Optimal for l to L: (1 -+ 0.9^0.5)^2 / 0.05.
    (point,) = of_momentum["fixed_points"]["points"]
    assert f"momentum 0.900, rate {0.05 * point['unit']:.2g} per usual gradient" in told
    assert "(the optimal heavy ball of curvatures 0.053 to 76)" in told
    text = report(
        {"findings": {"momentum": of_momentum}, "num_steps": 100, "command": "python -m x"}
    )
    assert "| momentum | 0 to 0 |" in text
    assert "| 1.00, rate 0.05 |" in text


def test_ranges_without_a_scale_and_what_climbs_are_named():
    sizes = np.geomspace(1e-2, 1e2, 5)
    deltas = np.array([[-0.1, -0.1, -0.5, 0.02, 0.02]])[..., np.newaxis]
    found = Adaptation(sizes, deltas, -np.abs(deltas))
    of_rule = {
        "sizes": sizes.tolist(),
        "settled": found.settled[:, 0].tolist(),
        "settled_of_negative": found.settled_of_negative[:, 0].tolist(),
        "exponents": [one if np.isfinite(one) else None for one in found.exponents[:, 0].tolist()],
        "schedule": [1.0],
    }
    told = report_module._adaptation({"adaptation": of_rule})
    assert (
        "hardly depends on the gradient's size from 1e-02 to 1e-01 and from 1e+01 to 1e+02" in told
    )
    # Two positive gradients, and all five negative ones.
    assert "At 7 of 10 gradients, positive 1e+01 the first, it climbs." in told


def test_of_a_rule_that_looks_at_whole_tensors_less_is_said():
    record = dataclasses.replace(made_record(SGD(0.05)), states=None)
    of_rule = numbers(probe("general", "general", "noise", GeneralRule(seed=0), record))
    assert "impulse" not in of_rule
    assert "The rule looks at whole tensors" in sentences(of_rule)[-1]


def test_it_is_known_on_which_problem_each_rule_of_the_package_was_trained():
    own = {name: own_problem(load_card(rule.path)) for name, rule in list_rules().items()}
    assert own["mnist_lstm"] == own["mnist_rnnprop"] == "mnist"
    assert own["cifar_lstm"] == "cifar"
    assert (own["quadratic_lstm"], own["style_lstm"]) == ("quadratic", "style")
    assert set(own.values()) <= set(PROBLEMS)
    with pytest.raises(ValueError, match="which was trained on 'toys'"):
        own_problem({"name": "mine", "training": {"problem": "toys"}})


@pytest.mark.slow
def test_rules_are_analysed_on_problems(tmp_path):
    printed = run(
        "analysis",
        f"--output_dir={tmp_path}",
        "--rule=quadratic_lstm",
        "--problem=own",
        "--num_steps=12",
        "--num_coordinates=6",
    )
    found = strict_json(tmp_path / "analysis.json")["findings"]
    assert list(found) == ["quadratic_lstm on quadratic"]
    for label, one in found.items():
        assert one["last_losses"] < one["first_loss"]
        assert f"## {label}" in printed
    assert (tmp_path / "report.md").read_text() in printed
    for name in FIGURES:
        assert np.ptp(matplotlib.image.imread(tmp_path / f"{name}.png")) > 0
    folders = {name: tmp_path for name in ("nothing", "unknown")}
    arguments = {
        "nothing": ["--output_dir=@/out"],
        "unknown": ["--output_dir=@/out", "--rule=general", "--problem=toys"],
    }
    refused = refusals("analysis", folders, arguments)
    assert refused["nothing"].errors == (
        "error: --rule must name one or more rules to analyse. Received: --rule=. Name, say, "
        "mnist_rnnprop."
    )
    assert refused["unknown"].errors.startswith("error: --problem must be among ['cifar', ")
    assert "Received: toys. Name one of them" in refused["unknown"].errors
