"""Made-up results of evaluations, in the form of their files."""

import json
from pathlib import Path
from typing import Any


def row(
    rule: str, curve: list, rate: float | None = None, at_edge: bool = False, spread: float = 0
) -> dict:
    """Returns a row, with final losses of two runs that are `spread` below and above their mean."""
    final_losses = [None, None]
    if curve[-1] is not None:
        mean = sum(curve[-5:]) / 5
        final_losses = [mean - spread, mean + spread]
    entry = {
        "rule": rule,
        "learned": rate is None,
        "learning_rate": rate,
        "final_loss": curve[-1],
        "mean_loss": None if curve[-1] is None else sum(curve[1:]) / (len(curve) - 1),
        "diverged": 3 if curve[-1] is None else 0,
        "num_runs": 64,
        "final_losses": final_losses,
        "curve": curve,
    }
    return entry if rate is None else entry | {"tuning": {"is_at_edge": at_edge}}


def results(num_steps: int, *rows: dict, ratio: float | None = None) -> dict:
    return {
        "num_steps": num_steps,
        "rows": rows,
        "best_baseline": "nag",
        "ratio_to_best_baseline": ratio,
    }


def write_results(folder: Path, contents: dict[str, Any]) -> None:
    """Writes each result to the file of its name below a folder."""
    for name, one in contents.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(one))
