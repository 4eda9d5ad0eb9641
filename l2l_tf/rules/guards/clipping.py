"""How far a proposed delta may be from that of a fallback: the arithmetic of guards."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from l2l_tf.rules.sums import sum_of_all


class Clipped(NamedTuple):
    """The deltas of a guarded step.

    Attributes:
        deltas: one for each tensor, with the batch axes and the shape of its proposal.
        is_cut: bool `[...]`, whether any proposal was cut, for each batch entry.
        share: float `[...]`, the share of the differences that was cut: the norm of what is
            missing over the norm of what was proposed. 1 where a proposal was not finite.
        spent: float `[...]`, what the step took from the allowance.
    """

    deltas: list[tf.Tensor]
    is_cut: tf.Tensor
    share: tf.Tensor
    spent: tf.Tensor


def clipped(
    proposals: Sequence[tf.Tensor],
    fallbacks: Sequence[tf.Tensor],
    theta: float | Sequence[tf.Tensor],
    is_joint: bool,
    num_batch_axes: int = 0,
    allowance: tf.Tensor | None = None,
) -> Clipped:
    """Returns the deltas nearest to proposals that are within a radius of those of a fallback.

    For a proposal u and the fallback's delta d, the difference v = u - d is scaled down to the
    radius r, where r^2 = theta^2 |d|^2 + a. Within the radius, the result is u, bit for bit; with
    r = 0, or where r^2 is too small for a number, it is d, bit for bit. A proposal with a number
    that is not finite, or whose square is not, is replaced by d.

    Args:
        proposals: the rule's deltas, one for each tensor, float with leading batch axes.
        fallbacks: the fallback's, likewise. They must be finite.
        theta: the radius relative to the fallback's delta: a number, or one of each tensor for each
            batch entry, positive and finite, float `[...]`. Infinity replaces only what is not
            finite.
        is_joint: whether norms are those of all tensors together, rather than of each.
        num_batch_axes: the number of leading axes; each entry is clipped for itself.
        allowance: a, float `[...]` for each batch entry. None is zero. Only with joint norms.
    """
    num = num_batch_axes
    pairs = list(zip(proposals, fallbacks, strict=True))
    differences = [proposal - fallback for proposal, fallback in pairs]
    own_squares = [sum_of_all(tf.square(one), num) for one in differences]
    own_radii = [sum_of_all(tf.square(one), num) for one in fallbacks]
    squares = [tf.add_n(own_squares)] * len(pairs) if is_joint else own_squares
    radii = [tf.add_n(own_radii)] * len(pairs) if is_joint else own_radii
    thetas = [theta] * len(pairs) if isinstance(theta, float) else theta
    radii = [_times_square(one, radius) for one, radius in zip(thetas, radii, strict=True)]
    if allowance is not None:
        free = tf.math.is_finite(squares[0])
        over = tf.where(free, squares[0] - radii[0], tf.zeros_like(squares[0]))
        spent = tf.clip_by_value(over, tf.zeros_like(allowance), allowance)
        radii = [one + allowance for one in radii]
    else:
        spent = tf.zeros_like(squares[0])
    deltas, scales, are_whole = [], [], []
    for (proposal, fallback), difference, square, radius in zip(
        pairs, differences, squares, radii, strict=True
    ):
        is_finite = tf.math.is_finite(square)
        # A radius whose square is too small for a number is zero, as |v|^2 then may be.
        is_within = is_finite & (square <= radius) & (radius > 0)
        # Zero wherever the root has no derivative.
        is_cut = is_finite & ~is_within & (radius > 0)
        one = tf.ones_like(square)
        # Roots first: the ratio of squares may be too small for a number.
        roots = [tf.sqrt(tf.where(is_cut, one_of, one)) for one_of in (radius, square)]
        root = roots[0] / roots[1]
        scale = tf.where(is_cut, root, tf.zeros_like(one))

        def of_tensor(value: tf.Tensor, like: tf.Tensor = difference) -> tf.Tensor:
            return tf.reshape(value, [*value.shape, *[1] * (like.shape.rank - num)])

        shortened = fallback + of_tensor(scale) * tf.where(
            of_tensor(is_cut), difference, tf.zeros_like(difference)
        )
        deltas.append(
            tf.where(
                of_tensor(is_within), proposal, tf.where(of_tensor(is_cut), shortened, fallback)
            )
        )
        scales.append(tf.where(is_within, one, scale))
        are_whole.append(is_within | tf.equal(square, 0))
    return Clipped(
        deltas,
        ~tf.reduce_all(tf.stack(are_whole), 0),
        _share(own_squares, scales),
        tf.stop_gradient(spent),
    )


def _times_square(theta: Any, square: tf.Tensor) -> tf.Tensor:
    """Returns theta^2 times a square; infinity for an infinite theta, even of zero."""
    if isinstance(theta, float):
        if math.isinf(theta):
            return tf.fill(tf.shape(square), tf.constant(math.inf, square.dtype))
        theta = tf.constant(min(theta, float(square.dtype.max)), square.dtype)
    # Not the square of theta, which may overflow: infinity times zero is no number.
    return square * theta * theta


def _share(squares: Sequence[Any], scales: Sequence[Any]) -> tf.Tensor:
    """Returns the share of the differences that is cut, float `[...]`."""
    total = tf.add_n(list(squares))
    cut = tf.add_n([one * tf.square(1 - scale) for one, scale in zip(squares, scales, strict=True)])
    is_known = tf.math.is_finite(total) & (total > 0)
    ratio = tf.where(is_known, cut, tf.zeros_like(cut)) / tf.where(is_known, total, 1)
    return tf.stop_gradient(tf.where(tf.math.is_finite(total), tf.sqrt(ratio), 1))
