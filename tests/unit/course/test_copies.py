"""A student's and a teacher's copy of one source, and what nbgrader finds in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from layerlens.course.copies import BLANK, points, solution, student, text
from layerlens.course.make import main, make

ASKS = 'sum_ = course.predict("sum", "1 + 1?", kind="number", truth=2, lock=False)'
SOLVED = "# `two`\n### BEGIN SOLUTION\ntwo = 1 + 1\n### END SOLUTION"
CHECKS = 'sum_.commit(two)\nassert course.check("sum")'


def cell(source: str, *tags: str, kind: str = "code") -> dict[str, Any]:
    metadata = {"tags": list(tags)} if tags else {}
    own = {"outputs": [{"output_type": "stream"}], "execution_count": 3} if kind == "code" else {}
    lines = source.splitlines(keepends=True)
    return {"cell_type": kind, "id": f"c{len(source)}", "metadata": metadata, "source": lines} | own


def source() -> dict[str, Any]:
    cells = [
        cell("# One and one", kind="markdown"),
        cell("from layerlens import course"),
        cell(ASKS),
        cell(SOLVED, "solution"),
        cell(CHECKS, "points-3"),
        cell("assert two == 2", "claim"),
    ]
    answers = {"sum": {"value": 1, "given": True, "tries": 4}}
    return {"cells": cells, "metadata": {"layerlens": {"answers": answers}}, "nbformat": 4}


def codes(notebook: dict[str, Any]) -> list[str]:
    return [text(cell) for cell in notebook["cells"]]


def test_a_student_gets_a_blank_and_what_is_asked_for() -> None:
    made = student(source())
    assert codes(made)[3] == f"# `two`\n{BLANK}"
    assert codes(made)[2] == ASKS
    assert made["cells"][2]["metadata"]["jupyter"] == {"source_hidden": True}
    assert "layerlens" not in made["metadata"]


def test_a_solution_holds_the_answers() -> None:
    made = solution(source(), {"sum": 2})
    assert codes(made)[3] == SOLVED
    assert made["metadata"]["layerlens"]["answers"]["sum"]["value"] == 2


@pytest.mark.parametrize("made", [student(source()), solution(source(), {})])
def test_no_copy_holds_claims_or_outputs(made: dict[str, Any]) -> None:
    assert not any("two == 2" in code for code in codes(made))
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in made["cells"])


def test_the_source_stays_as_it_is() -> None:
    given = source()
    student(given)
    solution(given, {})
    assert given == source()


def test_nbgrader_finds_what_is_solved_and_what_is_graded() -> None:
    found = [cell["metadata"].get("nbgrader") for cell in solution(source(), {})["cells"]]
    assert found[:3] == [None, None, None]
    assert (found[3]["solution"], found[3]["grade"], "points" in found[3]) == (True, False, False)
    assert (found[4]["grade"], found[4]["locked"], found[4]["points"]) == (True, True, 3)
    assert points(source()["cells"][0]) == 0


def test_making_writes_copies_key_and_rubric(tmp_path: Path) -> None:
    path = tmp_path / "00_one.ipynb"
    path.write_text(json.dumps(source()))
    make(tmp_path / "out", [path])
    key = json.loads((tmp_path / "out" / "key.json").read_text())["00_one"]
    assert [(row["id"], row["truth"], row["points"]) for row in key] == [("sum", [2.0], 3)]
    solved = json.loads((tmp_path / "out" / "solution" / "00_one.ipynb").read_text())
    assert solved["metadata"]["layerlens"]["answers"]["sum"]["value"] == 2
    assert BLANK in (tmp_path / "out" / "student" / "00_one.ipynb").read_text().replace("\\n", "\n")
    rubric = (tmp_path / "out" / "rubric.md").read_text()
    assert "## 00_one: 3 points" in rubric
    assert "| sum | 1 + 1? | 2 |  | 3 |" in rubric


def test_a_chapter_that_is_not_there_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path), "99_nothing"])
    assert "invalid choice: '99_nothing'" in capsys.readouterr().err
