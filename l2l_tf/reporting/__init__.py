"""Presentation of results: tables, JSON, figures."""

# Imported first, so that this package is then registered with Keras (`l2l_tf.startup`).
import keras  # noqa: F401

from l2l_tf.reporting.results import (
    Row,
    compare_with_baselines,
    format_markdown,
    format_table,
    result_row,
)

__all__ = ["Row", "compare_with_baselines", "format_markdown", "format_table", "result_row"]
