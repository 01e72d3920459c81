"""A question in the kernel: when the truth is computed, and what the page may change."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import layerlens as ll
from layerlens import course
from layerlens.errors import InputError

GIVEN = {"value": 5, "given": True, "tries": 1}


def until(true: Callable[[], Any]) -> None:
    for _ in range(500):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come true")


def test_the_truth_is_computed_once_and_not_before_an_answer() -> None:
    calls = []
    question = course.predict("q", "?", kind="number", truth=lambda: calls.append(1) or 4)
    assert (calls, question.truth, question.verdict()) == ([], [], None)
    question.set_state({"answer": {"value": 5, "given": False, "tries": 0}})
    assert calls == []
    question.set_state({"answer": GIVEN})
    until(lambda: question.truth == [4.0])
    verdict = question.verdict()
    assert verdict is not None and (verdict.right, verdict.far) == (False, 1.0)
    assert calls == [1]


def test_an_answer_that_was_given_stays() -> None:
    question = course.predict("q", "?", kind="number", truth=4).commit(5)
    question.set_state({"answer": {"value": 4, "given": True, "tries": 2}})
    assert question.answer == GIVEN
    with pytest.raises(InputError, match="its answer stays"):
        question.commit(4)


def test_an_answer_may_be_changed_where_the_author_allows_it() -> None:
    question = course.predict("q", "?", kind="number", truth=4, lock=False).commit(5)
    assert question.commit(4).answer == {"value": 4, "given": True, "tries": 2}


def test_the_page_cannot_give_what_is_no_answer_or_write_the_truth() -> None:
    question = course.predict("q", "?", kind="layer", between=(0, 3), truth=2)
    question.set_state({"answer": {"value": 9, "given": True, "tries": 1}})
    question.set_state({"answer": {"given": True}})
    question.set_state({"truth": [9], "question": {}})
    assert question.answer["given"] is False
    assert question.truth == [] and question.question["kind"] == "layer"
    assert "a layer from 0 to 3" in question.status["message"]


def test_an_error_of_the_truth_is_shown() -> None:
    question = course.predict("q", "?", kind="number", truth=lambda: 1 / 0)
    question.set_state({"answer": GIVEN})
    until(lambda: question.status.get("state") == "error")
    assert "division by zero" in question.status["message"]


def test_asked_again_the_answer_is_there() -> None:
    course.predict("q", "?", kind="number", truth=4).commit(5)
    again = course.predict("q", "?", kind="number", truth=4)
    assert again.answer == GIVEN
    other = course.predict("q", "Another?", kind="number", truth=4)
    assert other.answer["value"] is None


def test_a_figure_is_revealed_with_the_truth_at_its_layer() -> None:
    model = ll.load("toy:induction")
    lens = ll.logit_lens(model, "cat dog owl cat")
    question = course.predict("q", "?", kind="layer", model=model, truth=1, reveal=lambda: lens)
    assert question.question["between"] == [0, model.n_layers - 1]
    assert question.figure is None
    question.commit(0)
    until(lambda: question.figure is not None)
    assert question.figure.layer == 1


def test_a_figure_is_made_once() -> None:
    lens = ll.logit_lens(ll.load("toy:induction"), "cat dog owl cat")
    calls: list[int] = []
    question = course.predict(
        "q", "?", kind="number", truth=4, reveal=lambda: calls.append(1) or lens
    )
    question.commit(5)
    until(lambda: question.figure is not None)
    question.embed()
    assert calls == [1]


def test_what_is_no_figure_is_refused() -> None:
    question = course.predict("q", "?", kind="number", truth=4, reveal=lambda: "text")
    with pytest.raises(InputError, match="not str"):
        question.ahead()


def test_a_page_holds_question_truth_and_figure_and_asks_for_nothing(tmp_path: Path) -> None:
    model = ll.load("toy:induction")
    lens = ll.logit_lens(model, "cat dog owl cat")
    question = course.predict("q", "Next <b>?", kind="token", truth=" dog", reveal=lens)
    page = question.html(tmp_path / "q.html").read_text()
    found = re.search(r'id="layerlens-data">(.*?)</script>', page)
    assert found is not None
    traits = json.loads(found[1])["traits"]
    assert (traits["truth"], traits["live"]) == ([" dog"], False)
    assert traits["answer"]["given"] is False
    assert traits["figure"]["traits"]["view"] == "lens" and traits["figure"]["packed"]


def test_a_page_waits_for_a_figure_that_is_still_computed() -> None:
    model = ll.load("toy:induction")
    question = course.predict(
        "q", "?", kind="token", truth=" dog", reveal=lambda: ll.LensView(model, "cat dog owl cat")
    )
    with model.lock:  # nothing can be computed yet
        question.ahead()
        assert question.figure._stream is None
    assert "layerlens-data" in question.embed().page.decode()


@pytest.mark.parametrize(
    ("over", "says"),
    [({"along": "ab"}, "along= names the places"), ({"options": "ab"}, "those of a 'choice'")],
)
def test_options_of_another_kind_are_refused(over: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        course.predict("q", "?", kind="number", truth=4, **over)
