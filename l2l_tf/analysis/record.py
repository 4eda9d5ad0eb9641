"""The record of what a rule saw and did along a real trajectory."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from l2l_tf.checks import check_instance, check_one_of

# The name of the one part of a rule that has no parts.
WHOLE = "rule"


@dataclasses.dataclass(frozen=True)
class Record:
    """What a rule saw and did at T steps, on C of the coordinates.

    Attributes:
        gradients: float32 `[T, C]`, the gradient in each step.
        deltas: float32 `[T, C]`, the rule's answers.
        losses: float32 `[T]`, where the gradients were taken.
        tensors: the paths of the tensors that the coordinates belong to.
        owners: int `[C]`, for each coordinate the index of its tensor.
        parts: for each part of the rule by its name, the indices of its coordinates. A rule without
            parts has one, "rule".
        states: for each part, the states before each step: the rule's nest, in which each leaf has
            a leading axis of length T, and scalars are `[T]`. None for a rule that looks at whole
            tensors, whose state is not that of single coordinates, or if they were not kept.

    Raises:
        TypeError: gradients, deltas, losses or owners are no arrays of NumPy.
        ValueError: there are no steps or no coordinates, a gradient or delta is not finite, shapes
            don't match, an owner is no tensor, or a coordinate is not in one part.
    """

    gradients: np.ndarray
    deltas: np.ndarray
    losses: np.ndarray
    tensors: tuple[str, ...]
    owners: np.ndarray
    parts: Mapping[str, np.ndarray]
    states: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("gradients", "deltas", "losses", "owners"):
            value, advice = getattr(self, name), "Convert it with np.asarray."
            check_instance(name, value, np.ndarray, "an array of NumPy", advice)
        shape = self.gradients.shape
        if len(shape) != 2 or 0 in shape:
            raise ValueError(
                "A record must hold gradients [T, C] of one or more steps and coordinates. "
                f"Received: gradients of shape {shape}. Record a trajectory that has steps."
            )
        if self.deltas.shape != shape or self.owners.shape != shape[1:]:
            raise ValueError(
                "A record must hold a delta for each gradient and a tensor for each coordinate. "
                f"Received: gradients of shape {shape}, deltas of shape {self.deltas.shape}, "
                f"owners of shape {self.owners.shape}. Record them together."
            )
        if self.losses.shape != shape[:1]:
            raise ValueError(
                f"A record must hold a loss for each of {shape[0]} steps. "
                f"Received: losses of shape {self.losses.shape}. Record them together."
            )
        if not (self.owners.min() >= 0 and self.owners.max() < len(self.tensors)):
            raise ValueError(
                f"owners must be indices of the {len(self.tensors)} tensors. "
                f"Received: owners from {self.owners.min()} to {self.owners.max()}. Count tensors "
                "from 0."
            )
        owned = np.sort(np.concatenate([*map(np.ravel, self.parts.values()), np.zeros(0, int)]))
        if not np.array_equal(owned, np.arange(shape[1])):
            raise ValueError(
                f"parts must hold each of {shape[1]} coordinates once. "
                f"Received: parts={dict(self.parts)}. Give {{'rule': np.arange({shape[1]})}} for a "
                "rule without parts."
            )
        finite = np.isfinite(self.gradients).all(axis=1) & np.isfinite(self.deltas).all(axis=1)
        if not finite.all():
            raise ValueError(
                "A record must hold finite gradients and deltas. Received: some that are not, "
                f"first in step {int(np.argmin(finite))}. Record fewer steps."
            )

    @property
    def num_steps(self) -> int:
        """T."""
        return self.gradients.shape[0]

    @property
    def num_coordinates(self) -> int:
        """C."""
        return self.gradients.shape[1]

    @property
    def units(self) -> np.ndarray:
        """The root mean square of each coordinate's gradients, float32 `[C]`.

        Where all gradients are zero, it is the smallest of the others, or 1 if there are none.
        """
        size = np.sqrt(np.mean(np.square(self.gradients, dtype=np.float64), axis=0))
        present = size[size > 0]
        return np.where(size > 0, size, present.min() if present.size else 1.0).astype(np.float32)

    def of_tensor(self, index: int) -> np.ndarray:
        """Returns the indices of the coordinates of a tensor."""
        return np.flatnonzero(self.owners == index)

    def of_part(self, name: str) -> "Record":
        """Returns the record of one part, as that of a rule without parts.

        Raises:
            ValueError: there is no such part.
        """
        check_one_of("name", name, self.parts, "Name a part that has coordinates.")
        own = self.parts[name]
        states = None if self.states is None else {WHOLE: self.states[name]}
        return Record(
            self.gradients[:, own],
            self.deltas[:, own],
            self.losses,
            self.tensors,
            self.owners[own],
            {WHOLE: np.arange(len(own))},
            states,
        )


def check_record(record: Any) -> None:
    """Checks that an argument is a record.

    Raises:
        TypeError: it is something else.
    """
    check_instance("record", record, Record, "a Record", "Take one with record_trajectory.")
