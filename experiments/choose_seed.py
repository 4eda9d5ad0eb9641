"""Which of several rules that differ only in the seed is best? And how much do they vary?

Copies the rule with the lowest validation loss among those that `--rule` names to `--output_dir`.
Its card gets an entry `meta_seeds` with, for each seed, the validation loss, the commit, the
command, and the final and mean losses of the rule's scores.
"""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import tensorflow as tf
from absl import flags

from experiments.harness import common
from experiments.harness.places import RUN_LOCK
from l2l_tf.delivery import check_destination, find_rule, load_card, load_rule, update_card
from l2l_tf.files import move_into_place, partial_path
from l2l_tf.reporting import format_markdown

FLAGS = flags.FLAGS

Card = dict[str, Any]
# Entries in which runs that differ only in the seed may differ.
_OF_ONE_RUN = {"seed", "progress", "command", "commit"}


def main(strategy: tf.distribute.Strategy) -> None:
    """Copies the chosen rule and prints a table of all rules."""
    paths = [find_rule(rule) for rule in FLAGS.rule]
    cards = [load_card(path) for path in paths]
    try:
        _check_alike(cards)
        seeds = [_of_one_seed(card) for card in cards]
        chosen = min(range(len(cards)), key=lambda index: seeds[index]["validation_loss"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            "--rule must name rules whose cards say how they were trained and how they did. "
            f"Received: --rule={','.join(FLAGS.rule)}, where {error!r}. Name rules that "
            "experiments have written."
        ) from error
    output_dir = Path(FLAGS.output_dir)
    # The lock that keeps other runs out does not count.
    if any(path.name != RUN_LOCK for path in output_dir.iterdir()):
        check_destination(output_dir)
    # Loading shows whether the rule is whole before it replaces another.
    load_rule(paths[chosen])
    if output_dir.resolve() != paths[chosen].resolve():
        _replace(output_dir, paths[chosen])
    update_card(output_dir, meta_seeds=seeds)
    rows = [[str(one["seed"]), f"{one['validation_loss']:.4g}", _shown(one)] for one in seeds]
    print(format_markdown(["seed", "validation loss", "final / mean loss of scores"], rows))
    print(f"Copied the rule of seed {seeds[chosen]['seed']} to {output_dir}")


def _replace(folder: Path, rule: Path) -> None:
    """Replaces a folder by a copy of a rule, whole or not at all."""
    partial = partial_path(folder)
    try:
        shutil.copytree(rule, partial)
        # Keep the lock in the new folder, where the file system allows hard links.
        with contextlib.suppress(OSError):
            os.link(folder / RUN_LOCK, partial / RUN_LOCK)
        move_into_place(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_alike(cards: list[Card]) -> None:
    trained = [card.get("training", {}) for card in cards]
    alike = [
        {key: value for key, value in one.items() if key not in _OF_ONE_RUN}
        | {"rule": _without_seed(one.get("rule"))}
        for one in trained
    ]
    seeds = [one.get("seed") for one in trained]
    if len(cards) < 2 or len(set(seeds)) < len(seeds) or any(one != alike[0] for one in alike):
        raise ValueError(
            "--rule must name two or more rules that were trained alike but for the seed. "
            f"Received: --rule={','.join(FLAGS.rule)}, of the seeds {seeds}. Train each with the "
            "same flags but for --seed and --output_dir."
        )


def _without_seed(rule: Any) -> Any:
    """Returns a rule's configuration without the seeds of its initial weights."""
    if isinstance(rule, dict):
        return {key: _without_seed(value) for key, value in rule.items() if key != "seed"}
    return [_without_seed(one) for one in rule] if isinstance(rule, list) else rule


def _of_one_seed(card: Card) -> dict[str, Any]:
    kept = ("problem", "part", "num_steps", "num_tasks")
    scores = [
        {key: entry[key] for key in kept if key in entry}
        | {key: row[key] for key in ("final_loss", "final_loss_stderr", "mean_loss", "diverged")}
        for entry in card.get("scores", [])
        for row in entry["rows"]
        if row["rule"] == card.get("name")
    ]
    training = card["training"]
    return {
        "seed": training["seed"],
        "validation_loss": float(training["progress"]["best_validation_loss"]),
        "seconds": training["progress"]["seconds"],
        "commit": training["commit"],
        "command": training["command"],
        "scores": scores,
    }


def _shown(seed: dict[str, Any]) -> str:
    return ", ".join(f"{one['final_loss']:.3g} / {one['mean_loss']:.3g}" for one in seed["scores"])


if __name__ == "__main__":
    common.run(main)
