"""What every notebook owes to who opens it, and that what looks at its cells can fail."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

import layerlens as ll

from .conftest import look

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").rglob("*.ipynb"))
PNG = {"image/png": "iVBORw0KGgo=", "text/plain": "<Figure size 640x480>"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_says_where_its_model_comes_from_and_holds_no_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    if any("ll.load()" in cell.source for cell in notebook.cells):
        assert "python -m layerlens.model.default" in notebook.cells[0].source
    assert not any(cell.get("outputs") for cell in notebook.cells)


def shows(**data: str) -> NotebookNode:
    return NotebookNode(
        output_type="execute_result", data={k.replace("_", "/"): data[k] for k in data}
    )


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("lens.figure()", shows(text_plain="Figure")),
        ("draw()", shows(text_plain="<Figure size 640x480 with 1 Axes>")),
        ("run()", NotebookNode(output_type="stream", name="stderr", text="a warning")),
    ],
)
def test_what_a_person_should_not_see_fails(source: str, output: NotebookNode) -> None:
    with pytest.raises(AssertionError):
        look(source, [output])


def test_a_picture_and_a_print_are_fine() -> None:
    picture = NotebookNode(output_type="execute_result", data=PNG)
    look("lens.figure()", [picture])
    look("print(1)", [NotebookNode(output_type="stream", name="stdout", text="1")])


def code() -> str:
    """The code of all notebooks."""
    found = [nbformat.read(path, as_version=4).cells for path in NOTEBOOKS]
    return "\n".join(cell.source for cells in found for cell in cells if cell.cell_type == "code")


def test_every_analysis_and_every_metric_is_shown_at_work() -> None:
    """Somewhere a person can see each of them run; what is new has to come into a notebook."""
    shown = code()
    missing = [name for name in ll.analyses().index if not re.search(rf"\bll\.{name}\(", shown)]
    missing += [name for name in ll.metrics().index if not re.search(rf'"{name}"', shown)]
    assert missing == []
