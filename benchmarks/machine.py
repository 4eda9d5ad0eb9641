"""The machine and the software that a benchmark was run with."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from experiments.harness.revision import find_commit

_PACKAGES = ("tensorflow", "keras", "jax", "jaxlib", "torch", "numpy")


def memory_bytes() -> int:
    """Returns the memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def describe_machine() -> dict[str, Any]:
    """Returns processor, cores that this process may use, and memory."""
    return {
        "processor": _processor(),
        "num_cores": len(os.sched_getaffinity(0)),
        "memory_bytes": memory_bytes(),
        "system": platform.platform(),
    }


def describe_software() -> dict[str, Any]:
    """Returns the commit and the versions of Python and frameworks; null for what is absent."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {"commit": find_commit(), "versions": versions}


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
