"""Moving averages of a rule's weights over meta-steps, as kept by Keras's optimizers."""

import contextlib
from collections.abc import Iterator, Sequence

import keras

from l2l_tf.keras_internals import moving_averages


@contextlib.contextmanager
def averaged(
    optimizer: keras.optimizers.Optimizer, weights: Sequence[keras.Variable]
) -> Iterator[None]:
    """Temporarily swaps in the optimizer's moving averages of weights, if it keeps any.

    An optimizer with `use_ema=True` keeps them. After its step t, average_t =
    m average_(t-1) + (1 - m) weights_t, where m is its `ema_momentum`. It starts with average_1 =
    weights_1. The average therefore never includes zeros, but the weights of the first step keep a
    share of m^(t-1), which fades slowly.

    Args:
        optimizer: any Keras optimizer that was built with the weights.
        weights: the variables that it optimises. Their own values are restored at the end of the
            scope.
    """
    # Before the first step, the averages are zeros.
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
    """Initialises the averages of an optimizer that has taken no step with the weights, not zeros.

    No step is affected: after the first, the averages are the weights in any case. But if training
    later goes back to the state before the first step, it finds valid averages there.

    Args:
        optimizer: any Keras optimizer that was built with the weights.
        weights: the variables that it optimises.
    """
    if optimizer.use_ema:
        for average, weight in zip(moving_averages(optimizer), weights, strict=True):
            average.assign(weight)
