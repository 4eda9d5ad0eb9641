"""The set-up of TensorFlow for all tests: a CPU split into two devices, the second for strategies.

TensorFlow accepts this only before it is first used. Without a strategy, everything runs on the
first device.

Graphs are run as they are traced: improving a graph that runs a few times takes a seventh of what
it takes to trace and run it. The processes that tests start improve theirs, as users' do.
"""

import gc
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import tensorflow as tf

# Where tests start programs, and so take longest.
PROGRAMS = [Path(__file__).parent / name for name in ("experiments", "benchmarks")]


def pytest_configure(config: pytest.Config) -> None:
    """Sets TensorFlow up in each process that runs tests, and spares the one that deals them out.

    Importing TensorFlow takes that one seconds, for which the others would wait.
    """
    if getattr(config.option, "dist", "no") != "no" and not hasattr(config, "workerinput"):
        return
    import tensorflow as tf

    devices = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Puts the longest files first where files are dealt out to processes.

    They are dealt out in this order (`--no-loadscope-reorder`), and a long file at the end would
    leave a process idle.
    """
    if not hasattr(config, "workerinput"):
        return
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)

    def length(path: Path) -> tuple[bool, int]:
        num_slow = sum(item.get_closest_marker("slow") is not None for item in files[path])
        return any(path.is_relative_to(folder) for folder in PROGRAMS), num_slow

    items[:] = [item for path in sorted(files, key=length, reverse=True) for item in files[path]]


def pytest_collection_finish() -> None:
    """Spares Python its searches through what was imported, which stays to the end.

    To trace a graph is to make many objects, after every so many of which Python searches for some
    that can be freed.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


@pytest.fixture(scope="session")
def two_devices() -> "tf.distribute.MirroredStrategy":
    """A strategy of two replicas, one on each device.

    There is one for all tests: TensorFlow takes the collective operations of a second strategy in
    the same process for those of the first.
    """
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.fixture(scope="module")
def deterministic_operations():
    """Has TensorFlow compute sums in the same order each time, for the rest of a module."""
    import tensorflow as tf

    # There is a public function to turn this on, and none to turn it off again.
    from tensorflow.python.framework import config

    tf.config.experimental.enable_op_determinism()
    yield
    config.disable_op_determinism()


@pytest.fixture
def one_thread_per_operation(monkeypatch):
    """As if TensorFlow ran each operation on one thread, which can't be changed once it runs."""
    import tensorflow as tf

    monkeypatch.setattr(tf.config.threading, "get_intra_op_parallelism_threads", lambda: 1)
