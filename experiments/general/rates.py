"""The search for a learning rate: a grid of half decades that grows where its edge is best."""

import math
from collections.abc import Callable

from l2l_tf.evaluation import Tuning

NUM_RATES = 5
# So many rates are added at most.
MAX_ADDED_RATES = 6


def rate_of(exponent: int) -> float:
    """Returns 10^(exponent / 2), in four digits."""
    return float(f"{10 ** (exponent / 2):.4g}")


def search(loss_of: Callable[[float], float], middle: int) -> Tuning:
    """Returns the rate with the lowest loss; the lower of equal ones.

    It is at the edge of the rates tried only if `MAX_ADDED_RATES` have been added.

    Args:
        loss_of: returns the loss of a rate, infinite if it diverges.
        middle: the middle of the grid, in half decades.
    """
    first = middle - NUM_RATES // 2
    losses = {exponent: loss_of(rate_of(exponent)) for exponent in range(first, first + NUM_RATES)}
    while True:
        best = min(losses, key=lambda exponent: (losses[exponent], exponent))
        beyond = {min(losses): best - 1, max(losses): best + 1}.get(best)
        if beyond is None or len(losses) == NUM_RATES + MAX_ADDED_RATES:
            break
        losses[beyond] = loss_of(rate_of(beyond))
    tried = sorted(losses)
    return Tuning(
        rate_of(best),
        tuple(rate_of(exponent) for exponent in tried),
        tuple(losses[exponent] for exponent in tried),
    )


def finite_or_inf(loss: float | None) -> float:
    """Returns a loss, infinite where a file has null."""
    return math.inf if loss is None else float(loss)
