"""The description of a parameter tensor."""

from typing import NamedTuple


class ParameterSpec(NamedTuple):
    """Path and shape of a parameter tensor, for rules that treat tensors differently.

    Attributes:
        path: the tensor's name, prefixed with the names of its containers.
        shape: its static shape, without leading axes of tasks and functions.
    """

    path: str
    shape: tuple[int, ...]
