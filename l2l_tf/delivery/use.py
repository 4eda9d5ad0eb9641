"""The intended use of a saved rule: the entry `use` of its card."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

# The factor by which initial weights may be wider than expected without a warning.
_WIDER = 3.0


@dataclasses.dataclass(frozen=True)
class RuleUse:
    """The intended use of a rule, and its limits.

    Attributes:
        purpose: what it trains well, in words.
        trains_models: whether it is for the weights of Keras models at all.
        initial_stddev: the standard deviation of the normal distribution from which initial weights
            should be drawn. None if it accepts any, including Keras's defaults.
        num_steps: the number of training steps for which it was learned, or the smallest and the
            largest of several.
        fails_with: where it performs poorly: activations, networks, lengths of training.
        instead: the name of the rule to use in such cases. None if the package has no better one.
        learned_on: what it was trained on, in words.

    Raises:
        TypeError: an attribute has the wrong type.
        ValueError: an attribute is out of range.
    """

    purpose: str
    trains_models: bool
    initial_stddev: float | None
    num_steps: int | tuple[int, int]
    fails_with: tuple[str, ...] = ()
    instead: str | None = None
    learned_on: str = ""

    def __post_init__(self) -> None:
        stddev = self.initial_stddev
        if (
            not isinstance(self.purpose, str)
            or not isinstance(self.fails_with, list | tuple)
            or not all(isinstance(text, str) for text in self.fails_with)
            or not isinstance(self.trains_models, bool)
            or not (stddev is None or isinstance(stddev, float))
            or not isinstance(self.num_steps, int | list | tuple)
            or any(type(number) is not int for number in self.range_of_steps)
            or not isinstance(self.instead, str | None)
            or not isinstance(self.learned_on, str)
        ):
            raise TypeError(
                "A rule's use must hold purpose (text), trains_models (true or false), "
                "initial_stddev (a number with a decimal point, or null), num_steps (an integer "
                "or a list of two), fails_with (a list of texts), instead (a rule's name, or null) "
                f"and learned_on (text). Received: {self}. Correct the entry of another kind."
            )
        numbers = self.range_of_steps
        is_range = len(numbers) == 2 and 1 <= numbers[0] <= numbers[1]
        if not is_range or not (stddev is None or 0 <= stddev < np.inf):
            raise ValueError(
                "A rule's use must have num_steps from 1 on, the smaller of two first, and an "
                "initial_stddev that is finite and not negative. Received: "
                f"num_steps={self.num_steps}, initial_stddev={stddev}. Correct them."
            )
        if not isinstance(self.num_steps, int):
            object.__setattr__(self, "num_steps", numbers)
        object.__setattr__(self, "fails_with", tuple(self.fails_with))

    @classmethod
    def from_json(cls, entry: Any) -> "RuleUse":
        """Returns the use described in a card's entry.

        Raises:
            TypeError: the entry, or a value in it, has the wrong type.
            ValueError: a key is missing or unknown, or a value is out of range.
        """
        if not isinstance(entry, dict):
            raise TypeError(
                "A rule's use must be an object of JSON. "
                f'Received: {entry!r}. Write {{"purpose": ...}}.'
            )
        fields = {field.name: field.default for field in dataclasses.fields(cls)}
        required = {name for name, default in fields.items() if default is dataclasses.MISSING}
        if not required <= entry.keys() <= fields.keys():
            raise ValueError(
                f"A rule's use must have the keys {sorted(required)} and may have "
                f"{sorted(fields.keys() - required)}. Received: keys {sorted(entry)}. "
                "Correct them."
            )
        return cls(**entry)

    @property
    def range_of_steps(self) -> tuple[int, ...]:
        """The smallest and the largest number of training steps for which it was learned."""
        numbers = self.num_steps
        return (numbers, numbers) if isinstance(numbers, int) else tuple(numbers)

    @property
    def is_general(self) -> bool:
        """Whether it is for any Keras model, whatever its initial weights."""
        return self.trains_models and self.initial_stddev is None

    def warning(self, name: str, variables: Sequence[Any]) -> str | None:
        """Returns a warning for the user before training begins, or None if all is as expected.

        Args:
            name: the rule's name.
            variables: the variables to be trained, with their initial values.
        """
        other = f"Load {self.instead!r} instead." if self.instead else "Take another optimizer."
        if not self.trains_models:
            if len(variables) < 2:
                return None
            return f"The rule {name!r} is for {self.purpose}, not for a model's weights. {other}"
        if self.initial_stddev is None:
            return None
        # Biases and scales often start at a constant, which tells nothing.
        kernels = [np.asarray(one, np.float64) for one in variables if len(one.shape) > 1]
        widest = max((float(kernel.std()) for kernel in kernels if kernel.size), default=0.0)
        if widest <= _WIDER * self.initial_stddev:
            return None
        drawn = f"keras.initializers.RandomNormal(stddev={self.initial_stddev:g})"
        return (
            f"The rule {name!r} was learned from initial weights of standard deviation "
            f"{self.initial_stddev:g}; here a layer's is {widest:.2g}. Other optimizers may then "
            f"do far better. {other.removesuffix('.')}, or draw kernels by {drawn}."
        )
