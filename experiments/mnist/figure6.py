"""The paper's figure 6: final losses on networks of many widths, with one and two hidden layers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from experiments.harness.common import FLAGS, write_flags
from experiments.harness.comparison import compared_rows
from experiments.harness.pipeline import Problems, find_rules
from experiments.harness.references import reference_points
from experiments.harness.saved_rules import load_rules
from experiments.harness.tuned_rates import refuse_momenta, tune_baselines
from l2l_tf.files import write_json
from l2l_tf.reporting import compare_with_baselines
from l2l_tf.reporting.figures import ReferenceCurve, WidthPanel, draw_widths

NUM_LAYERS = (1, 2)

flags.DEFINE_list(
    "figure6_units",
    [str(units) for units in range(5, 55, 5)],
    "Numbers of hidden units for --figure6.",
)


def figure6(make_problems: Callable[[int, int], Problems]) -> None:
    """Compares rules on networks of each width and depth; writes `figure6.json` and `figure6.png`.

    Baselines are tuned on each network. Under `networks`, `figure6.json` holds for each network
    what `results.json` holds for one, without the curves and the losses of each run. Only the
    problem of the first table is used.

    Args:
        make_problems: returns the problems of a network, given its units and hidden layers.
    """
    widths = _widths()
    refuse_momenta("figure 6 compares one momentum at all widths")
    references = {
        num_layers: reference_points(f"fig6_{num_layers}layer{'s' * (num_layers > 1)}")
        for num_layers in NUM_LAYERS
    }
    rules = load_rules(find_rules(trains=False))
    output_dir = Path(FLAGS.output_dir)
    networks: list[dict[str, Any]] = []
    left_out = ("curve", "final_losses")
    for num_layers in NUM_LAYERS:
        for units in widths:
            problems = make_problems(units, num_layers)
            problem = next(iter(problems.tests.values()))
            print(f"{problem.name}, {len(networks) + 1} of {len(NUM_LAYERS) * len(widths)}")
            tunings = tune_baselines(problems.validation)
            rows = compared_rows(problem, rules, tunings, FLAGS.num_tasks)
            networks.append(
                {
                    "problem": problem.name,
                    "num_layers": num_layers,
                    "units": units,
                    "rows": [{key: row[key] for key in row if key not in left_out} for row in rows],
                    **compare_with_baselines(rows),
                }
            )
    contents = {
        "experiment": "figure6",
        "num_steps": FLAGS.num_steps,
        "num_tasks": FLAGS.num_tasks,
        "seed": FLAGS.seed,
        "networks": networks,
    }
    write_json(output_dir / "figure6.json", contents)
    draw_widths(output_dir / "figure6.png", _panels(networks, references))
    write_flags(output_dir / "evaluate_flags.txt")
    print(f"Wrote figure6.json and figure6.png to {output_dir}")


def _widths() -> list[int]:
    try:
        widths = sorted({int(units) for units in FLAGS.figure6_units})
    except ValueError:
        widths = []
    if not widths or widths[0] < 1:
        raise ValueError(
            "--figure6_units must be integers of at least 1. "
            f"Received: --figure6_units={','.join(FLAGS.figure6_units)}. Give, say, "
            "--figure6_units=5,20,50."
        )
    return widths


def _panels(
    networks: list[dict[str, Any]], references: dict[int, list[ReferenceCurve]]
) -> list[WidthPanel]:
    return [
        WidthPanel(
            f"{num_layers} hidden layer{'s' * (num_layers > 1)}",
            {one["units"]: one["rows"] for one in networks if one["num_layers"] == num_layers},
            references[num_layers],
        )
        for num_layers in NUM_LAYERS
    ]
