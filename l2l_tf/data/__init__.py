"""Data: labelled data sets, and pictures from files."""

from l2l_tf.data.datasets import Dataset, Examples

__all__ = ["Dataset", "Examples"]
