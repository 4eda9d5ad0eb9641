"""Where a rule's states are: principal components of the visited ones."""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from l2l_tf.analysis.record import Record, check_record
from l2l_tf.checks import check_one_of


@dataclasses.dataclass(frozen=True)
class StateSpace:
    """The states that one part of a rule has visited, at T steps of C coordinates.

    Attributes:
        part: the name of the part.
        variances: float `[S]`, of the principal components, descending.
        components: float `[S, S]`, one in each row, as directions in the space of states that were
            divided by `scales`.
        mean: float `[S]`, of the states as they are.
        scales: float `[S]`, what each number was divided by: the root mean variance of its leaf.
        projections: float32 `[T, C, 3]`, the states along the first three components (fewer if S
            is smaller).
        participation_ratio: the number of dimensions that states really use, (sum of variances)^2 /
            sum of their squares: between 1 and S.
        by_step: float `[T]`, the same of the states before each step.
    """

    part: str
    variances: np.ndarray
    components: np.ndarray
    mean: np.ndarray
    scales: np.ndarray
    projections: np.ndarray
    participation_ratio: float
    by_step: np.ndarray


def state_space(record: Record, part: str | None = None) -> StateSpace:
    """Returns the principal components of visited states. A count of steps is no part of them.

    Each leaf of the state is first divided by the root mean variance of its numbers, since leaves
    have units of their own: a mean of gradients has that of the loss. So the result does not depend
    on the loss's scale if the rule does not.

    Source: Maheswaranathan et al. 2021 (arXiv 2011.02159).

    Args:
        record: the record of a rule that has a state for each coordinate.
        part: the part of the rule. May be left out if there is one.

    Raises:
        TypeError: the record is none.
        ValueError: the record has no states, or no such part.
    """
    name = checked_part(record, part)
    leaves = _as_vectors(record.states[name])  # type: ignore[index]
    scales = np.concatenate([_scale(leaf) for leaf in leaves])
    states = np.concatenate(leaves, axis=-1)
    flat = states.reshape(-1, states.shape[-1])
    mean = flat.mean(axis=0)
    states, centred = states / scales, (flat - mean) / scales
    variances, components = _principal(_covariance(centred))
    shown = (centred @ components[:3].T).reshape(*states.shape[:2], -1)
    ratios = [_participation(_covariance(one - one.mean(axis=0))) for one in states]
    return StateSpace(
        name,
        variances,
        components,
        mean,
        scales,
        shown.astype(np.float32),
        _participation(np.diag(variances)),
        np.array(ratios),
    )


def checked_part(record: Record, part: str | None) -> str:
    """Returns the name of a part whose states a record holds.

    Raises:
        TypeError: the record is none.
        ValueError: the record has no states, or no such part.
    """
    check_record(record)
    if record.states is None:
        raise ValueError(
            "The record must hold states of single coordinates. Received: a record without, as "
            "that of a rule that looks at whole tensors. Take effective_rate or attribution for it."
        )
    if part is None and len(record.parts) == 1:
        (part,) = record.parts
    check_one_of("part", part, record.parts, "Name the part of the rule to look at.")
    return str(part)


def _as_vectors(states: Any) -> list[np.ndarray]:
    """Returns the leaves of states, arrays `[T, C, ...]`, as `[T, C, S]` each, float64.

    Scalars `[T]` are left out.

    Raises:
        ValueError: the rule has no state.
    """
    leaves = [leaf for leaf in tf.nest.flatten(states) if np.ndim(leaf) > 1]
    if not leaves:
        raise ValueError(
            "The record must be of a rule that keeps a state. Received: one without. Look at "
            "another rule."
        )
    return [leaf.reshape(*leaf.shape[:2], -1).astype(np.float64) for leaf in leaves]


def _scale(leaf: np.ndarray) -> np.ndarray:
    """Returns the root mean variance of a leaf's numbers, for each of them; 1 if none varies."""
    size = float(np.sqrt(leaf.var(axis=(0, 1)).mean()))
    return np.full(leaf.shape[-1], size or 1.0)


def _covariance(centred: np.ndarray) -> np.ndarray:
    return centred.T @ centred / len(centred)


def _principal(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns variances, descending, and components, one in each row."""
    values, vectors = np.linalg.eigh(covariance)
    return np.maximum(values[::-1], 0), vectors[:, ::-1].T


def _participation(covariance: np.ndarray) -> float:
    """Returns the participation ratio, or NaN if states do not vary."""
    # The sums of eigenvalues and of their squares, without computing them.
    total = float(np.square(covariance).sum())
    return float(np.trace(covariance)) ** 2 / total if total else float("nan")
