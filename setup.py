"""Installs saved_models/ inside the package, and describes it by README.md."""

import re
import tomllib
from pathlib import Path

from setuptools import find_namespace_packages, find_packages, setup

ROOT = Path(__file__).resolve().parent
# A link or picture, with its text and its address.
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)]+)\)")


def long_description(readme: str, repository: str | None) -> str:
    """Returns README.md with links and pictures that work where its folder is not.

    Args:
        readme: the text.
        repository: the project's address on the web. Without one, links to files become their text,
            and pictures are left out.
    """

    def elsewhere(link: re.Match[str]) -> str:
        picture, text, address = link.groups()
        if "://" in address:
            return link[0]
        if repository is not None:
            return f"{picture}[{text}]({repository}/{'raw' if picture else 'blob'}/main/{address})"
        return "" if picture else text

    without_comments = re.sub(r"<!--.*?-->\n*", "", readme, flags=re.DOTALL)
    return re.sub(r"\n{3,}", "\n\n", _LINK.sub(elsewhere, without_comments))


if __name__ == "__main__":
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    # To setuptools, each folder of data is a package.
    folders = [f"l2l_tf.saved_models.{name}" for name in find_namespace_packages("saved_models")]
    data = ["l2l_tf.saved_models", *folders]
    setup(
        packages=[*find_packages(include=["l2l_tf", "l2l_tf.*"]), *data],
        package_dir={"l2l_tf.saved_models": "saved_models"},
        package_data={"l2l_tf": ["py.typed"]} | {name: ["*"] for name in data},
        long_description=long_description(
            (ROOT / "README.md").read_text(), project["urls"].get("Repository")
        ),
        long_description_content_type="text/markdown",
    )
