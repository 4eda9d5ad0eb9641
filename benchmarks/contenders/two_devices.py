"""Meta-steps of a whole `MetaTrainer`, one task on each of two logical devices of the CPU."""

from collections.abc import Callable

import tensorflow as tf

from benchmarks.contenders import one_device
from benchmarks.workloads import MetaStep


def meta_step(workload: MetaStep) -> Callable[[], float]:
    """Returns a function that does one meta-step and returns its meta-loss."""
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    devices = [device.name for device in tf.config.list_logical_devices("CPU")]
    with tf.distribute.MirroredStrategy(devices).scope():
        return one_device.meta_step(workload)
