import json

import pytest
import tensorflow as tf
from absl.testing import flagsaver

from experiments.harness import tuned_rates
from experiments.harness.baselines import make_baseline, with_momentum
from l2l_tf.evaluation import evaluate
from l2l_tf.problems import Quadratic, task_seeds
from l2l_tf.rules import SGD
from tests.rules.run_rule import run_rule

NUM_STEPS = 8


@pytest.fixture
def tune(tmp_path):
    """A function that tunes baselines on quadratics, with flags, and returns file and searches."""

    def tune_with(**flags):
        tuned_rates.FLAGS.mark_as_parsed()
        file = tmp_path / "rates.jsonl"
        with flagsaver.flagsaver(
            num_steps=NUM_STEPS, num_tuning_tasks=2, tuned_rates=str(file), **flags
        ):
            searches = tuned_rates.tune_baselines(Quadratic())
        return [json.loads(line) for line in file.read_text().splitlines()], searches

    return tune_with


def test_the_momentum_is_kept_whose_loss_at_its_best_rate_is_lowest(tune):
    flags = {"baselines": ["nag", "sgd"], "momenta": ["0.5", "0.99", "0.85"]}
    lines, searches = tune(first_rates=["nag:0.02", "sgd:0.1"], **flags)
    names = ["nag, momentum 0.5", "nag, momentum 0.99", "nag, momentum 0.85", "sgd"]
    assert [line["baseline"] for line in lines] == names
    losses = {line["baseline"]: min(line["final_losses"]) for line in lines[:3]}
    # Neither the first nor the last.
    assert min(losses, key=losses.get) == names[1]
    assert list(searches) == [names[1], "sgd"]
    # The loss is that of the rule of this name, on the tuning tasks.
    name, search = next(iter(searches.items()))
    seeds = task_seeds(0, "tuning", 0, 2)
    evaluation = evaluate(make_baseline(name)(search.best), Quadratic(), seeds, NUM_STEPS)
    assert evaluation.final_loss == pytest.approx(search.best_loss, rel=1e-5)


def test_a_search_with_another_momentum_begins_at_a_rate_of_equal_speed(tune):
    with flagsaver.flagsaver(tuning="halving"):
        lines, _ = tune(baselines=["nag"], momenta=["0.99"], first_rates=["nag:0.1"])
    # 0.1 (1 - 0.99) / (1 - 0.9); a search by halving would have run all rates.
    assert 0.01 in lines[0]["learning_rates"]
    assert len(lines[0]["learning_rates"]) < 10


def test_searches_that_the_file_holds_are_not_done_again(tune):
    flags = {"baselines": ["momentum"], "first_rates": ["momentum:0.02"]}
    before, _ = tune(momenta=["0.9"], **flags)
    after, _ = tune(momenta=["0.9", "0.95"], **flags)
    assert before == after[:1]
    assert [line["baseline"] for line in after] == ["momentum", "momentum, momentum 0.95"]


@pytest.mark.parametrize("momenta", [["0.9", "1"], ["fast"], []])
def test_wrong_momenta_are_refused(tune, momenta):
    message = r"^--momenta must be numbers between 0 and 1\. Received: --momenta="
    with pytest.raises(ValueError, match=message + ",".join(momenta) + r"\. Give, say,"):
        tune(baselines=["nag"], momenta=momenta)


def test_a_name_with_a_momentum_stands_for_that_momentum():
    gradients = tf.random.stateless_normal([5, 3], [1, 2]).numpy()
    for momentum in (0.9, 0.98):
        for name, nesterov in (("nag", True), ("momentum", False)):
            rule = make_baseline(with_momentum(name, momentum))(0.1)
            expected = run_rule(SGD(0.1, momentum, nesterov=nesterov), gradients)
            assert run_rule(rule, gradients) == pytest.approx(expected, rel=1e-5)
    tuned_rates.FLAGS.mark_as_parsed()
    assert make_baseline("nag_cosine, momentum 0.98")(0.1).momentum == 0.98
    assert with_momentum("nag", 0.9) == "nag"
    assert with_momentum("adam", 0.98) == "adam"


@pytest.mark.parametrize("name", ["adamw_cosine", "muon_cosine", "nag_cosine"])
def test_a_scheduled_baseline_rises_and_falls_over_the_horizon(name):
    tuned_rates.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(num_steps=100):
        rule = make_baseline(name)(0.1)
    rates = [float(rule.learning_rate * rule.schedule(step)) for step in range(101)]
    assert max(rates) == pytest.approx(0.1)
    assert rates.index(max(rates)) == 5
    assert rates[0] == pytest.approx(0.02)
    assert rates[100] == pytest.approx(0, abs=1e-6)
