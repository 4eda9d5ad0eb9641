"""The baselines' learning rates: searched, or read from the file of an earlier search."""

import functools
import math
from collections.abc import Callable, Collection
from typing import Any

import keras
from absl import flags

from experiments.harness.baselines import (
    BASELINE_NAMES,
    USUAL_MOMENTUM,
    kind_and_momentum,
    make_baseline,
    with_momentum,
)
from experiments.harness.common import FLAGS
from experiments.harness.json_lines import add_line, check_lines_file, identity, read_lines
from experiments.harness.path_flags import define_path
from l2l_tf.evaluation import Tuning, tune, tune_by_halving, tune_from
from l2l_tf.problems import Problem, task_seeds
from l2l_tf.rules import BASELINES

# The ways to search for rates.
SEARCHES = {"all": tune, "halving": tune_by_halving}

flags.DEFINE_list("baselines", sorted(BASELINES), "Hand-designed rules to tune and compare with.")
flags.DEFINE_integer(
    "num_tuning_tasks", 8, "Number of tasks that baselines' rates are chosen on.", 1
)
flags.DEFINE_enum(
    "tuning",
    "all",
    sorted(SEARCHES),
    "Whether all rates run to the end, or hopeless ones are dropped early (successive halving). "
    "The best rate's neighbours on the grid run to the end either way.",
)
flags.DEFINE_list(
    "first_rates",
    [],
    "baseline:rate, such as adam:0.1: where that baseline's search begins, in place of the "
    "search that --tuning names. The search moves to the neighbour that is better at the end "
    "until none is, and moves down where the baseline diverges. Use it for costly problems "
    "where the best rate on a similar problem is known. A search that --tuned_rates holds is "
    "used as it is.",
)
flags.DEFINE_list(
    "momenta",
    [str(USUAL_MOMENTUM)],
    "momentum, nag, nag_cosine: momenta to try. Each has a search for its rate, and the momentum "
    "with the lowest loss on the tuning tasks is kept.",
)
define_path(
    "tuned_rates",
    None,
    "JSON Lines file of searches for baselines' rates. Searches in the file are not repeated; "
    "others are added to it.",
)


def chosen_baselines(known: Collection[str] = tuple(BASELINE_NAMES)) -> list[str]:
    """Returns the names that `--baselines` holds.

    Args:
        known: the names of an experiment's baselines.

    Raises:
        ValueError: one of them is unknown.
    """
    unknown = sorted(set(FLAGS.baselines) - set(known))
    if unknown:
        raise ValueError(
            f"--baselines must be among {sorted(known)}. Received: {unknown}. "
            "Check the spelling, or leave the flag out."
        )
    return list(dict.fromkeys(FLAGS.baselines))


def first_rates() -> dict[str, float]:
    """Returns the rates that `--first_rates` names, by baseline.

    Raises:
        ValueError: an entry is not a baseline's name and a positive number, or a baseline occurs
            twice.
    """
    rates: dict[str, float] = {}
    for entry in FLAGS.first_rates:
        name, _, number = entry.partition(":")
        try:
            rate = float(number)
        except ValueError:
            rate = math.nan
        if name not in BASELINE_NAMES or name in rates or not 0 < rate < math.inf:
            raise ValueError(
                f"--first_rates must be different ones of {BASELINE_NAMES}, each with a "
                f"positive, finite rate. Received: --first_rates={','.join(FLAGS.first_rates)}. "
                "Give, say, adam:0.1,nag:0.03."
            )
        rates[name] = rate
    return rates


def with_momenta(baseline: str) -> list[str]:
    """Returns a baseline's name with each momentum of `--momenta`, or its name if it has none.

    Raises:
        ValueError: `--momenta` are not numbers between 0 and 1.
    """
    try:
        momenta = [float(momentum) for momentum in FLAGS.momenta]
    except ValueError:
        momenta = []
    if not momenta or not all(0 < momentum < 1 for momentum in momenta):
        raise ValueError(
            "--momenta must be numbers between 0 and 1. "
            f"Received: --momenta={','.join(FLAGS.momenta)}. Give, say, --momenta=0.9,0.95,0.98."
        )
    return list(dict.fromkeys(with_momentum(baseline, momentum) for momentum in momenta))


def refuse_momenta(reason: str) -> None:
    """Checks that no other momenta are asked for than the usual one.

    Args:
        reason: why there can be none, as a clause after "since".

    Raises:
        ValueError: there are some.
    """
    if FLAGS.momenta != FLAGS["momenta"].default:
        raise ValueError(
            f"--momenta must be {USUAL_MOMENTUM}, since {reason}. "
            f"Received: --momenta={','.join(FLAGS.momenta)}. Leave it out."
        )


def tune_baselines(problem: Problem) -> dict[str, Tuning]:
    """Returns, by name, the searches for the rates of the chosen baselines.

    Where several momenta are tried, the name and the search are those of the best one.

    Args:
        problem: the problem that rates are chosen on.

    Raises:
        ValueError: a baseline is unknown, a first rate or a momentum is invalid, or `--tuned_rates`
            is no file of searches.
    """
    baselines = chosen_baselines()
    known = check_searches(problem)
    what = identity(problem, FLAGS.num_tuning_tasks)
    seeds = task_seeds(FLAGS.seed, "tuning", 0, FLAGS.num_tuning_tasks)
    progress = keras.utils.Progbar(len(baselines), unit_name="baseline")
    tunings = {}
    for index, baseline in enumerate(baselines):
        searches = {}
        for name in with_momenta(baseline):
            if name in known:
                searches[name] = known[name]
            else:
                searches[name] = _search(name)(make_baseline(name), problem, seeds, FLAGS.num_steps)
                _add_search({"baseline": name, **what}, searches[name])
        best = min(searches, key=lambda name: searches[name].best_loss)
        tunings[best] = searches[best]
        progress.update(index + 1)
    return tunings


def check_searches(problem: Problem) -> dict[str, Tuning]:
    """Returns, by name, the searches for the chosen baselines that `--tuned_rates` holds.

    If there are others to add, checks that the file can be written.

    Args:
        problem: the problem that rates are chosen on.

    Raises:
        ValueError: a baseline is unknown, a momentum is invalid, or the file holds something else
            or can't be written.
    """
    what = identity(problem, FLAGS.num_tuning_tasks)
    known = {
        search["baseline"]: _tuning(search)
        # If there are several, take the first.
        for search in reversed(known_searches())
        if what.items() <= search.items()
    }
    needed = {name for baseline in chosen_baselines() for name in with_momenta(baseline)}
    if not known.keys() >= needed:
        check_lines_file("tuned_rates")
    return known


def known_searches() -> list[dict[str, Any]]:
    """Returns the searches in the file that `--tuned_rates` names.

    Raises:
        ValueError: it holds something other than searches.
    """
    return read_lines("tuned_rates", "searches", _tuning)


def _search(name: str) -> Callable[..., Tuning]:
    kind, momentum = kind_and_momentum(name)
    first = first_rates()
    if kind in first:
        # Steps along a constant gradient are then as long as with the usual momentum.
        rate = first[kind] * (1 - momentum) / (1 - USUAL_MOMENTUM)
        return functools.partial(tune_from, first_rate=rate)
    return SEARCHES[FLAGS.tuning]


def _tuning(search: dict[str, Any]) -> Tuning:
    losses = [float("inf") if loss is None else float(loss) for loss in search["final_losses"]]
    rates = [float(rate) for rate in search["learning_rates"]]
    steps = [int(count) for count in search.get("num_steps_of_rates", [])]
    # Without these entries, all rates ran to the end.
    to_the_end = [count == search["num_steps"] for count in steps] or [True] * len(rates)
    runs = zip(losses, rates, to_the_end, strict=True)
    _, best = min((loss, rate) for loss, rate, is_complete in runs if is_complete)
    return Tuning(best, tuple(rates), tuple(losses), tuple(steps))


def _add_search(what: dict[str, Any], tuning: Tuning) -> None:
    search = {
        **what,
        "learning_rates": tuning.candidates,
        "final_losses": tuning.losses,
        **({"num_steps_of_rates": tuning.num_steps} if tuning.num_steps else {}),
    }
    add_line("tuned_rates", search)
