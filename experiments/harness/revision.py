"""The commit that a program runs from."""

import subprocess
from pathlib import Path


def find_commit(folder: Path = Path(__file__).parent) -> str | None:
    """Returns a checkout's full commit name; None if there is no git, or no repository.

    The name ends with "-dirty" if files other than saved rules differ from the commit. Saved rules
    are left out because their cards change as rules are scored one after the other.

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
