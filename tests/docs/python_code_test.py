"""All Python in the documents runs: the blocks of one document, in order, in one namespace.

A comment `<!-- invisible-code-block: python ... -->` is run too, and not shown: it makes what a
reader has, such as a model.
"""

import re

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

from tests.docs.documents import DOCUMENTS, name_of

SYBIL = Sybil([PythonCodeBlockParser()])
WITH_PYTHON = [path for path in DOCUMENTS if "```python" in path.read_text()]
# What a block of each language is for: to run, to be checked, or to be looked at.
LANGUAGES = {"python", "bash", "text"}


@pytest.mark.slow
@pytest.mark.parametrize("path", WITH_PYTHON, ids=name_of)
def test_python_in_documents_runs(path, tmp_path, monkeypatch):
    # Where it writes files.
    monkeypatch.chdir(tmp_path)
    examples = list(SYBIL.parse(path).examples())
    assert len(examples) >= path.read_text().count("```python")
    for example in examples:
        example.evaluate()


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_each_block_says_its_language(path):
    fences = re.findall(r"^ *```(.*)$", path.read_text(), re.MULTILINE)
    assert set(fences[::2]) <= LANGUAGES
    assert set(fences[1::2]) <= {""}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_nothing_is_left_to_fill_in(path):
    assert not re.findall(r"@[A-Z]+\d*@", path.read_text())


def test_a_block_that_fails_is_told_with_its_line(tmp_path):
    document = tmp_path / "document.md"
    document.write_text("# Document\n\n```python\nassert 1 == 2\n```\n")
    (example,) = SYBIL.parse(document).examples()
    with pytest.raises(AssertionError):
        example.evaluate()
    assert example.line == 3
