"""Links between the documents at the root and those in docs/, as a code host shows them.

`make docs` checks those within the site.
"""

import re
from pathlib import Path

import pytest

from tests.docs.documents import DOCUMENTS, ROOT, name_of


def _anchors(document: str) -> set[str]:
    """Returns the anchors of a document's headings, as code hosts and MkDocs make them."""
    text = re.sub(r"^```.*?^```", "", document, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one).strip().lower().replace(" ", "-") for one in headings}


def _dead_links(path: Path) -> list[str]:
    """Returns the links of a document to files or headings that do not exist."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    dead = []
    for address in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in address:
            continue
        name, _, anchor = address.partition("#")
        target = path.parent / name if name else path
        if not target.exists() or (anchor and anchor not in _anchors(target.read_text())):
            dead.append(address)
    return dead


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(path):
    assert _dead_links(path) == []


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


def test_dead_links_are_found(tmp_path):
    (tmp_path / "other.md").write_text("# A title, with `code`\n")
    document = tmp_path / "document.md"
    document.write_text(
        "[a](other.md) [b](other.md#a-title-with-code) [c](https://example.org)\n"
        "[d](nothing.md) [e](other.md#no-title) ![f](nothing.png)\n"
    )
    assert _dead_links(document) == ["nothing.md", "other.md#no-title", "nothing.png"]
