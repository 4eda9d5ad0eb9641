"""The comparison of learned rules with tuned baselines, as the flags say."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from experiments.common import FLAGS, origin, write_flags
from l2l_tf.delivery.export import load_card, update_card
from l2l_tf.delivery.pretrained import load_rule
from l2l_tf.problems.problem import Problem
from l2l_tf.problems.tasks import task_seeds
from l2l_tf.reporting.figures import ReferenceCurve, draw_curves
from l2l_tf.reporting.results import compare_with_baselines, format_table, result_row, write_json
from l2l_tf.rules.hand_designed import BASELINES
from l2l_tf.training.evaluation import evaluate
from l2l_tf.training.tuning import tune


def compare(
    experiment: str,
    problem: Problem,
    tuning_problem: Problem,
    rules: dict[str, keras.layers.Layer],
    cards: Sequence[Path],
    output_dir: Path,
    title: str,
    references: Sequence[ReferenceCurve],
) -> None:
    """Tunes the baselines, runs all rules on the same fresh tasks and writes what came out.

    Args:
        experiment: the binary's name; the figure's too.
        problem: what the rules are compared on.
        tuning_problem: what the baselines' learning rates are chosen on.
        rules: learned rules by name.
        cards: the folders of those rules to whose cards the scores are added.
        output_dir: where results, figure and flags go.
        title: the figure's title.
        references: published curves, drawn behind ours.
    """
    baselines = chosen_baselines()
    seeds = task_seeds(FLAGS.seed, "test", 0, FLAGS.num_tasks)
    tuning_seeds = task_seeds(FLAGS.seed, "tuning", 0, FLAGS.num_tuning_tasks)
    rows = [
        result_row(name, evaluate(rule, problem, seeds, FLAGS.num_steps), learned=True)
        for name, rule in rules.items()
    ]
    progress = keras.utils.Progbar(len(baselines), unit_name="baseline")
    for index, name in enumerate(baselines):
        make_rule = BASELINES[name]
        tuning = tune(make_rule, tuning_problem, tuning_seeds, FLAGS.num_steps)
        evaluation = evaluate(make_rule(tuning.learning_rate), problem, seeds, FLAGS.num_steps)
        rows.append(result_row(name, evaluation, tuning))
        progress.update(index + 1)
    comparison = compare_with_baselines(rows)
    results = {
        "experiment": experiment,
        "problem": problem.name,
        "problem_config": problem.get_config(),
        "num_steps": FLAGS.num_steps,
        "num_tasks": FLAGS.num_tasks,
        "seed": FLAGS.seed,
        "rows": rows,
        **comparison,
    }
    write_json(output_dir / "results.json", results)
    draw_curves(output_dir / f"{experiment}.png", rows, title, references)
    write_flags(output_dir / "evaluate_flags.txt", experiment)
    for path in cards:
        _add_scores(path, results, origin(experiment))
    print(format_table(rows))
    if comparison["ratio_to_best_baseline"] is not None:
        print(
            f"Final loss of the best learned rule over that of the best baseline, "
            f"{comparison['best_baseline']}: {comparison['ratio_to_best_baseline']:.3f}"
        )
    print(f"Wrote results.json and {experiment}.png to {output_dir}")


def chosen_baselines() -> list[str]:
    """Returns the names that `--baselines` holds.

    Raises:
        ValueError: one of them is unknown.
    """
    unknown = sorted(set(FLAGS.baselines) - BASELINES.keys())
    if unknown:
        raise ValueError(
            f"--baselines must be among {sorted(BASELINES)}. Received: {unknown}. "
            "Check the spelling, or leave the flag out for all."
        )
    return list(dict.fromkeys(FLAGS.baselines))


def load_rules(paths: Sequence[Path]) -> dict[str, keras.layers.Layer]:
    """Returns saved rules by the names on their cards, and by path too where names are equal."""
    names = [load_card(path).get("name", path.name) for path in paths]
    return {
        name if names.count(name) == 1 else f"{name} ({path})": load_rule(path)
        for name, path in zip(names, paths, strict=True)
    }


def _add_scores(path: Path, results: dict[str, Any], origin: dict[str, str]) -> None:
    """Adds an evaluation's numbers to a card, in place of older ones on the same problem."""
    what = {key: results[key] for key in ("problem", "problem_config", "num_steps")}
    scores = {key: results[key] for key in ("num_tasks", "seed", "ratio_to_best_baseline")}
    # Curves and searches are in results.json.
    rows = [
        {key: value for key, value in row.items() if key not in ("curve", "tuning")}
        for row in results["rows"]
    ]
    others = [
        entry
        for entry in load_card(path).get("scores", [])
        if any(entry[key] != value for key, value in what.items())
    ]
    update_card(path, scores=[*others, {**what, **scores, "rows": rows, **origin}])
