"""What a question takes as an answer, and how near is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from layerlens.course.question import Question, judge
from layerlens.errors import InputError

CASES = json.loads(Path(__file__).with_name("verdicts.json").read_text())


def question(**over: Any) -> Question:
    if "between" in over:
        over["between"] = tuple(over["between"])
    over["options"] = tuple(over.get("options", ()))
    return Question("q", "What?", **over)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["says"])
def test_verdicts_which_the_page_shares(case: dict[str, Any]) -> None:
    asked = question(**case["question"])
    found = judge(asked, asked.read(case["answer"]), [asked.read(one) for one in case["truth"]])
    assert found.right is case["right"]
    assert found.far == pytest.approx(case["far"])


def test_answers_are_read() -> None:
    assert question(kind="head").read("5.1") == [5, 1]
    assert question(kind="head").read((5, 1)) == [5, 1]
    assert question(kind="layer").read(3.0) == 3
    assert question(kind="curve", options="ab", between=(0, 1)).read((0, 1)) == [0.0, 1.0]


@pytest.mark.parametrize(
    ("over", "value", "says"),
    [
        ({"kind": "token"}, " ", "takes a token"),
        ({"kind": "number"}, "many", "a finite number"),
        ({"kind": "number"}, float("nan"), "a finite number"),
        ({"kind": "layer"}, 2.5, "the number of a layer"),
        ({"kind": "layer", "between": (0, 11)}, 12, "a layer from 0 to 11"),
        ({"kind": "head"}, "5", "a head such as"),
        ({"kind": "head"}, [1, -1], "a head such as"),
        ({"kind": "choice", "options": "ab"}, "c", "no option 'c'"),
        ({"kind": "curve", "options": "ab", "between": (0, 1)}, [1], "takes 2 numbers"),
        ({"kind": "curve", "options": "ab", "between": (0, 1)}, [1, None], "a list of finite"),
    ],
)
def test_what_is_no_answer_is_refused_in_words(over: Any, value: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        question(**over).read(value)


@pytest.mark.parametrize(
    ("over", "says"),
    [
        ({"kind": "guess"}, "known are"),
        ({"kind": "choice", "options": "a"}, "two or more entries in options="),
        ({"kind": "curve", "between": (0, 1)}, "two or more entries in along="),
        ({"kind": "curve", "options": "ab"}, "say its axis"),
        ({"kind": "number", "between": (1, 1)}, "no room"),
        ({"kind": "token", "tolerance": 1}, "tolerance= is for"),
    ],
)
def test_a_question_that_is_not_whole_is_refused(over: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        question(**over)


def test_a_truth_may_be_several() -> None:
    head = question(kind="head")
    assert head.read_truth((5, 1)) == head.read_truth("5.1") == [[5, 1]]
    assert head.read_truth([(5, 1), "0.2"]) == [[5, 1], [0, 2]]
    assert question(kind="layer").read_truth([3, 4]) == [3, 4]
    curve = question(kind="curve", options="ab", between=(0, 1))
    assert curve.read_truth([0, 1]) == [[0.0, 1.0]]
    with pytest.raises(InputError, match="empty list"):
        head.read_truth([])
