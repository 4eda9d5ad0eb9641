"""What is each rule of the package for, and what does it cost? A table, made from their cards.

`--write` puts it into the documents that show it.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import app, flags

from l2l_tf.delivery import RuleUse, list_rules, load_card
from l2l_tf.files import write_text
from l2l_tf.reporting import format_markdown

_WRITE = flags.DEFINE_bool("write", False, "Put the table into README.md and docs/which_rule.md.")

ROOT = Path(__file__).resolve().parents[1]
# What shows the table, between the two lines of `_PLACE`.
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "which_rule.md")
_PLACE = re.compile(r"(?<=<!-- rules -->\n).*?(?=<!-- end of rules -->)", re.DOTALL)
_HEADER = (
    *("rule", "good for", "not for", "learned on", "initial weights"),
    *("step (Adam = 1)", "state (Adam = 1)"),
)


def table() -> str:
    """Returns a Markdown table of the rules that come with the package.

    Rules that train Keras models with any initial weights come first. The last two columns are
    relative to Adam.

    Raises:
        ValueError: a card does not say what its rule is for, or what it costs.
    """
    rules = list_rules()
    uses = {name: rule.use for name, rule in rules.items()}
    if silent := [name for name, use in uses.items() if use is None]:
        raise ValueError(
            "Cards must say what their rules are for. "
            f"Received: {silent} without 'use'. Add it by l2l_tf.delivery.update_card."
        )
    costs: dict[str, Any] = {name: load_card(rule.path).get("cost") for name, rule in rules.items()}
    if silent := [name for name, cost in costs.items() if cost is None]:
        raise ValueError(
            "Cards must say what their rules cost. Received: "
            f"{silent} without 'cost'. Run `python -m benchmarks.shipped_rules --update_cards`."
        )
    known = sorted(
        ((name, use) for name, use in uses.items() if use is not None),
        key=lambda rule: (not rule[1].is_general, not rule[1].trains_models, rule[0]),
    )
    return format_markdown(_HEADER, [_line(name, use, costs[name]) for name, use in known])


def _line(name: str, use: RuleUse, cost: Mapping[str, Any]) -> list[str]:
    weights = "any" if use.initial_stddev is None else f"N(0, {use.initial_stddev:g}²)"
    steps = " to ".join(str(number) for number in dict.fromkeys(use.range_of_steps))
    return [
        f"`{name}`",
        use.purpose,
        "; ".join(use.fails_with),
        f"{use.learned_on}; {steps} steps",
        weights,
        f"{cost['step_over_adam']:.2g}",
        f"{cost['state_over_adam']:.2g}",
    ]


def with_table(document: str) -> str:
    """Returns a document that shows the table where its marks are.

    Raises:
        ValueError: the document has no marks.
    """
    if not _PLACE.search(document):
        raise ValueError(
            "A document must have a place for the table. Received: one without the line "
            "'<!-- rules -->' and '<!-- end of rules -->' after it. Add them."
        )
    return _PLACE.sub(lambda _: f"\n{table()}\n", document)


def main(arguments: list[str]) -> None:
    """Prints the table, or writes it."""
    del arguments
    if not _WRITE.value:
        print(table(), end="")
        return
    for path in DOCUMENTS:
        write_text(path, with_table(path.read_text()))
        print(f"Wrote the table of rules to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    app.run(main)
