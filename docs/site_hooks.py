"""What MkDocs does beyond its plugins: pages made of notebooks and of documents at the root."""

import re
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]
ROOT_PAGES = ("BUILD.md", "CHANGELOG.md", "CONTRIBUTING.md")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages."""
    for name in ROOT_PAGES:
        files.append(File.generated(config, name, content=_as_in_docs(ROOT / name)))
    for notebook in sorted((ROOT / "docs" / "tutorials").glob("*.ipynb")):
        for name, content in _converted(notebook).items():
            files.append(File.generated(config, f"tutorials/{name}", content=content))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Returns a page whose links lead to other pages.

    Notebooks and some documents at the root have pages. Links to other files become their text.
    """
    folder = (ROOT / "docs" / page.file.src_uri).parent

    def within_site(link: re.Match[str]) -> str:
        text, address, anchor = link.groups()
        path = (folder / address).resolve()
        if path.is_relative_to(ROOT / "docs"):
            return f"[{text}]({address.replace('.ipynb', '.md')}{anchor})"
        if path.parent == ROOT and path.name in ROOT_PAGES:
            return f"[{text}]({path.name}{anchor})"
        return text

    return re.sub(r"(?<!!)\[([^\]]*)\]\(([\w./-]+)((?:#[\w-]+)?)\)", within_site, markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Returns a page that fetches nothing: search from files has a script of its own."""
    own = get_relative_url("assets/search_from_files.js", page.url)
    return output.replace("https://unpkg.com/iframe-worker/shim", own)


def _as_in_docs(path: Path) -> str:
    """Returns a document at the root with links as they are from docs/."""
    return path.read_text().replace("](docs/", "](")


def _converted(path: Path) -> dict[str, str | bytes]:
    """Returns a notebook as a page of Markdown, and its pictures."""
    notebook = nbformat.read(path, as_version=4)
    markdown, resources = MarkdownExporter().from_notebook_node(
        notebook, {"unique_key": path.stem, "output_files_dir": f"{path.stem}_files"}
    )
    return {f"{path.stem}.md": markdown, **resources["outputs"]}
