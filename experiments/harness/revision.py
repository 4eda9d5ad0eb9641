"""The commit that a program runs from."""

import subprocess
from pathlib import Path


def find_commit(folder: Path = Path(__file__).parent) -> str | None:
    """Returns the full name of a checkout's commit; None where there is no git, or no repository.

    With "-dirty" at its end, files differ from that commit, other than saved rules: their cards
    change as rules are scored one after the other.

    Args:
        folder: any folder of the checkout.
    """

    def git(*arguments: str) -> str:
        process = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
        )
        return process.stdout.strip()

    try:
        changes = git("status", "--porcelain", "--untracked-files=no", ":!/saved_models")
        return git("rev-parse", "HEAD") + ("-dirty" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return None
