"""A chapter of the course: solved all its checks are true, and unsolved none is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest

from layerlens import course
from layerlens.course import asked

CHAPTERS = [
    path
    for path in sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
    if "course.predict(" in path.read_text()
]


def test_there_are_chapters() -> None:
    assert CHAPTERS


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_solved_it_is_right_and_unsolved_it_is_not(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(asked, "_ASKED", {})
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"display": lambda value: None}
    for cell in nbformat.read(path, as_version=4).cells:
        assert cell.cell_type != "code" or len(cell.source.splitlines()) <= 12
        if cell.cell_type == "code":
            exec(cell.source, names)
    questions = asked.questions()
    assert len(questions) >= 3
    assert not any(course.check(key) for key in questions)
    for question in questions.values():
        question.commit(question.known()[0])
    assert all(course.check(key) for key in questions)
