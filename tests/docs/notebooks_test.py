"""The tutorials run from start to end, and keep small outputs."""

import json
import os

import nbformat
import pytest
from nbclient import NotebookClient

from tests.docs.documents import ROOT, name_of

NOTEBOOKS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))
# Of a file that is read on a code host and kept in the history.
MAX_BYTES = 200_000


@pytest.mark.slow
@pytest.mark.filterwarnings(
    # Of a connection between two processes on this machine.
    "ignore:.*Kernel is running over TCP without encryption"
)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_a_tutorial_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    for kept, now in zip(
        _outputs(nbformat.read(path, as_version=4)), _outputs(notebook), strict=True
    ):
        assert kept == now


def _outputs(notebook):
    """Yields what each cell shows: kinds of outputs, without the numbers in them."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            # What is printed may come in one piece or in several.
            yield {one.get("name", one.output_type) for one in cell.outputs}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_kept_outputs_are_small_and_whole(path):
    notebook = json.loads(path.read_text())
    assert path.stat().st_size < MAX_BYTES
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    shown = [output for cell in code for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in shown)
    # No warnings, no paths of the machine on which it ran.
    assert all(output.get("name") != "stderr" for output in shown)
    assert "/home/" not in path.read_text()
    assert "/tmp/" not in path.read_text()
