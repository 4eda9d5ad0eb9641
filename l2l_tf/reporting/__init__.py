"""How results are read: tables, JSON, figures."""

# Before all else: Keras is then told of what can be loaded (`l2l_tf.startup`).
import keras  # noqa: F401
