"""Every notebook runs from top to bottom: its figures are seen, and nothing complains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SECONDS = 600  # of one cell, on a busy machine


def shown(cell: Any) -> list[Any]:
    return [out.data for out in cell.outputs if out.output_type.endswith(("_result", "_data"))]


@pytest.mark.model
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MPLBACKEND", raising=False)  # a kernel that nobody has prepared
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=where).execute()
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        last = cell.source.rstrip().splitlines()[-1]
        if ".figure(" in last or last == "figure":
            assert any("image/png" in data for data in shown(cell)), f"no picture:\n{cell.source}"
        streams = [out for out in cell.outputs if out.output_type == "stream"]
        assert not [out.text for out in streams if out.name == "stderr"], cell.source
        for data in shown(cell):
            unseen = {"Figure size", "Picture size"}
            text = data.get("text/plain", "")
            assert "image/png" in data or not any(word in text for word in unseen), cell.source
            assert "step/s" not in text and "<progress" not in data.get("text/html", ""), text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_says_where_its_model_comes_from_and_holds_no_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert "python -m layerlens.model.default" in notebook.cells[0].source
    assert not any(cell.get("outputs") for cell in notebook.cells)
