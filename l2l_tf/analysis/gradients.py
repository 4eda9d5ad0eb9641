"""The gradients that a rule has met: how large they are, and how long they keep their sign."""

import dataclasses

import numpy as np

from l2l_tf.analysis.record import Record, check_record

_SHARES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.999)


@dataclasses.dataclass(frozen=True)
class GradientStatistics:
    """Sizes and signs of a record's gradients.

    Attributes:
        shares: the shares of gradients, other than zeros, that are at most the next sizes.
        sizes: float, quantiles of their absolute values. NaN if all are zero.
        zeros: the share of gradients that are zero.
        persistence: the correlation between signs of gradients in successive steps: 1 if they never
            change, 0 for noise. NaN if there are no two.
        signal: the share of the mean square gradient that is the square of a coordinate's mean over
            the record: 1 for constant gradients.
    """

    shares: tuple[float, ...]
    sizes: np.ndarray
    zeros: float
    persistence: float
    signal: float


def gradient_statistics(record: Record) -> GradientStatistics:
    """Returns how large a record's gradients are, and how long they keep their sign.

    Raises:
        TypeError: the record is none.
    """
    check_record(record)
    gradients = record.gradients.astype(np.float64)
    sizes = np.abs(gradients[gradients != 0])
    quantiles = np.quantile(sizes, _SHARES) if sizes.size else np.full(len(_SHARES), np.nan)
    products = np.sign(gradients[1:] * gradients[:-1])
    both = products[products != 0]
    total = np.square(gradients).mean()
    return GradientStatistics(
        _SHARES,
        quantiles,
        float(np.mean(gradients == 0)),
        float(both.mean()) if both.size else float("nan"),
        float(np.square(gradients.mean(axis=0)).mean() / total) if total else float("nan"),
    )
