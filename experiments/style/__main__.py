"""Does a rule trained on one painting and small pictures beat tuned ones there and elsewhere?

Andrychowicz et al. 2016, section 3.4 and figures 8 and 9, arXiv 1606.04474. The loss is that of
Gatys et al. 2015, arXiv 1508.06576. `--mode=apply` styles one photo with a saved rule.
"""

import json
from pathlib import Path

import tensorflow as tf
from absl import flags

from experiments.harness import common, pipeline
from experiments.style.apply import FLAGS_OF_APPLY, apply_rule
from experiments.style.figures import TABLES, Pictures, check_references, figure8
from experiments.style.problems import load_features, load_photos, style_parts
from l2l_tf.data.photos import read_image, with_shorter_side

FLAGS = flags.FLAGS
# Redefines --mode, with one more mode.
del FLAGS.mode
flags.DEFINE_enum(
    "mode",
    "train_and_evaluate",
    (*common.MODES, "apply"),
    "Whether to train a rule, evaluate rules, or both; apply styles one photo.",
)
FLAGS.set_default("num_steps", 128)
FLAGS.set_default("unroll_length", 32)
FLAGS.set_default("preprocessing", "log_and_sign")
# The paper's rule for pictures has no postprocessing.
FLAGS.set_default("output_scale", 1.0)
# The network's convolutions take most of the time, and run one after the other.
FLAGS.set_default("threads_per_operation", 0)


def main(strategy: tf.distribute.Strategy) -> None:
    """Runs the experiment that the flags describe."""
    if FLAGS.mode == "apply":
        apply_rule()
        return
    _check_flags()
    check_references(FLAGS.num_steps, FLAGS.image_size)
    photos, style = load_photos()
    styles = {TABLES[0]: (style, FLAGS.image_size)}
    if FLAGS.new_style_image is not None:
        styles[TABLES[1]] = (read_image(FLAGS.new_style_image), 2 * FLAGS.image_size)
    features = load_features()
    parts = {name: style_parts(features, photos, *one) for name, one in styles.items()}
    trained = parts[TABLES[0]]
    tests = {name: one.test for name, one in parts.items()}
    pictures = Pictures(tests)
    problems = pipeline.Problems(
        trained.train,
        trained.validation,
        dict(tests),
        {name: one.validation for name, one in parts.items()},
        pictures.measures,
    )
    pipeline.train_and_evaluate("style", problems, strategy, "Neural style")
    if "evaluate" not in FLAGS.mode or not strategy.extended.should_checkpoint:
        return
    output_dir = Path(FLAGS.output_dir)
    files = ["results.json", "results_new_style.json"][: len(styles)]
    tables = [json.loads((output_dir / file).read_text()) for file in files]
    shrunk = {name: with_shorter_side(*one) for name, one in styles.items()}
    written = [
        figure8(output_dir, tables),
        *pictures.write(output_dir, shrunk),
    ]
    print(f"Wrote {', '.join(written)} to {output_dir}")


def _check_flags() -> None:
    own = [name for name in FLAGS_OF_APPLY if name != "style_image"]
    given = [f"--{name}={FLAGS[name].value}" for name in own if FLAGS[name].value is not None]
    if given:
        raise ValueError(
            "--content and --output must go with --mode=apply. "
            f"Received: {', '.join(given)} with --mode={FLAGS.mode}. Leave the one or the other "
            "out; training takes its photos from --content_dir."
        )


if __name__ == "__main__":
    common.run(main)
