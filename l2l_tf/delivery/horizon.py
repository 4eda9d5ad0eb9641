"""How long an optimizer trains, for rules that must know it."""

import sys
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from l2l_tf.checks import check_count
from l2l_tf.keras_internals import is_compiled_by_xla

_MISSING = (
    "num_steps must be the number of steps of the whole training, which this rule must know. "
    "Received: num_steps=None. Give epochs times steps per epoch, as in "
    'l2l_tf.load("general", num_steps=10 * 938), or pass callbacks=[l2l_tf.NumStepsFromFit()] '
    "to fit."
)


class Horizon:
    """The number of steps for which an optimizer trains.

    Attributes:
        variable: int64 `[]`, the number. Zero if it is not known.
    """

    def __init__(self, num_steps: int | None):
        self.variable = _count("num_steps")
        # The number for which it was last said that training went on after its end.
        self._told = _count("told_num_steps")
        self._can_print = False
        self.num_steps = num_steps

    @property
    def num_steps(self) -> int | None:
        """The number of steps, or None if it is not known."""
        return int(self.variable.numpy()) or None

    @num_steps.setter
    def num_steps(self, num_steps: int | None) -> None:
        self.variable.assign(0 if num_steps is None else _checked(num_steps))

    def check(self) -> None:
        """Raises ValueError if the number is not known. Works while a step is traced, too."""
        with tf.init_scope():
            # An export is traced in a graph, where variables have no values.
            is_missing = tf.executing_eagerly() and self.num_steps is None
        if is_missing:
            raise ValueError(_MISSING)

    def tell_at_the_end(self, num_taken: tf.Tensor, num_steps: tf.Tensor) -> None:
        """Has a compiled step print one line when training goes on after the last step.

        XLA can't print. For it, `warn_after` does as much at the end of `fit`.

        Args:
            num_taken: int32 `[]`, the number of steps taken before this one.
            num_steps: int32 `[]`, the variable's value on the device of this step.
        """
        self._can_print = not is_compiled_by_xla()
        if not self._can_print:
            return
        told = self._told.value

        def tell() -> tf.Operation:
            told.assign(tf.cast(num_steps, tf.int64))
            return tf.print(_past(num_steps), output_stream=sys.stderr)

        is_new = tf.not_equal(told.read_value(), tf.cast(num_steps, tf.int64))
        tf.cond(is_new & (num_taken >= num_steps), tell, tf.no_op)

    def warn_after(self, num_taken: int) -> None:
        """Warns once that training went on after the last step, if steps can't print."""
        num_steps = self.num_steps
        if num_steps is None or self._can_print or num_taken <= num_steps:
            return
        if int(self._told.numpy()) != num_steps:
            self._told.assign(num_steps)
            warnings.warn(_past(num_steps), stacklevel=3)


def _count(name: str) -> keras.Variable:
    return keras.Variable(
        0, dtype="int64", trainable=False, aggregation="only_first_replica", name=name
    )


def _checked(num_steps: Any) -> int:
    """Returns a number of steps, checked.

    Raises:
        ValueError: it is not a positive integer, or above the largest int32.
    """
    if isinstance(num_steps, np.integer):
        num_steps = int(num_steps)
    check_count("num_steps", num_steps, "Give epochs times steps per epoch.")
    if num_steps > tf.int32.max:
        raise ValueError(
            f"num_steps must be at most {tf.int32.max}. Received: num_steps={num_steps}. "
            "Give epochs times steps per epoch."
        )
    return num_steps


def _past(num_steps: Any) -> Any:
    before = "The rule was told to train for"
    after = (
        "steps, which have been taken. It stands still from now on. To train longer, set "
        "num_steps of the optimizer."
    )
    if isinstance(num_steps, int):
        return f"{before} {num_steps} {after}"
    return tf.strings.join([before, tf.strings.as_string(num_steps), after], " ")


class NumStepsFromFit(keras.callbacks.Callback):
    """Tells a `LearnedOptimizer` how many steps `fit` will take.

        model.compile(l2l_tf.load("general"), "mse")
        model.fit(x, y, epochs=10, callbacks=[l2l_tf.NumStepsFromFit()])

    When training begins, it sets the optimizer's `num_steps` to the steps taken before plus those
    that `fit` will take.
    """

    def __init__(self) -> None:
        super().__init__()
        self._is_set = False

    def on_train_begin(self, logs: Any = None) -> None:
        self._is_set = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._is_set:
            return
        self._is_set = True
        optimizer = self.model.optimizer
        # With mixed precision in float16, Keras wraps the optimizer.
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        if not hasattr(optimizer, "num_taken_steps"):
            raise ValueError(
                "NumStepsFromFit must be used with a LearnedOptimizer. "
                f"Received: a model that is trained by {optimizer!r}. Leave the callback out."
            )
        num_epochs, num_batches = self.params.get("epochs"), self.params.get("steps")
        if not num_batches:
            raise ValueError(
                "NumStepsFromFit must know the number of steps in an epoch. "
                "Received: data whose length Keras does not know. Pass steps_per_epoch to fit, or "
                "give num_steps to the optimizer."
            )
        accumulated = optimizer.gradient_accumulation_steps or 1
        left = (num_epochs - epoch) * num_batches // accumulated
        optimizer.num_steps = max(1, optimizer.num_taken_steps + left)
