"""JSON Lines files that keep slow results, searches and evaluations, so that each is done once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.harness.common import FLAGS
from experiments.harness.places import check_output, locked
from l2l_tf.files import strict_json, write_text
from l2l_tf.problems import Problem


def identity(problem: Problem, num_tasks: int) -> dict[str, Any]:
    """Returns the values that identify a run on a problem's tasks, according to the flags."""
    what = {
        "problem": problem.name,
        "problem_config": without_model(problem.get_config()),
        "num_steps": FLAGS.num_steps,
        "num_tasks": num_tasks,
        "seed": FLAGS.seed,
    }
    # Convert to the form that a line holds, so that it can be found there: JSON has no tuples.
    return json.loads(strict_json(what))


def without_model(problem_config: dict[str, Any]) -> dict[str, Any]:
    """Returns a problem's configuration without its model; the problem's name identifies that.

    Keras's description of a model is long, and changes with its versions.
    """
    return {key: value for key, value in problem_config.items() if key != "model"}


def read_lines(flag: str, kind: str, check: Callable[[dict[str, Any]], Any]) -> list[dict]:
    """Returns the entries of the file that a flag names, or none if the file does not exist yet.

    Args:
        flag: the flag's name.
        kind: what the entries are called, in the plural.
        check: raises KeyError, TypeError or ValueError if an entry is of another kind.

    Raises:
        ValueError: the file holds something else.
    """
    path = FLAGS[flag].value
    return [] if path is None else read_file(Path(path), flag, kind, check)


def read_file(path: Path, flag: str, kind: str, check: Callable[[dict[str, Any]], Any]) -> list:
    """Returns the entries of a file, or none if the file does not exist yet.

    Args:
        path: the file.
        flag: the flag that names it or its folder, for errors.
        kind: what the entries are called, in the plural.
        check: raises KeyError, TypeError or ValueError if an entry is of another kind.

    Raises:
        ValueError: the file holds something else.
    """
    if not path.exists():
        return []
    try:
        entries = [json.loads(line) for line in path.read_text().splitlines()]
        for entry in entries:
            check(entry)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"--{flag} must be a file of {kind} that an evaluation has written, or be yet to "
            f"be written. Received: --{flag}={path}, where {error!r}. "
            "Check the path, or choose another."
        ) from error
    return entries


def check_lines_file(flag: str) -> None:
    """Checks that entries can be added to the file that a flag names, if it names one.

    Raises:
        ValueError: they can't.
    """
    if (name := FLAGS[flag].value) is not None:
        check_output(flag, Path(name))


def add_line(flag: str, entry: dict[str, Any]) -> None:
    """Adds an entry to the file that a flag names, if it names one.

    The file is whole at any time. Other processes may add to it too.
    """
    if (name := FLAGS[flag].value) is not None:
        add_to_file(Path(name), entry)


def add_to_file(path: Path, entry: dict[str, Any]) -> None:
    """Adds an entry to a file, which is created if need be. It is whole at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_name(f".{path.name}.lock")):
        before = path.read_text() if path.exists() else ""
        write_text(path, before + strict_json(entry, indent=None))
