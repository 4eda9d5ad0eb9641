"""Speed and memory, beside other implementations of the same computations."""

import os

# As in experiments, this must precede the import of TensorFlow.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
