"""One absl binary for each question, and the harness that they share."""

import os

# This must precede the import of TensorFlow. By itself, TensorFlow does not use oneDNN's
# convolutions on processors without instructions for neural networks, where they halve the time of
# a meta-step on CIFAR-10 (docs/speed.md).
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import l2l_tf  # noqa: F401 silences TensorFlow's messages about itself
