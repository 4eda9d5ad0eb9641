"""Comparison of learned rules with tuned baselines, configured by flags."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from experiments.harness.baselines import make_baseline
from experiments.harness.common import FLAGS, origin, write_flags
from experiments.harness.evaluated_baselines import add_row, check_rows, find_row, known_rows
from experiments.harness.json_lines import identity, without_model
from experiments.harness.places import locked, try_to_write
from experiments.harness.saved_rules import untrained_rules
from experiments.harness.tuned_rates import tune_baselines
from l2l_tf.delivery import load_card, update_card
from l2l_tf.delivery.export import CARD_FILE
from l2l_tf.evaluation import Evaluation, Tuning, evaluate
from l2l_tf.files import strict_json, write_json
from l2l_tf.problems import Problem, task_seeds
from l2l_tf.reporting import Row, compare_with_baselines, format_table, result_row
from l2l_tf.reporting.figures import Panel, ReferenceCurve, draw_curves
from l2l_tf.reporting.results import COMPARED, search_entry

# Computes entries for a rule's row from its name, the seeds of its tasks and its evaluation with
# final parameters.
Measure = Callable[[str, tf.Tensor, Evaluation], dict[str, float]]

# Two entries of a card's scores that differ in one of these are different entries.
_WHAT_IS_SCORED = ("problem", "num_steps", "problem_config")


def compare(
    experiment: str,
    problems: dict[str, Problem],
    tuning_problems: Mapping[str, Problem],
    rules: dict[str, keras.layers.Layer],
    cards: Mapping[str, Path],
    output_dir: Path,
    title: str,
    references: Sequence[ReferenceCurve],
    measures: Mapping[str, Measure],
) -> None:
    """Tunes the baselines, runs all rules on the same fresh tasks and writes the results.

    The baselines are tuned once for all tables whose rates are chosen on the same problem.

    Args:
        experiment: the binary's name, which is also the figure's.
        problems: the problems to compare rules on, by the name of their table. The first table goes
            to `results.json`, others to `results_<name>.json`.
        tuning_problems: the problems to choose the baselines' learning rates on, by the name of the
            table.
        rules: learned rules by name.
        cards: folders of the rules to whose cards the scores are added, by the rules' names.
        output_dir: where results, figures and flags go.
        title: the figures' title.
        references: published curves, drawn behind ours.
        measures: what to measure besides losses, by the name of the table.
    """
    different = {id(problem): problem for problem in tuning_problems.values()}
    tunings = {key: tune_baselines(problem) for key, problem in different.items()}
    tables = []
    for index, (part, problem) in enumerate(problems.items()):
        num_tasks = num_tasks_of(index)
        of_table = tunings[id(tuning_problems[part])]
        rows = compared_rows(problem, rules, of_table, num_tasks, measures.get(part))
        suffix = f"_{part.replace(' ', '_')}" if index else ""
        # The name of a table matters only where there are several.
        part_entry, part_title = ({"part": part}, f", {part}") if len(problems) > 1 else ({}, "")
        results = {
            "experiment": experiment,
            "problem": problem.name,
            "problem_config": problem.get_config(),
            **part_entry,
            "num_steps": FLAGS.num_steps,
            "num_tasks": num_tasks,
            "seed": FLAGS.seed,
            "rows": rows,
            **compare_with_baselines(rows),
        }
        write_json(output_dir / f"results{suffix}.json", results)
        figure = output_dir / f"{experiment}{suffix}.png"
        draw_curves(figure, [Panel(title + part_title, rows, references)])
        for name, path in cards.items():
            own = [row for row in rows if row["rule"] == name or not row["learned"]]
            _add_scores(path, {**results, **compare_with_baselines(own)}, origin(experiment))
        tables.append((title + part_title, results, f"results{suffix}.json and {figure.name}"))
    write_flags(output_dir / "evaluate_flags.txt")
    for heading, results, files in tables:
        _print_table(heading if len(tables) > 1 else None, results)
        print(f"Wrote {files} to {output_dir}")


def num_tasks_of(table: int) -> int:
    """Returns the number of tasks of a table; tables count from 0."""
    return FLAGS.num_other_tasks if table and FLAGS.num_other_tasks else FLAGS.num_tasks


def check_card(path: Path) -> None:
    """Checks that scores can be added to the card of a saved rule.

    Raises:
        ValueError: the card has something else in the place of scores, or can't be written.
    """
    scores = load_card(path).get("scores", [])
    if not isinstance(scores, list) or not all(
        isinstance(one, dict) and {*_WHAT_IS_SCORED} <= one.keys() for one in scores
    ):
        raise ValueError(
            "The scores of a card that --update_card adds to must be entries with "
            f"{', '.join(_WHAT_IS_SCORED)}. Received: path={str(path)!r}, where they are not. "
            "Take them out, or leave --update_card out."
        )
    try:
        try_to_write(path / CARD_FILE)
    except OSError as error:
        raise ValueError(
            "The folder of a rule whose card gets scores must be one that can be written to. "
            f"Received: path={str(path)!r}, where {error.strerror}. Copy the rule elsewhere, or "
            "leave --update_card out."
        ) from error


def compared_rows(
    problem: Problem,
    rules: dict[str, keras.layers.Layer],
    tunings: dict[str, Tuning],
    num_tasks: int,
    measure: Measure | None = None,
) -> list[Row]:
    """Returns the rows of learned rules and tuned baselines, all run on the same fresh tasks.

    The rules of `--untrained` come between the two. Rows that `--evaluated_baselines` holds are
    taken from that file.
    """

    def row(name: str, rule: Any, tuning: Tuning | None) -> Row:
        keep = measure is not None
        evaluation = evaluate(rule, problem, seeds, FLAGS.num_steps, keep_parameters=keep)
        measured = measure(name, seeds, evaluation) if measure is not None else {}
        return result_row(name, evaluation, tuning, learned=tuning is None) | measured

    def baseline_row(name: str, tuning: Tuning) -> Row:
        found = find_row(known, name, tuning.best, what)
        # Learned rules come first. Whatever was measured of them is needed of this baseline too.
        if found is not None and (not rows or rows[0].keys() <= found.keys()):
            return {**found, "tuning": search_entry(tuning)}
        fresh = row(name, make_baseline(name)(tuning.best), tuning)
        add_row(fresh, what)
        return fresh

    check_rows(problem, num_tasks, tunings)
    known, what = known_rows(), identity(problem, num_tasks)
    seeds = task_seeds(FLAGS.seed, "test", 0, num_tasks)
    untrained = untrained_rules()
    progress = keras.utils.Progbar(len(rules) + len(untrained) + len(tunings), unit_name="rule")
    rows = []
    for name, rule in rules.items():
        rows.append(row(name, rule, None))
        progress.update(len(rows))
    for name, rule in untrained.items():
        rows.append({**row(name, rule, None), "untrained": True})
        progress.update(len(rows))
    for name, tuning in tunings.items():
        rows.append(baseline_row(name, tuning))
        progress.update(len(rows))
    return rows


def _print_table(heading: str | None, results: dict[str, Any]) -> None:
    if heading is not None:
        print(f"\n{heading}")
    print(format_table(results["rows"]))
    if results["ratio_to_best_baseline"] is not None:
        stderr = results["ratio_to_best_baseline_stderr"]
        print(
            "Final loss of the best learned rule over that of the best baseline, "
            f"{results['best_baseline']}: {results['ratio_to_best_baseline']:.3f}"
            + ("" if stderr is None else f" (std. error {stderr:.2g})")
        )


def _add_scores(path: Path, results: dict[str, Any], origin: dict[str, str]) -> None:
    """Adds an evaluation's numbers to a card and replaces older ones on the same problem."""
    config = without_model(results["problem_config"])
    what = {**{key: results[key] for key in _WHAT_IS_SCORED}, "problem_config": config}
    # Convert to the form that a card holds, so that the entry can be found there: JSON has no
    # tuples.
    what = json.loads(strict_json(what))
    kept = ("part", "num_tasks", "seed", *COMPARED)
    scores = {key: results[key] for key in kept if key in results}
    # Curves, losses of each run and searches stay in results.json.
    rows = [
        {key: value for key, value in row.items() if key not in ("curve", "final_losses", "tuning")}
        for row in results["rows"]
    ]
    with locked(path / ".card.lock"):
        others = [
            entry
            for entry in load_card(path).get("scores", [])
            if any(entry[key] != value for key, value in what.items())
        ]
        update_card(path, scores=[*others, {**what, **scores, "rows": rows, **origin}])
