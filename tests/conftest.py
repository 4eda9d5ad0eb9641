"""The set-up of TensorFlow for all tests: a CPU split into two devices, the second for strategies.

TensorFlow accepts this only before it is first used. Without a strategy, everything runs on the
first device.

Graphs are run as they are traced: improving a graph that runs a few times takes a seventh of what
it takes to trace and run it. The processes that tests start improve theirs, as users' do.
"""

import pytest
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@pytest.fixture(scope="session")
def two_devices() -> tf.distribute.MirroredStrategy:
    """A strategy of two replicas, one on each device.

    There is one for all tests: TensorFlow takes the collective operations of a second strategy in
    the same process for those of the first.
    """
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.fixture(scope="module")
def deterministic_operations():
    """Has TensorFlow compute sums in the same order each time, for the rest of a module."""
    # There is a public function to turn this on, and none to turn it off again.
    from tensorflow.python.framework import config

    tf.config.experimental.enable_op_determinism()
    yield
    config.disable_op_determinism()


@pytest.fixture
def one_thread_per_operation(monkeypatch):
    """As if TensorFlow ran each operation on one thread, which can't be changed once it runs."""
    monkeypatch.setattr(tf.config.threading, "get_intra_op_parallelism_threads", lambda: 1)
