"""Styles one photo like one painting, with a saved rule: `--mode=apply`."""

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from experiments.harness.common import FLAGS
from experiments.harness.path_flags import define_path
from experiments.harness.places import check_output
from experiments.style.problems import load_features, set_defaults_as_trained, style_problem
from l2l_tf.data.photos import MIN_SIDE, SUFFIXES, read_image, with_longer_side, write_image
from l2l_tf.delivery import find_rule, load_card, load_rule
from l2l_tf.evaluation import bind, start, unroll
from l2l_tf.problems import StyleTransferProblem

define_path("content", None, "apply: the photo, from 32 to 4096 pixels a side.")
define_path("output", None, "apply: the picture to write, such as styled.png.")
flags.DEFINE_integer(
    "max_side", None, "apply: shrink the photo's longer side to this many pixels, to save time.", 32
)

FLAGS_OF_APPLY = ("content", "style_image", "output")
# The rule to apply if no rule is named.
_DEFAULT_RULE = "style_lstm"


class OnePicture(StyleTransferProblem):
    """The problem of one photo, whose maps are computed once."""

    def __init__(self, *arguments: Any, **named: Any):
        super().__init__(*arguments, **named)
        self._content_maps = super().batch(tf.constant([0, 0]), tf.constant(0))

    def batch(self, seed: tf.Tensor, step: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._content_maps


def apply_rule() -> None:
    """Styles the photo that flags name, prints the loss as it falls and writes the picture.

    Raises:
        FileNotFoundError: a picture or the rule does not exist.
        ValueError: a flag is missing, or a picture or the rule can't be used.
    """
    _check_flags()
    path = find_rule(FLAGS.rule[0] if FLAGS.rule else _DEFAULT_RULE)
    photo, style = _read_photo(), read_image(FLAGS.style_image)
    rule = load_rule(path)
    # Use the validation problem: for training, scales or a convex term may have been added.
    set_defaults_as_trained(
        load_card(path).get("training", {}).get("validation_problem_config", {})
    )
    problem = style_problem(load_features(), [photo], style, photo.shape[:2], make=OnePicture)
    losses, parameters = _run(rule, problem)
    if not np.isfinite(losses[-1]):
        raise ValueError(
            "The loss must stay finite for a picture to be written. "
            f"Received: {losses[-1]} after {len(losses) - 1} steps. Take fewer by --num_steps, or "
            "another rule."
        )
    picture = problem.pictures(parameters)
    write_image(FLAGS.output, picture[0])
    of_file = problem.loss_of_pictures(picture, problem.batch(tf.constant([0, 0]), tf.constant(0)))
    print(
        f"Loss {losses[0]:.4g} before, {losses[-1]:.4g} after {len(losses) - 1} steps, "
        f"{float(of_file[0]):.4g} once clipped to what a screen shows.\n"
        f"Wrote {photo.shape[0]} x {photo.shape[1]} pixels to {FLAGS.output}"
    )


def _run(rule: keras.layers.Layer, problem: StyleTransferProblem) -> tuple[list[float], np.ndarray]:
    """Returns the losses at each iterate and the parameters after the last step."""
    arranged = bind(rule, problem).for_steps()
    seed = tf.constant([0, 0])
    begin = tf.function(lambda: start(arranged, problem, seed), autograph=False)
    advance = tf.function(
        lambda iterate: unroll(arranged, problem, seed, iterate, 1, horizon=FLAGS.num_steps)[1],
        autograph=False,
    )
    progress = keras.utils.Progbar(FLAGS.num_steps, stateful_metrics=["loss"])
    iterate = begin()
    losses = [float(iterate.losses[0])]
    for step in range(FLAGS.num_steps):
        iterate = advance(iterate)
        losses.append(float(iterate.losses[0]))
        progress.update(step + 1, [("loss", losses[-1])])
    return losses, iterate.parameters.numpy()


def _read_photo() -> np.ndarray:
    photo = read_image(FLAGS.content)
    if FLAGS.max_side is None:
        return photo
    shrunk = with_longer_side(photo, FLAGS.max_side)
    if min(shrunk.shape[:2]) < MIN_SIDE:
        height, width = photo.shape[:2]
        raise ValueError(
            f"--max_side must leave the photo's shorter side {MIN_SIDE} pixels, at least. "
            f"Received: --max_side={FLAGS.max_side} with a photo of {height} x {width} pixels. "
            "Give more."
        )
    return shrunk


def _is_same_file(one: str, other: str) -> bool:
    """Returns whether two paths, however written, lead to the same file."""
    try:
        return os.path.samefile(one, other)
    except OSError:  # One of them does not exist.
        return os.path.realpath(one) == os.path.realpath(other)


def _check_flags() -> None:
    missing = [f"--{name}" for name in FLAGS_OF_APPLY if FLAGS[name].value is None]
    if missing:
        raise ValueError(
            "--mode=apply must have --content, the photo, --style_image, the painting, and "
            f"--output, the picture to write. Received: no {', '.join(missing)}. Name files."
        )
    if Path(FLAGS.output).suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"--output must end in one of {', '.join(SUFFIXES)}. "
            f"Received: --output={FLAGS.output}. Choose .png, which keeps every pixel."
        )
    for name in ("content", "style_image"):
        if _is_same_file(FLAGS.output, str(FLAGS[name].value)):
            raise ValueError(
                f"--output must be another file than --{name}. Received: --output={FLAGS.output} "
                f"with --{name}={FLAGS[name].value}, which would be lost. Choose another name."
            )
    check_output("output", Path(FLAGS.output))
    if FLAGS.output_dir is not None:
        raise ValueError(
            "--output_dir must be left out with --mode=apply, which writes one file. "
            f"Received: --output_dir={FLAGS.output_dir} with --output={FLAGS.output}. Name the "
            "folder in --output."
        )
    if len(FLAGS.rule) > 1:
        raise ValueError(
            "--rule must name one rule to apply. "
            f"Received: --rule={','.join(FLAGS.rule)}. Apply them one after the other."
        )
