"""Speed and memory, beside other ways to write the same."""

import os

# As in experiments, before TensorFlow is imported.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
