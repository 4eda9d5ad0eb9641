"""One absl binary for each question, and what they share."""

import os

# Before TensorFlow is imported: by itself, it leaves oneDNN's convolutions out on processors
# without instructions for neural networks, where they halve the time of a meta-step on CIFAR-10
# (BUILD.md, "Speed").
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

# CUDA's libraries report as an error that they find no GPU where there is none. What fails is
# raised whether TensorFlow's messages are shown or not.
if not any(map(os.path.exists, ("/dev/nvidiactl", "/dev/dxg"))):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import l2l_tf  # noqa: F401 keeps quiet what TensorFlow prints of itself
