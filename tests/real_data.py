"""Real data sets for tests, on machines that have them: TFDS_DATA_DIR names their folder."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

_Test = TypeVar("_Test", bound=Callable[..., None])


def needs_data(name: str) -> Callable[[_Test], _Test]:
    """Marks a test as one of a data set that TensorFlow Datasets has prepared, say "mnist"."""
    folder = os.environ.get("TFDS_DATA_DIR")
    skip = pytest.mark.skipif(
        folder is None or not (Path(folder) / name).is_dir(),
        reason=f"TFDS_DATA_DIR names no folder that holds {name}",
    )
    return lambda test: pytest.mark.data(skip(test))
