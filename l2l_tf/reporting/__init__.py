"""Presentation of results: tables, JSON, figures."""

# Imported first, so that this package is then registered with Keras (`l2l_tf.startup`).
import keras  # noqa: F401
