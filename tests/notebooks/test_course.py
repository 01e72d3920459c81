"""Chapters of the course: how each is built, that its text is true, and what its copies hold."""

from __future__ import annotations

import json
import re
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from tqdm.std import tqdm

import layerlens as ll
from layerlens import course
from layerlens.analyses.contract import cell_bar
from layerlens.course import asked
from layerlens.course.copies import SOLUTION, tags, text
from layerlens.course.make import Chapter, ran, read, rubric
from layerlens.course.places import chapters
from layerlens.errors import InputError

LONGEST = 8
"""Lines of a cell that is read while somebody talks."""

MINUTES = re.compile(r"\*\*(\d+) minutes · (easy|medium|hard)\.\*\*")

CHAPTERS = pytest.mark.parametrize("path", chapters(), ids=lambda path: path.stem)


def headings(cells: list[dict[str, Any]]) -> str:
    written = "\n".join(text(cell) for cell in cells if cell["cell_type"] == "markdown")
    return "\n".join(line for line in written.splitlines() if line.startswith("#"))


@CHAPTERS
def test_it_is_built_as_a_chapter(path: Path) -> None:
    cells = read(path)["cells"]
    opening = text(cells[0])
    found = MINUTES.search(opening)
    assert found
    assert int(found[1]) <= 45
    assert [line[:2] for line in opening.splitlines() if line[:1].isdigit()] == ["1.", "2.", "3."]
    for part in ("control", "Your turn", "What is often taken for true", "Sources"):
        assert re.search(rf"^## .*{part}", headings(cells), re.MULTILINE), part
    for cell in cells:
        assert (
            cell["cell_type"] == "markdown"
            or len(text(cell).splitlines()) <= LONGEST
            or ("claim" in tags(cell))
        ), text(cell)


@CHAPTERS
def test_its_links_lead_somewhere(path: Path) -> None:
    for cell in read(path)["cells"]:
        for link in re.findall(r"\]\(([^)#:]+)\)", text(cell)):
            assert (path.parent / link).is_file(), link


@pytest.fixture(scope="module")
def one_model() -> Any:
    """What every chapter loads is loaded once; none changes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ll, "load", cache(ll.load))
        yield


@pytest.fixture
def chapter(
    path: Path,
    one_model: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> Any:
    """A chapter that has run and shown what its cells end with; claims of its text hold."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    # In a cell a bar is an output that leaves nothing; here it would be words on stderr.
    monkeypatch.setattr(cell_bar, "bar_class", lambda: partial(tqdm, disable=True))
    formatter = InteractiveShell().display_formatter
    with asked.apart():
        yield ran(path, formatter.format)
    assert capfd.readouterr().err == ""


@pytest.mark.filterwarnings("error")
@CHAPTERS
def test_solved_it_is_right_and_unsolved_it_is_not(chapter: Chapter, tmp_path: Path) -> None:
    assert len(chapter.key) >= 4
    student, solution = tmp_path / "student.ipynb", tmp_path / "solution.ipynb"
    student.write_text(json.dumps(chapter.student()))
    solution.write_text(json.dumps(chapter.solution()))
    for row in chapter.key:
        assert course.check(row["id"], notebook=solution)
        assert not course.check(row["id"], notebook=student)
    assert sum(row["points"] for row in chapter.key) >= 3
    assert f"| {chapter.key[0]['id']} |" in rubric([chapter])
    blank = [text(cell) for cell in chapter.student()["cells"] if SOLUTION in tags(cell)]
    assert blank
    for code in blank:
        with pytest.raises(NotImplementedError):
            exec(code, {})


def test_a_cell_that_raises_is_named(tmp_path: Path) -> None:
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "source": "1 / 0"}
    path = tmp_path / "broken.ipynb"
    path.write_text(json.dumps({"cells": [cell], "metadata": {}}))
    with pytest.raises(InputError, match=r"Cell 0 of 'broken.ipynb' raised ZeroDivisionError"):
        ran(path)
