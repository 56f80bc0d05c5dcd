"""The notebooks of docs/notebooks run, at smoke size, as Jupyter runs them."""

import nbformat
import pytest
from helpers import ROOT
from nbclient import NotebookClient

FOLDER = ROOT / "docs" / "notebooks"
SMALL = {
    "own_pictures": "\nEPOCHS, LABELLED, PER_CLASS = 1, 1, {'train': 4, 'val': 2}",
    "loss_in_your_loop": "\nSTEPS, BATCH = 12, 16",
}


def read(path):
    return nbformat.read(path, as_version=4)


def parameters(notebook):
    return [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]


def test_every_notebook_is_run():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_a_notebook_runs(name, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = read(FOLDER / f"{name}.ipynb")
    (cell,) = parameters(notebook)
    cell.source += SMALL[name]
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in shown if "image/png" in output.get("data", {})]
    assert len(pictures) == 2
    errors = [output["text"] for output in shown if output.get("name") == "stderr"]
    assert not [text for text in errors if "Warning" in text or "Error" in text]
