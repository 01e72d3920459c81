"""A student's and a teacher's copy of a chapter, of one source; needs neither torch nor Jupyter.

A source is a notebook in which everything is solved. Tags of its cells say what becomes of them:

``solution``
    What stands between ``### BEGIN SOLUTION`` and ``### END SOLUTION`` is blank for students.
``points-3``
    The question that this cell names counts so many points: it checks the answer, or asks for one
    that only a person can judge.
``claim``
    Asserts what the text says of the model. It is for the chapter's authors, and in no copy.

Copies carry the metadata and the markers of nbgrader: a solution copy is a source to it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

Notebook = dict[str, Any]
Cell = dict[str, Any]

BLANK = "# YOUR CODE HERE\nraise NotImplementedError()"
"""What nbgrader, too, puts in the place of a solution."""

SOLUTION, CLAIM = "solution", "claim"

_MARKED = re.compile(r"^### BEGIN SOLUTION\n.*?^### END SOLUTION$", re.DOTALL | re.MULTILINE)


def student(source: Notebook) -> Notebook:
    r"""Return a chapter as students get it: solutions blank, no answer, code of questions folded.

    Parameters
    ----------
    source : dict
        The notebook as parsed JSON; it stays as it is.

    Examples
    --------
    >>> code = "### BEGIN SOLUTION\ntwo = 1 + 1\n### END SOLUTION"
    >>> cell = {"cell_type": "code", "id": "a", "source": code, "metadata": {"tags": ["solution"]}}
    >>> print(student({"cells": [cell], "metadata": {}})["cells"][0]["source"])
    # YOUR CODE HERE
    raise NotImplementedError()
    """
    notebook = _plain(source)
    for cell in notebook["cells"]:
        if SOLUTION in tags(cell):
            cell["source"] = _MARKED.sub(BLANK, text(cell))
        if "course.predict(" in text(cell):
            cell["metadata"]["jupyter"] = {"source_hidden": True}
    return notebook


def solution(source: Notebook, answers: Mapping[str, Any]) -> Notebook:
    """Return a chapter with its solutions, and with these answers given to its questions.

    Parameters
    ----------
    source : dict
        The notebook as parsed JSON; it stays as it is.
    answers : mapping
        What is right, by the ids of the questions.
    """
    notebook = _plain(source)
    given = {key: {"value": value, "given": True, "tries": 1} for key, value in answers.items()}
    notebook["metadata"]["layerlens"] = {"answers": given}
    return notebook


def tags(cell: Cell) -> list[str]:
    """Return the tags of a cell."""
    return list(cell["metadata"].get("tags", ()))


def text(cell: Cell) -> str:
    """Return what stands in a cell, which a file keeps as one string or as its lines."""
    return "".join(cell["source"])


def points(cell: Cell) -> int:
    """Return how many points the question that a cell names counts by its tag; 0 without one."""
    return sum(int(tag.removeprefix("points-")) for tag in tags(cell) if tag.startswith("points-"))


def _plain(source: Notebook) -> Notebook:
    """Return a copy without outputs, answers and claims, with what nbgrader wants to know."""
    notebook = copy.deepcopy(source)
    notebook["cells"] = [cell for cell in notebook["cells"] if CLAIM not in tags(cell)]
    notebook["metadata"].pop("layerlens", None)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)
            graded = _graded(cell)
            if graded is not None:
                cell["metadata"]["nbgrader"] = graded
    return notebook


def _graded(cell: Cell) -> dict[str, Any] | None:
    """Return nbgrader's metadata of a cell to be solved, or of one that asserts a check."""
    solved, asserted = SOLUTION in tags(cell), "assert course.check(" in text(cell)
    if not solved and not asserted:
        return None
    kind: dict[str, Any] = {
        "schema_version": 3,
        "grade_id": cell["id"],
        "cell_type": "code",
        "grade": asserted,
        "locked": asserted,
        "solution": solved,
        "task": False,
    }
    return {**kind, "points": points(cell)} if asserted else kind
