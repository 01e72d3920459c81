"""What was answered, as data, and whether it was right; both without a front end."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from pathlib import Path
from typing import Any

from layerlens.course import asked, kept
from layerlens.course.prediction import Prediction
from layerlens.course.question import Verdict, judge
from layerlens.errors import InputError
from layerlens.result.files import checked_path, write_bytes

FIELDS = ("id", "kind", "ask", "answer", "given", "tries", "right", "far", "truth")


def answers(
    path: str | os.PathLike[str] | None = None, *, notebook: str | os.PathLike[str] | None = None
) -> list[dict[str, Any]]:
    """Return what was answered to each question, and how it stands to the truth.

    The truth is computed only where an answer was given. Answers to questions that this kernel has
    not asked, since their cells were deleted or not run, come last, without a truth.

    Parameters
    ----------
    path : path-like, optional
        Where to write them as well, ending in ``.json`` or ``.csv``.
    notebook : path-like, optional
        The notebook whose answers are taken; by itself the one whose kernel this is.

    Returns
    -------
    list of dict
        ``id``, ``kind``, ``ask``, ``answer``, ``given``, ``tries``, ``right``, ``far``, ``truth``.

    Raises
    ------
    InputError
        The notebook cannot be read, or the path ends in something else.

    Examples
    --------
    >>> from layerlens import course
    >>> _ = course.predict("sum", "2 + 2?", kind="number", truth=4).commit(5)
    >>> [row["right"] for row in course.answers() if row["id"] == "sum"]
    [False]
    """
    written = kept.here() if notebook is None else kept.read(notebook)
    rows = [
        _row(key, question, _answer_to(question, key, written, notebook is not None))
        for key, question in asked.questions().items()
    ]
    rows += [
        {**dict.fromkeys(FIELDS), "id": key, "answer": answer["value"], "given": answer["given"],
         "tries": answer["tries"]}
        for key, answer in written.items()
        if key not in asked.questions()
    ]  # fmt: skip
    if path is not None:
        _write(rows, checked_path(path, ".json", ".csv"))
    return rows


def check(key: str, *, notebook: str | os.PathLike[str] | None = None) -> bool:
    """Return whether a question was answered rightly; for a text, whether it was answered.

    It needs no front end and prints nothing, so a cell of a grader can assert it. An answer that
    was put in and not given for good counts as none.

    Parameters
    ----------
    key : str
        Of the question, which this kernel must have asked: its cell computes the truth.
    notebook : path-like, optional
        The notebook whose answer is taken; by itself the one whose kernel this is.

    Raises
    ------
    InputError
        No question with this id was asked in this kernel, or the notebook cannot be read.
    """
    found = asked.questions()
    if key not in found:
        known = ", ".join(map(repr, found)) or "none"
        raise InputError(
            f"No question '{key}' was asked in this kernel (asked: {known}): run its cell first."
        )
    question = found[key]
    written = kept.here() if notebook is None else kept.read(notebook)
    answer = _answer_to(question, key, written, notebook is not None)
    if not answer["given"]:
        return False
    verdict = _judged(question, answer["value"])
    return True if verdict.right is None else verdict.right


def _answer_to(
    question: Prediction, key: str, written: dict[str, Any], elsewhere: bool
) -> dict[str, Any]:
    """Return the answer in this kernel, else the one in the notebook's file."""
    own = dict(question.answer)
    if elsewhere or not own["given"]:
        own = written.get(key, own if not elsewhere else {**own, "value": None, "given": False})
    return own


def _judged(question: Prediction, value: Any) -> Verdict:
    with contextlib.redirect_stderr(io.StringIO()):
        truth = question.known()
    asked_for = question.asked
    return judge(asked_for, asked_for.read(value), truth)


def _row(key: str, question: Prediction, answer: dict[str, Any]) -> dict[str, Any]:
    verdict = _judged(question, answer["value"]) if answer["given"] else Verdict(None, None)
    return {
        "id": key,
        "kind": question.asked.kind,
        "ask": question.asked.ask,
        "answer": answer["value"],
        "given": answer["given"],
        "tries": answer["tries"],
        "right": verdict.right,
        "far": verdict.far,
        "truth": question.known() if answer["given"] else None,
    }


def _write(rows: list[dict[str, Any]], path: Path) -> None:
    if path.suffix == ".json":
        text = json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
    else:
        table = io.StringIO()
        writer = csv.DictWriter(table, FIELDS)
        writer.writeheader()
        writer.writerows(rows)
        text = table.getvalue()
    write_bytes(path, text.encode("utf-8"))
