"""The replicas of a distribution strategy: sharing tasks and reaching agreement."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf


class Replicas:
    """The replicas of a synchronous strategy, or a single replica without a strategy.

    Each process runs the replicas of its own devices. A function that `run` runs sees one of them.
    A value that differs between replicas is returned from `run` as TensorFlow's per-replica value,
    and may be passed back into it.

    Args:
        strategy: a synchronous `tf.distribute.Strategy`.

    Attributes:
        count: the number of replicas over all processes.
        is_chief: whether this process writes files.
    """

    def __init__(self, strategy: tf.distribute.Strategy):
        self._strategy = strategy
        self.count: int = strategy.num_replicas_in_sync
        self.is_chief: bool = strategy.extended.should_checkpoint
        ones = strategy.experimental_distribute_values_from_function(lambda _: tf.constant(1))
        self._spans_processes = self.count > len(strategy.experimental_local_results(ones))
        self._mean_over_all = self.compiled(self._mean_of_copy)
        self._rows_of_all = self.compiled(self._gather_rows)

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Runs a function on each replica and returns its results."""
        return self._strategy.run(function, arguments)

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns a function that runs another one on each replica, compiled.

        As in Keras, TensorFlow traces it without AutoGraph: that takes seconds, and what depends on
        the value of a tensor says so by `tf.cond` and `tf.where`.
        """
        # TensorFlow counts how often functions are traced by their code, which lambdas would share.
        return tf.function(functools.partial(self.run, function), autograph=False)

    def share(self, items: tf.Tensor) -> tf.Tensor:
        """Returns the current replica's part of the first axis; call it within `run`."""
        size = items.shape[0] // self.count
        first = tf.distribute.get_replica_context().replica_id_in_sync_group * size
        return tf.ensure_shape(items[first : first + size], [size, *items.shape[1:]])

    def mean(self, tensors: Any) -> Any:
        """Returns the mean of each tensor over all replicas; call it within `run`."""
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.MEAN, tensors)

    def on_first(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns the tensors on the first replica, zeros on the others; call it within `run`.

        A sum over replicas, as in `keras.optimizers.Optimizer.apply`, then gives the tensors
        themselves.
        """
        is_first = tf.distribute.get_replica_context().replica_id_in_sync_group == 0
        return [tf.where(is_first, tensor, tf.zeros_like(tensor)) for tensor in tensors]

    def one(self, value: Any) -> tf.Tensor:
        """Returns the value of one replica of this process, if all replicas have the same value."""
        return self._strategy.experimental_local_results(value)[0]

    def wait_for_all(self) -> None:
        """Waits until all processes have called this.

        It tolerates a process that has called this and exited while this one was still waiting.
        """
        with contextlib.suppress(tf.errors.UnavailableError):
            self.any([False])

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """Returns which flags are set in any process. All processes must call this together."""
        if not self._spans_processes:
            return list(flags)
        return [share > 0 for share in self._means(flags)]

    def agree(self, numbers: Sequence[int]) -> bool:
        """Returns whether all processes have the same numbers. All must call this together.

        If they differ, no process returns before all of them know, so each may exit at once.
        """
        if not self._spans_processes:
            return True
        agreed = not self.any([self._means(numbers) != list(numbers)])[0]
        if not agreed:
            self.wait_for_all()
        return agreed

    def collect(self, values: Any) -> list[np.ndarray]:
        """Returns each tensor of a nest with a new first axis for replicas, on all processes."""
        leaves = tf.nest.flatten(values)
        if self._spans_processes:
            return [self.one(rows).numpy() for rows in self._rows_of_all(leaves)]
        local = [self._strategy.experimental_local_results(leaf) for leaf in leaves]
        return [np.stack([row.numpy() for row in rows]) for rows in local]

    def spread(self, arrays: Sequence[np.ndarray], structure: Any) -> Any:
        """Returns the values from which `collect` made arrays, as a nest of the given structure."""

        def of_replica(context: tf.distribute.experimental.ValueContext) -> Any:
            index = context.replica_id_in_sync_group
            leaves = [tf.constant(array[index]) for array in arrays]
            return tf.nest.pack_sequence_as(structure, leaves)

        return self._strategy.experimental_distribute_values_from_function(of_replica)

    def _means(self, numbers: Sequence[float]) -> list[float]:
        return self.one(self._mean_over_all(tf.constant(numbers, tf.float64))).numpy().tolist()

    def _mean_of_copy(self, numbers: tf.Tensor) -> tf.Tensor:
        # A copy resides on the replica's device; an argument shared by all replicas doesn't.
        return self.mean(tf.identity(numbers))

    def _gather_rows(self, values: Any) -> Any:
        rows = tf.nest.map_structure(lambda value: value[tf.newaxis], values)
        return tf.distribute.get_replica_context().all_gather(rows, axis=0)
