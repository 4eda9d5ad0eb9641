"""Checks of arguments, with each message written once.

A message has three parts: what the argument must be, what was received, and what to do about it.
"""

import math
from collections.abc import Iterable
from types import UnionType
from typing import Any


def check_count(
    name: str, value: Any, advice: str = "Give a positive count.", minimum: int = 1
) -> None:
    """Checks that an argument is a count: an `int`, not below a minimum.

    Args:
        name: the argument's name.
        value: its value. Neither a bool nor an integer of NumPy is a count.
        advice: what to do, a sentence.
        minimum: the lowest count that is accepted.

    Raises:
        ValueError: the value is no integer, or below the minimum.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise _error(name, f"an integer of at least {minimum}", value, advice)


def check_at_least(name: str, value: Any, minimum: float, advice: str) -> None:
    """Checks that a number of any type is not below a minimum.

    Args:
        name: the argument's name.
        value: its value.
        minimum: the lowest value that is accepted.
        advice: what to do, a sentence.

    Raises:
        ValueError: the value is below the minimum, NaN, or no number.
    """
    if not _is_in_range(value, minimum):
        raise _error(name, f"at least {minimum}", value, advice)


def check_positive(name: str, value: Any, advice: str) -> None:
    """Checks that a number is positive and finite.

    Args:
        name: the argument's name.
        value: its value.
        advice: what to do, a sentence.

    Raises:
        ValueError: the value is zero, negative, infinite, NaN, or no number.
    """
    if value == 0 or not (_is_in_range(value, 0) and _is_finite(value)):
        raise _error(name, "positive and finite", value, advice)


def check_non_negative(name: str, value: Any, advice: str) -> None:
    """Checks that a number is finite and not negative.

    Args:
        name: the argument's name.
        value: its value.
        advice: what to do, a sentence.

    Raises:
        ValueError: the value is negative, infinite, NaN, or no number.
    """
    if not (_is_in_range(value, 0) and _is_finite(value)):
        raise _error(name, "finite and not negative", value, advice)


def check_finite(name: str, value: Any, advice: str) -> None:
    """Checks that a number is finite.

    Args:
        name: the argument's name.
        value: its value.
        advice: what to do, a sentence.

    Raises:
        ValueError: the value is infinite, NaN, or no number.
    """
    if not _is_finite(value):
        raise _error(name, "finite", value, advice)


def check_one_of(
    name: str, value: Any, choices: Iterable[str], advice: str = "Choose one of them."
) -> None:
    """Checks that an argument is one of a few strings.

    Args:
        name: the argument's name.
        value: its value. What only equals a string, as TensorFlow's dtypes equal their names, is
            none of the choices.
        choices: the strings that are accepted.
        advice: what to do, a sentence.

    Raises:
        ValueError: the value is none of the choices.
    """
    known = sorted(choices)
    if not isinstance(value, str) or value not in known:
        raise _error(name, f"one of {known}", value, advice)


def check_instance(name: str, value: Any, kind: type | UnionType, what: str, advice: str) -> None:
    """Checks that an argument is of a type.

    Args:
        name: the argument's name.
        value: its value.
        kind: the type, or a union of types.
        what: the type in words, with its article, such as "a Problem".
        advice: what to do, a sentence.

    Raises:
        TypeError: the value is of another type.
    """
    if not isinstance(value, kind):
        raise _error(name, what, value, advice, TypeError)


def _is_in_range(value: Any, minimum: float) -> bool:
    """Returns whether a value is a number that is not below a minimum."""
    try:
        return not isinstance(value, bool) and bool(value >= minimum)
    except (TypeError, ValueError):  # It is no number, or an array of several.
        return False


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except (OverflowError, TypeError):  # An integer beyond all floats, or no number.
        return False


def _error(
    name: str, what: str, value: Any, advice: str, error: type[Exception] = ValueError
) -> Exception:
    """Returns the error that says what an argument must be, what it is, and what to do."""
    return error(f"{name} must be {what}. Received: {name}={value!r}. {advice}")
