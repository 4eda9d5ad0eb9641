"""Moving averages of a rule's weights over meta-steps, which Keras's optimizers can keep."""

import contextlib
from collections.abc import Iterator, Sequence

import keras

from l2l_tf.keras_internals import moving_averages


@contextlib.contextmanager
def averaged(
    optimizer: keras.optimizers.Optimizer, weights: Sequence[keras.Variable]
) -> Iterator[None]:
    """Has weights hold their moving averages within its scope, if the optimizer keeps any.

    An optimizer with `use_ema=True` does: after its step t, average_t = m average_(t-1) +
    (1 - m) weights_t, with m its `ema_momentum`, from average_1 = weights_1. So the average is
    never that of zeros, but the weights of the first step count m^(t-1), until late.

    Args:
        optimizer: any Keras optimizer that was built with the weights.
        weights: what it optimises. After the scope they are what they were before.
    """
    # Before the first step, averages are zeros.
    if not optimizer.use_ema or optimizer.iterations.numpy() == 0:
        yield
        return
    before = [weight.numpy() for weight in weights]
    optimizer.finalize_variable_values(weights)
    try:
        yield
    finally:
        for weight, value in zip(weights, before, strict=True):
            weight.assign(value)


def begin_averages(
    optimizer: keras.optimizers.Optimizer, weights: Sequence[keras.Variable]
) -> None:
    """Has the averages of an optimizer that took no step be the weights themselves, not zeros.

    No step sees a difference: after the first, they are the weights in any case. But who goes back
    to the state before the first step, when later ones were taken, finds averages there.

    Args:
        optimizer: any Keras optimizer that was built with the weights.
        weights: what it optimises.
    """
    if optimizer.use_ema:
        for average, weight in zip(moving_averages(optimizer), weights, strict=True):
            average.assign(weight)
