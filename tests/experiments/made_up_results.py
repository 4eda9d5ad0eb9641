"""Made-up results of evaluations, in the form of their files."""

import json
import math
from pathlib import Path
from typing import Any


def row(
    rule: str, curve: list, rate: float | None = None, at_edge: bool = False, spread: float = 0
) -> dict:
    """Returns a row of two runs whose final losses are `spread` below and above their mean."""
    last = math.nan if curve[-1] is None else sum(curve[-5:]) / 5
    entry = {
        "rule": rule,
        "learned": rate is None,
        "learning_rate": rate,
        "final_loss": curve[-1],
        "mean_loss": None if curve[-1] is None else sum(curve[1:]) / (len(curve) - 1),
        "diverged": 3 if curve[-1] is None else 0,
        "num_runs": 64,
        "final_losses": [last - spread, last + spread],
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
