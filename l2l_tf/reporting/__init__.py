"""How results are read: tables, JSON, figures."""

# Before all else: Keras is then told of what can be loaded (`l2l_tf.startup`).
import keras  # noqa: F401

from l2l_tf.reporting.results import (
    Row,
    compare_with_baselines,
    format_markdown,
    format_table,
    result_row,
)

__all__ = ["Row", "compare_with_baselines", "format_markdown", "format_table", "result_row"]
