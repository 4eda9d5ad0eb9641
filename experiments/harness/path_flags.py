"""Flags that name files and folders; `~` is expanded, so that a program can open their values.

This module does not import TensorFlow, because benchmarks define flags before they measure its
cost.
"""

import os
from typing import Any

from absl import flags

flags.disclaim_key_flags()


def define_path(name: str, default: Any, help: str) -> flags.FlagHolder[Any]:
    """Defines a flag that names a file or folder; an empty path or one not in UTF-8 is refused."""
    return flags.DEFINE(_PathParser(), name, default, help, serializer=flags.ArgumentSerializer())


def define_paths(name: str, help: str) -> flags.FlagHolder[Any]:
    """Defines a flag that names any number of files or folders, with commas between them.

    The default is none.
    """
    serializer: Any = flags.CsvListSerializer(",")
    return flags.DEFINE(_PathsParser(), name, [], help, serializer=serializer)


class _PathParser(flags.ArgumentParser[str]):
    """Expands `~` and leaves everything else as written: `./name` is a path, `name` may not be."""

    syntactic_help = "a path"

    def parse(self, argument: str) -> str:
        return _checked(argument)


class _PathsParser(flags.ListParser):
    """Expands `~` in each path of a list."""

    def parse(self, arguments: str | list[str]) -> list[str]:
        return [_checked(argument) for argument in super().parse(arguments)]


def _checked(text: str) -> str:
    if not text:
        raise ValueError(
            "A path must not be empty. Received: ''. Name a file or folder, '.' for the current "
            "folder, or leave the flag out."
        )
    text = os.path.expanduser(text)
    try:
        is_utf8 = os.fsencode(text) == text.encode()
    except UnicodeEncodeError:
        is_utf8 = False
    if not is_utf8:
        raise ValueError(
            "A path must be in UTF-8, since TensorFlow takes no other. "
            f"Received: {os.fsencode(text)!r}. Rename what is not, or choose another place."
        )
    return text
