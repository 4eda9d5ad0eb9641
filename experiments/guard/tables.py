"""Tables and figures of the experiment on guards."""

from pathlib import Path
from typing import Any

from experiments.guard.choice import LARGEST_RATIO, LEAST_SHARE, numbers_of
from l2l_tf.reporting import format_markdown
from l2l_tf.reporting.figures import Panel, draw_curves

# What is counted of a run, in the order of the certificate's columns.
_CHECKS = ("a", "b", "radius", "descent")
_KINDS = {"cost": "where the rule is good", "rescue": "where it is not"}


def certificate_table(results: dict[str, Any]) -> str:
    """Returns a Markdown table of what was checked; empty without a certificate."""
    if "certificate" not in results:
        return ""
    header = [
        "functions",
        "rule",
        "alone: diverged",
        "alone: loss",
        "guard",
        "loss",
        "steps",
        "(A) fails",
        "(B) fails",
        "radius or budget exceeded",
        "loss or gradients not as promised",
        "alone: these four",
        "share of the budget spent",
    ]
    lines = [
        [
            row["problem"],
            row["rule"],
            f"{row['alone_diverged']:.0%}",
            _number(row["alone_final_loss"]),
            row["guard"],
            _number(row["guarded_final_loss"]),
            str(row["num_checked"]),
            str(row["num_fails_a"]),
            str(row["num_fails_b"]),
            str(row["num_fails_radius"]),
            str(row["num_fails_descent"]),
            ", ".join(str(row[f"num_alone_fails_{one}"]) for one in _CHECKS),
            _number(row["largest_share_of_budget"], ""),
        ]
        for row in results["certificate"]["rows"]
    ]
    return format_markdown(header, lines)


def loss_table(results: dict[str, Any]) -> str:
    """Returns a Markdown table of the final losses of all cases."""
    cases = results["cases"]
    thetas = sorted({float(theta) for case in cases.values() for theta in case["guarded"]})
    names = [f"{theta:g}" for theta in thetas]
    header = ["case", "steps", "tasks", "fallback", *[f"theta {name}" for name in names], "rule"]
    lines = [
        [
            name,
            str(case["num_steps"]),
            str(case["num_tasks"]),
            f"{_number(case['fallback'])} ({case['fallback_rule']})",
            *[_relative(case, one) for one in names],
            _number(case["alone"]),
        ]
        for name, case in sorted(cases.items(), key=lambda item: item[1]["kind"])
    ]
    return format_markdown(header, lines) if lines else ""


def choice_table(results: dict[str, Any]) -> str:
    """Returns a Markdown table of what each theta does in its worst case."""
    header = [
        "theta",
        "least share of the gain",
        "largest ratio to the fallback",
        "enough",
        "not run",
    ]
    lines = [
        [
            f"{one.theta:g}",
            "" if one.share is None else f"{one.share:.3f}",
            "" if one.ratio is None else f"{one.ratio:.3f}",
            "yes" if one.is_enough else "no",
            str(one.num_missing),
        ]
        for one in numbers_of(results["cases"])
    ]
    if not lines:
        return ""
    title = f"Wanted: a share of at least {LEAST_SHARE} and a ratio of at most {LARGEST_RATIO}."
    return f"{title}\n\n{format_markdown(header, lines)}"


def figures(folder: Path, results: dict[str, Any]) -> None:
    """Draws the losses of the certificate and of each kind of cases."""
    if "certificate" in results:
        draw_curves(folder / "certificate.png", _certificate_panels(results))
    for kind, title in _KINDS.items():
        panels = [
            Panel(name, case["rows"])
            for name, case in results["cases"].items()
            if case["kind"] == kind
        ]
        if panels:
            draw_curves(folder / f"{kind}.png", panels, quantity=f"loss, {title}")


def _certificate_panels(results: dict[str, Any]) -> list[Panel]:
    """Returns one panel for each rule, of the functions that are hardest."""
    rows = [row for row in results["certificate"]["rows"] if row["problem"] == "steep quadratics"]
    panels = []
    for rule in dict.fromkeys(row["rule"] for row in rows):
        own = [row for row in rows if row["rule"] == rule]
        curves = {"alone": own[0]["alone_curve"]} | {
            row["guard"]: row["guarded_curve"] for row in own
        }
        panels.append(Panel(rule, [_curve(name, curve) for name, curve in curves.items()]))
    return panels


def _curve(name: str, curve: list[float | None]) -> dict[str, Any]:
    losses = [float("inf") if one is None else one for one in curve]
    return {"rule": name, "learned": True, "learning_rate": None, "curve": losses}


def _relative(case: dict[str, Any], theta: str) -> str:
    """Returns a final loss, and its ratio to the fallback's."""
    if theta not in case["guarded"]:
        return ""
    loss = case["guarded"][theta]
    if loss is None or case["fallback"] is None:
        return "not finite"
    return f"{loss:.4g} ({loss / case['fallback']:.3f})"


def _number(number: float | None, missing: str = "not finite") -> str:
    return missing if number is None else f"{number:.4g}"
