"""One absl binary for each question, and what they share."""

import os

# Before TensorFlow is imported: by itself, it leaves oneDNN's convolutions out on processors
# without instructions for neural networks, where they halve the time of a meta-step on CIFAR-10
# (BUILD.md, "Speed").
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
