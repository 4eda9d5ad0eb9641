"""What a tensor of parameters is."""

from typing import NamedTuple


class ParameterSpec(NamedTuple):
    """What one tensor of parameters is, for rules that treat some otherwise than others.

    Attributes:
        path: the name by which it is known, with those of what holds it before it.
        shape: its static shape, without axes of tasks and functions that stand before it.
    """

    path: str
    shape: tuple[int, ...]
