"""What `--mode` names: meta-training, comparison, or both."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

from experiments.common import FLAGS
from experiments.comparison import chosen_baselines, compare, load_rules
from experiments.learned_rules import chosen_rule
from experiments.meta_training import meta_train
from l2l_tf.delivery.pretrained import find_rule
from l2l_tf.problems.problem import Problem
from l2l_tf.reporting.figures import ReferenceCurve


class Problems(NamedTuple):
    """What an experiment draws its tasks from; the same thrice where draws never repeat.

    Attributes:
        train: what rules are trained on.
        validation: what rules' weights and baselines' learning rates are chosen on.
        test: what rules are compared on.
    """

    train: Problem
    validation: Problem
    test: Problem


def train_and_evaluate(
    experiment: str,
    problems: Problems,
    strategy: tf.distribute.Strategy,
    title: str,
    references: Sequence[ReferenceCurve] = (),
) -> None:
    """Does what `--mode` says on some problems and writes everything under `--output_dir`.

    Args:
        experiment: the binary's name; its rule is called `<experiment>_<learned_rule>`.
        problems: what rules are trained, chosen and compared on.
        strategy: on which devices rules are trained; they are compared on one.
        title: the figure's title.
        references: published curves, drawn behind ours.
    """
    # What can be wrong is looked at before hours are spent.
    chosen_baselines()
    chosen_rule()
    paths = [find_rule(rule) for rule in FLAGS.rule]
    load_rules(paths)
    output_dir = Path(FLAGS.output_dir)
    own_rule = output_dir / "rule"
    trains = "train" in FLAGS.mode
    if not trains and not paths and not own_rule.exists():
        raise FileNotFoundError(
            "--output_dir must hold a trained rule where --rule names none. Received: "
            f"--output_dir={FLAGS.output_dir}, which has no folder 'rule'. Train one with "
            "--mode=train, or give --rule."
        )
    _make_folder(output_dir)
    if trains:
        meta_train(experiment, problems.train, problems.validation, strategy, output_dir)
    if not strategy.extended.should_checkpoint:
        return  # The chief of the workers writes the rest.
    if trains or not paths:
        paths.append(own_rule)
    if "evaluate" in FLAGS.mode:
        cards = paths if FLAGS.update_card else [path for path in paths if path == own_rule]
        rules = load_rules(paths)
        compare(
            experiment,
            problems.test,
            problems.validation,
            rules,
            cards,
            output_dir,
            title,
            references,
        )


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            "--output_dir must be a folder, or a path where one can be made. "
            f"Received: --output_dir={path}, where {error.strerror}. Choose another path."
        ) from error
