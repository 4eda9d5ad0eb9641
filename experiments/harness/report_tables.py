"""Markdown tables of the evaluations of an experiment's variants, with a column per variant."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments.harness.baselines import kind_and_momentum
from l2l_tf.files import write_text
from l2l_tf.reporting import Row, format_markdown
from l2l_tf.reporting.results import is_trained

# The contents of an evaluation's file, in which null stands for numbers that are not finite.
Results = dict[str, Any]
_OF_EACH_ROW = (
    *("rule", "learned", "learning_rate", "diverged", "num_runs"),
    *("final_loss", "mean_loss", "curve"),
)
# The cells of a table's column, by the name of the row.
Column = dict[str, str]


def read_results(
    folder: Path, variants: Iterable[str], file: str, measured: Sequence[str] = ()
) -> dict[str, Results]:
    """Returns the results of the variants that were evaluated, by variant.

    Args:
        folder: holds a folder for each variant, named after it.
        variants: the variants' names.
        file: the name of the file in each.
        measured: what must be present for each rule besides its losses.

    Raises:
        ValueError: a file is damaged, or lacks something.
    """
    paths = {name: folder / name / file for name in variants}
    return {name: _results(path, measured) for name, path in paths.items() if path.exists()}


def _results(path: Path, measured: Sequence[str]) -> Results:
    try:
        results = json.loads(path.read_text())
        results["num_steps"]  # These must be present.
        for row in results["rows"]:
            for key in (*_OF_EACH_ROW, *measured, *(() if row["learned"] else ("tuning",))):
                row[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            "--output_dir must hold results as evaluations have written them. Received: "
            f"{path}, where {error!r}. Evaluate the variant again."
        ) from error
    return results


def check_any_results(
    experiment: str, folder: Path, variants: Iterable[str], results: dict[str, Results]
) -> None:
    """Raises FileNotFoundError if there are no results of any variant."""
    if not results:
        raise FileNotFoundError(
            f"--output_dir must hold evaluations of experiments.{experiment}, in folders named "
            f"after their variants. Received: --output_dir={folder}, where there is no "
            f"results.json in any of {list(variants)}. Evaluate a variant with "
            "--output_dir=FOLDER/VARIANT."
        )


def numbers(results: Results, measure: Callable[[Row], float], best: Callable = min) -> Column:
    """Returns a number for each rule, the best in bold; or on how many runs the rule diverged.

    Names of learned rules that were trained are in bold too.

    Args:
        results: the results of a variant.
        measure: returns the number, from the row of a rule of which no run has diverged.
        best: `min` or `max`, which selects the best number.
    """
    found = {_name(row): measure(row) for row in results["rows"] if not row["diverged"]}
    column = {}
    for row in results["rows"]:
        rule = _name(row)
        shown = f"diverged on {row['diverged']} of {row['num_runs']}"
        if rule in found:
            is_best = found[rule] == best(found.values())
            shown = f"**{found[rule]:.3g}**" if is_best else f"{found[rule]:.3g}"
        column[f"**{rule}**" if is_trained(row) else rule] = shown
    return column


def rates(results: Results) -> Column:
    """Returns the baselines' rates, with momenta other than the usual one.

    Rates at the edge of the grid are marked.
    """
    column = {}
    for row in results["rows"]:
        if not row["learned"]:
            kind, momentum = kind_and_momentum(row["rule"])
            column[kind] = (
                f"{row['learning_rate']:.3g}"
                + (f", momentum {momentum:g}" if row["rule"] != kind else "")
                + (" (edge)" if row["tuning"]["is_at_edge"] else "")
            )
    return column


def _name(row: Row) -> str:
    """Returns a rule's name; a baseline's is the same for all momenta."""
    return row["rule"] if row["learned"] else kind_and_momentum(row["rule"])[0]


def _table(columns: dict[str, Column]) -> str:
    """Returns columns side by side, with a line for each row that any column has."""
    rows = dict.fromkeys(row for column in columns.values() for row in column)
    lines = [[row, *(column.get(row, "") for column in columns.values())] for row in rows]
    return format_markdown(["", *columns], lines)


def write_tables(path: Path, tables: dict[str, dict[str, Column]]) -> str:
    """Writes the tables that have columns, each below its title, and returns the text."""
    text = "\n".join(
        f"## {title}\n\n{_table(columns)}" for title, columns in tables.items() if columns
    )
    write_text(path, text)
    return text
