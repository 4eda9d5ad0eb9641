"""The documents whose code and links are checked."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "BUILD.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]


def name_of(path: Path) -> str:
    """Returns a document's path from the project's root, as a test's name."""
    return path.relative_to(ROOT).as_posix()
