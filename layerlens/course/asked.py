"""The questions that this kernel has asked, by id; the newest of each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layerlens.course.prediction import Prediction

_ASKED: dict[str, Prediction] = {}


def remember(key: str, prediction: Prediction) -> None:
    """Take the place of the question that was asked under this id before."""
    _ASKED[key] = prediction


def questions() -> dict[str, Prediction]:
    """Return every question by its id, in the order they were first asked."""
    return dict(_ASKED)


@contextmanager
def apart() -> Iterator[None]:
    """Begin with no question asked, and have those that were asked before again at the end."""
    before = questions()
    _ASKED.clear()
    try:
        yield
    finally:
        _ASKED.clear()
        _ASKED.update(before)
