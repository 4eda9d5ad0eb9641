"""The modes of `--mode`: meta-training, comparison, or both."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

from experiments.harness.common import FLAGS
from experiments.harness.comparison import Measure, check_card, compare, num_tasks_of
from experiments.harness.evaluated_baselines import check_rows, known_rows
from experiments.harness.learned_rules import chosen_rule, make_learned_rule
from experiments.harness.meta_training import meta_train
from experiments.harness.saved_rules import load_rules, untrained_rules
from experiments.harness.tuned_rates import (
    check_searches,
    chosen_baselines,
    first_rates,
    known_searches,
)
from l2l_tf.delivery import find_rule
from l2l_tf.problems import Problem
from l2l_tf.reporting.figures import ReferenceCurve


class Problems(NamedTuple):
    """The problems an experiment draws tasks from; one problem for all if draws never repeat.

    Attributes:
        train: the problem that rules are trained on.
        validation: the problem that rules' weights and, by default, baselines' learning rates are
            chosen on.
        tests: the problems that rules are compared on, one table each, by the name of the table.
        tuning: the problems that baselines' learning rates are chosen on, by the name of the table,
            where these differ from `validation` or between tables.
        measures: what to measure of each run besides losses, by the name of the table.
    """

    train: Problem
    validation: Problem
    tests: dict[str, Problem]
    tuning: Problem | Mapping[str, Problem] | None = None
    measures: Mapping[str, Measure] = {}


def train_and_evaluate(
    experiment: str,
    problems: Problems,
    strategy: tf.distribute.Strategy,
    title: str,
    references: Sequence[ReferenceCurve] = (),
) -> None:
    """Runs what `--mode` says and writes everything under `--output_dir`.

    Args:
        experiment: the binary's name; its rule is called `<experiment>_<learned_rule>`.
        problems: the problems that rules are trained, chosen and compared on.
        strategy: the devices on which rules are trained; they are compared on one.
        title: the figures' title.
        references: published curves, drawn behind ours.
    """
    trains = "train" in FLAGS.mode
    paths = find_rules(trains)
    output_dir = Path(FLAGS.output_dir)
    if "evaluate" in FLAGS.mode and strategy.extended.should_checkpoint:
        _check_places(problems, paths)
    if trains:
        meta_train(experiment, problems.train, problems.validation, strategy, output_dir)
    if not strategy.extended.should_checkpoint:
        return  # The chief writes the rest.
    own_rule = output_dir / "rule"
    if trains:
        paths.append(own_rule)
    if "evaluate" in FLAGS.mode:
        rules = load_rules(paths)
        compare(
            experiment,
            problems.tests,
            _tuning_problems(problems),
            rules,
            {
                name: path
                for name, path in zip(rules, paths, strict=True)
                if FLAGS.update_card or path == own_rule
            },
            output_dir,
            title,
            references,
            problems.measures,
        )


def _check_places(problems: Problems, paths: Sequence[Path]) -> None:
    """Checks, before hours are spent, that an evaluation can write everything it adds to files.

    Args:
        problems: the problems that rules are compared on.
        paths: the folders of the rules that exist already.
    """
    for path in paths:
        if FLAGS.update_card or path == Path(FLAGS.output_dir) / "rule":
            check_card(path)
    for problem in _tuning_problems(problems).values():
        check_searches(problem)
    for index, problem in enumerate(problems.tests.values()):
        check_rows(problem, num_tasks_of(index))


def _tuning_problems(problems: Problems) -> Mapping[str, Problem]:
    tuning = problems.tuning or problems.validation
    return tuning if isinstance(tuning, Mapping) else dict.fromkeys(problems.tests, tuning)


def find_rules(trains: bool) -> list[Path]:
    """Returns the folders of the saved rules to evaluate, without one that is trained first.

    Everything that can be wrong with an evaluation is checked here, before hours are spent.

    Args:
        trains: whether a rule is trained first. If not, and if `--rule` names none, the rule is the
            one in `--output_dir`.

    Raises:
        FileNotFoundError: a rule does not exist.
        ValueError: a rule can't be loaded, a baseline is unknown, a first rate is invalid, the
            flags describe no valid rule, `--initial_rule` is given where nothing is trained,
            `--tuned_rates` or `--evaluated_baselines` is a file of another kind, or both are the
            same file.
    """
    chosen_baselines()
    first_rates()
    known_searches()
    known_rows()
    _refuse_one_file_for_both()
    if trains:
        make_learned_rule()
    else:
        chosen_rule()
        _refuse_initial_rule()
    paths = [find_rule(rule) for rule in FLAGS.rule]
    load_rules(paths)
    untrained_rules()
    if trains or paths:
        return paths
    own_rule = Path(FLAGS.output_dir) / "rule"
    if not own_rule.exists():
        raise FileNotFoundError(
            "--output_dir must hold a trained rule where --rule names none. Received: "
            f"--output_dir={FLAGS.output_dir}, which has no folder 'rule'. Train one with "
            "--mode=train, or give --rule."
        )
    return [own_rule]


def _refuse_one_file_for_both() -> None:
    files = [FLAGS.tuned_rates, FLAGS.evaluated_baselines]
    if None not in files and len({os.path.realpath(file) for file in files}) == 1:
        raise ValueError(
            "--tuned_rates and --evaluated_baselines must be different files. Received: "
            f"--tuned_rates={files[0]}, --evaluated_baselines={files[1]}. Choose another for one."
        )


def _refuse_initial_rule() -> None:
    if FLAGS.initial_rule is not None:
        raise ValueError(
            "--initial_rule must go with training. Received: "
            f"--initial_rule={FLAGS.initial_rule} with --mode={FLAGS.mode}. Leave it out, or give "
            "rules to evaluate by --rule."
        )
