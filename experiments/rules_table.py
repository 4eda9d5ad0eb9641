"""What is each rule of the package for? Prints README's table of rules, made from their cards."""

from absl import app

from l2l_tf.delivery import RuleUse, list_rules
from l2l_tf.reporting import format_markdown


def table() -> str:
    """Returns a Markdown table of the rules that come with the package and what they are for.

    Rules that train Keras models with any initial weights come first.

    Raises:
        ValueError: a card does not say what its rule is for.
    """
    uses = {name: rule.use for name, rule in list_rules().items()}
    if silent := [name for name, use in uses.items() if use is None]:
        raise ValueError(
            "Cards must say what their rules are for. "
            f"Received: {silent} without 'use'. Add it by l2l_tf.delivery.update_card."
        )
    known = sorted(
        ((name, use) for name, use in uses.items() if use is not None),
        key=lambda rule: (not rule[1].is_general, not rule[1].trains_models, rule[0]),
    )
    header = ["rule", "trains", "initial weights", "learned on", "fails with"]
    return format_markdown(header, [_line(name, use) for name, use in known])


def _line(name: str, use: RuleUse) -> list[str]:
    weights = "any" if use.initial_stddev is None else f"N(0, {use.initial_stddev:g}²)"
    return [
        f"`{name}`",
        use.purpose,
        weights,
        f"{' to '.join(str(number) for number in dict.fromkeys(use.range_of_steps))} steps",
        ", ".join(use.fails_with),
    ]


def main(arguments: list[str]) -> None:
    """Prints the table."""
    del arguments
    print(table(), end="")


if __name__ == "__main__":
    app.run(main)
