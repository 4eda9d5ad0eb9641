"""What do guards promise, what do they cost where a rule is good, and what do they save?

Certificate: what docs/guarantees.md proves, checked at every step of rules that are random, uphill,
far too large or broken. Cost: the final losses of shipped rules with and without a guard where they
are good. Rescue: the same where they are not.
"""

import json
import math
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from absl import flags

from experiments.guard.cases import CASES, KINDS, Case
from experiments.guard.certificate import PROBLEMS, certificate
from experiments.guard.tables import certificate_table, choice_table, figures, loss_table
from experiments.guard.wild import RULES
from experiments.harness import common, images
from l2l_tf.delivery import load_rule
from l2l_tf.evaluation import Evaluation, evaluate, tune_from
from l2l_tf.files import write_json
from l2l_tf.problems import task_seeds
from l2l_tf.reporting import result_row
from l2l_tf.rules import BASELINES, guarded

PARTS = ("certificate", "cost", "rescue")

flags.DEFINE_list("parts", list(PARTS), f"What to run: some of {', '.join(PARTS)}.")
flags.DEFINE_list("cases", [], "Rules on problems to run, by name. By default, all of the parts.")
flags.DEFINE_list(
    "thetas",
    ["0.5", "1", "1.5", "2", "5", "inf"],
    "Radii of the guard, relative to the fallback's delta.",
)
flags.DEFINE_enum(
    "scope", "all", ["tensor", "all"], "Whether norms are those of each tensor, or of all."
)
flags.DEFINE_bool("adapts", True, "Whether the radius adapts from step to step.")
flags.DEFINE_integer("num_functions", 16, "Number of functions of the certificate.", 1)
flags.DEFINE_integer("num_certificate_steps", 200, "Number of steps of the certificate.", 1)
flags.DEFINE_float(
    "share_of_steps", 1, "Share of each case's number of steps to take, for a first look.", 0, 1
)
flags.DEFINE_integer("num_tuning_tasks", 2, "Number of tasks that fallbacks are tuned on.", 1)

FLAGS = flags.FLAGS

_READ = {"output_dir", "seed", "num_tasks", "data_dir", "batch_size", "threads_per_operation"}


def main(strategy: tf.distribute.Strategy) -> None:
    """Runs the experiment that the flags describe."""
    del strategy  # Runs are of one device.
    modules = [common.__name__, images.__name__]
    common.check_all_read("guard", modules, _READ, "--cases and --parts say what is run.")
    thetas, chosen = _thetas(), _chosen_cases()
    folder = Path(FLAGS.output_dir)
    results = _earlier(folder / "results.json")
    results |= {"experiment": "guard", **_settings()}
    if "certificate" in FLAGS.parts:
        bar = keras.utils.Progbar(len(PROBLEMS) * len(RULES), unit_name="rule")
        results["certificate"] = {
            "num_functions": FLAGS.num_functions,
            "num_steps": FLAGS.num_certificate_steps,
            "rows": certificate(
                FLAGS.num_functions,
                FLAGS.num_certificate_steps,
                task_seeds(FLAGS.seed, "test", 0, 1)[0],
                lambda: bar.add(1),
            ),
            **common.origin("guard"),
        }
        write_json(folder / "results.json", results)
    cases = results.setdefault("cases", {})
    for name, case in chosen.items():
        print(f"{name}:", flush=True)
        cases[name] = _run(case, thetas) | {"kind": _kind_of(name)} | common.origin("guard")
        # Long runs keep what is done.
        write_json(folder / "results.json", results)
    figures(folder, results)
    common.write_flags(_new_path(folder))
    for table in (certificate_table(results), loss_table(results), choice_table(results)):
        print(table)
    print(f"Wrote results.json and figures to {folder}")


def _run(case: Case, thetas: list[float]) -> dict[str, Any]:
    """Returns the final losses of the fallback, of the rule, and of the rule in its guards."""
    tuning_problem, problem = case.problems()
    num_steps = max(1, round(case.num_steps * FLAGS.share_of_steps))
    make = BASELINES[case.fallback]
    tuning_seeds = task_seeds(FLAGS.seed, "tuning", 0, FLAGS.num_tuning_tasks)
    tuning = tune_from(make, tuning_problem, tuning_seeds, num_steps, case.first_rate)
    seeds = task_seeds(FLAGS.seed, "test", 0, FLAGS.num_tasks)
    rule, fallback = load_rule(case.rule), make(tuning.best)
    bar = keras.utils.Progbar(len(thetas) + 2, unit_name="rule")
    rows = []

    def add(name: str, one: Any, **arguments: Any) -> float:
        evaluation: Evaluation = evaluate(one, problem, seeds, num_steps)
        rows.append(result_row(name, evaluation, **arguments))
        bar.add(1)
        return evaluation.final_loss

    numbers = {
        "fallback": add(case.fallback, fallback, tuning=tuning),
        "alone": add(case.rule, rule, learned=True),
        "guarded": {
            f"{theta:g}": add(
                f"theta {theta:g}",
                guarded(rule, fallback, theta=theta, scope=FLAGS.scope, adapts=FLAGS.adapts),
                learned=True,
            )
            for theta in thetas
        },
    }
    return {
        **numbers,
        "rule": case.rule,
        "fallback_rule": case.fallback,
        "num_steps": num_steps,
        "num_tasks": FLAGS.num_tasks,
        "rows": rows,
    }


def _earlier(path: Path) -> dict[str, Any]:
    """Returns the results that a folder holds, to which others are added.

    Raises:
        ValueError: its file holds something else.
    """
    if not path.exists():
        return {}
    try:
        results = json.loads(path.read_text())
    except ValueError:
        results = None
    if not isinstance(results, dict) or results.get("experiment") != "guard":
        raise ValueError(
            "--output_dir must be new, or hold results of this experiment. "
            f"Received: --output_dir={FLAGS.output_dir}, whose results.json holds something else. "
            "Choose another folder."
        )
    there = {name: results.get(name) for name in _settings()}
    if there != _settings():
        raise ValueError(
            "--seed, --scope and --adapts must be those of the results in --output_dir. "
            f"Received: {_settings()}, where they are {there}. Choose another folder."
        )
    return results


def _new_path(folder: Path) -> Path:
    """Returns where to write the flags of a run. Each run that adds to the results has its own."""
    paths = (folder / f"flags{suffix}.txt" for suffix in ("", *(f"_{n}" for n in range(2, 1000))))
    return next(path for path in paths if not path.exists())


def _settings() -> dict[str, Any]:
    """Returns what all results of a folder share."""
    return {"seed": FLAGS.seed, "scope": FLAGS.scope, "adapts": FLAGS.adapts}


def _thetas() -> list[float]:
    try:
        thetas = sorted({float(theta) for theta in FLAGS.thetas})
    except ValueError:
        thetas = []
    if not thetas or any(math.isnan(one) or one < 0 for one in thetas):
        raise ValueError(
            "--thetas must be numbers that are not negative. Received: "
            f"--thetas={','.join(FLAGS.thetas)}. Give, say, --thetas=1,2,inf."
        )
    return thetas


def _chosen_cases() -> dict[str, Case]:
    """Returns the cases to run, by name."""
    if unknown := sorted(set(FLAGS.parts) - set(PARTS)):
        raise ValueError(
            f"--parts must be among {list(PARTS)}. Received: {unknown}. Leave it out for all."
        )
    names = [name for part in FLAGS.parts for name in KINDS.get(part, ())]
    wanted = FLAGS.cases or names
    if unknown := sorted(set(wanted) - set(names)):
        raise ValueError(
            f"--cases must be among {names}. Received: {unknown}. Leave it out for all of --parts."
        )
    return {name: CASES[name] for name in names if name in wanted}


def _kind_of(name: str) -> str:
    return next(kind for kind, cases in KINDS.items() if name in cases)


if __name__ == "__main__":
    FLAGS.set_default("num_tasks", 4)
    common.run(main)
