"""The notebook runs from top to bottom in a kernel of its own."""

from __future__ import annotations

import os

import pytest

from coupalign.files import REPOSITORY

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
FILE = REPOSITORY / "notebooks/predict.ipynb"


def test_it_is_committed_without_results():
    for cell in nbformat.read(FILE, as_version=4).cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None


@pytest.mark.slow
def test_it_shows_masks_words_and_proposals(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY / "src"), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(FILE, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    text = "".join(output.get("text", "") for output in outputs)
    assert "box (63, 5, 37, 37)" in text and "mug" in text and "20 proposals" in text
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
