"""Answers as data, and graders without a front end."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from layerlens import course
from layerlens.errors import InputError

WRONG = {"value": 5, "given": True, "tries": 1}
RIGHT = {"value": 4, "given": True, "tries": 1}


def notebook(path: Path, answers: dict[str, Any], widgets: dict[str, Any] | None = None) -> Path:
    states = {
        key: {"state": {"view": "course", "question": {"id": key}, "answer": answer}}
        for key, answer in (widgets or {}).items()
    }
    metadata = {
        "layerlens": {"answers": answers},
        "widgets": {"application/vnd.jupyter.widget-state+json": {"state": states}},
    }
    path.write_text(json.dumps({"cells": [], "metadata": metadata}))
    return path


def ask() -> course.Prediction:
    return course.predict("q", "2 + 2?", kind="number", truth=4)


def test_a_check_is_right_only_for_a_right_answer_that_was_given() -> None:
    question = ask()
    assert course.check("q") is False
    question.answer = {"value": 4, "given": False, "tries": 0}
    assert course.check("q") is False
    question.commit(4)
    assert course.check("q") is True


def test_a_text_is_checked_for_being_there() -> None:
    question = course.predict("t", "Why?", kind="text", truth="Because.")
    assert course.check("t") is False
    question.commit("It copies.")
    assert course.check("t") is True
    assert course.answers()[0]["right"] is None


def test_a_check_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    course.predict("q", "?", kind="number", truth=lambda: print("…", file=sys.stderr) or 4)
    notebook(tmp_path / "a.ipynb", {"q": RIGHT})
    capfd.readouterr()
    assert course.check("q")
    assert capfd.readouterr() == ("", "")


def test_an_unknown_question_is_named() -> None:
    ask()
    with pytest.raises(InputError, match=r"No question 'p' .* \(asked: 'q'\)"):
        course.check("p")


def test_answers_are_found_in_the_notebook(tmp_path: Path, monkeypatch: Any) -> None:
    ask()
    notebook(tmp_path / "a.ipynb", {"q": RIGHT, "gone": WRONG})
    assert course.check("q") is True
    rows = course.answers()
    assert [(row["id"], row["answer"], row["right"]) for row in rows] == [
        ("q", 4, True),
        ("gone", 5, None),
    ]
    notebook(tmp_path / "b.ipynb", {"q": WRONG})
    assert course.check("q") is False, "two notebooks that differ tell nothing"
    monkeypatch.setenv("JPY_SESSION_NAME", str(tmp_path / "a.ipynb"))
    assert course.check("q") is True
    assert course.check("q", notebook=tmp_path / "b.ipynb") is False


def test_an_answer_of_this_kernel_goes_before_the_file(tmp_path: Path) -> None:
    ask().commit(5)
    path = notebook(tmp_path / "a.ipynb", {"q": RIGHT})
    assert course.check("q") is False
    assert course.check("q", notebook=path) is True
    empty = notebook(tmp_path / "b.ipynb", {})
    assert course.check("q", notebook=empty) is False


def test_answers_are_found_in_the_state_of_widgets(tmp_path: Path) -> None:
    ask()
    notebook(tmp_path / "a.ipynb", {}, {"q": RIGHT})
    assert course.check("q") is True


def test_a_broken_notebook_is_named(tmp_path: Path) -> None:
    ask()
    (tmp_path / "a.ipynb").write_text("{")
    with pytest.raises(InputError, match=r"a\.ipynb' could not be read"):
        course.answers(notebook=tmp_path / "a.ipynb")


def test_answers_as_files(tmp_path: Path) -> None:
    ask().commit(4)
    rows = course.answers(tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == rows
    course.answers(tmp_path / "a.csv")
    (row,) = csv.DictReader((tmp_path / "a.csv").open())
    assert (row["id"], row["answer"], row["right"]) == ("q", "4.0", "True")
