"""A question of a course: what it asks for, which answers it takes, and how near is right."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from layerlens.errors import InputError

KINDS = ("token", "layer", "head", "number", "curve", "choice", "text")

SAME_CURVE = 0.1
"""How far a drawn curve may lie from the true one on average, as a part of its axis."""

SAME_NUMBER = 0.05
"""How far a number may lie from the true one, as a part of that."""


ROUNDED = 1 + 1e-9
"""A limit of .05 holds for .95 and 1, whose difference is a little more in a computer."""


@dataclass(frozen=True)
class Question:
    """What is asked, as the view shows it.

    Attributes
    ----------
    id : str
        Under which the answer is kept.
    ask : str
        The question, in words.
    kind : str
        One of `KINDS`.
    options : tuple of str
        What can be chosen (``"choice"``), or the places of a curve along its axis.
    between : (float, float) or None
        The least and the largest answer: of a layer, a number, or the axis of a curve.
    unit : str
        What numbers are of.
    tolerance : float or None
        How far from the truth is still right, in `unit`; None takes the kind's own: no layer away,
        5 % of a number, a tenth of a curve's axis on average.
    hint : str
        What can be asked for before answering.
    lock : bool
        Whether an answer that was given stays as it is.
    """

    id: str
    ask: str
    kind: str
    options: tuple[str, ...] = ()
    between: tuple[float, float] | None = None
    unit: str = ""
    tolerance: float | None = None
    hint: str = ""
    lock: bool = True

    def __post_init__(self) -> None:
        if not self.id.strip():
            raise InputError("A question needs an id that is not empty, such as 'ch2-q1'.")
        if self.kind not in KINDS:
            raise InputError(f"Question '{self.id}' is of kind '{self.kind}'; known are {KINDS}.")
        if self.kind in ("choice", "curve") and len(self.options) < 2:
            what = "options=" if self.kind == "choice" else "along="
            raise InputError(f"Question '{self.id}' needs two or more entries in {what}.")
        if self.kind == "curve" and self.between is None:
            raise InputError(f"Question '{self.id}' draws a curve: say its axis, between=(0, 1).")
        if self.between is not None and not self.between[0] < self.between[1]:
            raise InputError(f"Question '{self.id}': between={self.between} has no room in it.")
        if self.tolerance is not None and self.kind in ("token", "head", "choice", "text"):
            raise InputError(
                f"Question '{self.id}': an answer of kind '{self.kind}' is the right one or "
                "another; tolerance= is for a layer, a number or a curve."
            )

    def read(self, value: Any) -> Any:
        """Return an answer as it is kept: text, a number, or a list of numbers.

        Raises
        ------
        InputError
            It is no answer to this question.
        """
        try:
            return _READ[self.kind](self, value)
        except (TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"Question '{self.id}' takes {_WANTED[self.kind]}, not {value!r}."
            ) from None

    def read_truth(self, value: Any) -> list[Any]:
        """Return every right answer; several where a list of them was given."""
        several = isinstance(value, (list, tuple, set, frozenset))
        if several and self.kind == "head" and len(value) == 2:
            several = not all(isinstance(part, int) for part in value)
        if not several or self.kind == "curve":
            value = [value]
        if not value:
            raise InputError(f"The truth of question '{self.id}' is an empty list.")
        return [self.read(one) for one in value]

    def wire(self) -> dict[str, Any]:
        """Return the question as the front end reads it."""
        return {
            **{name: getattr(self, name) for name in ("id", "ask", "kind", "unit", "hint", "lock")},
            "options": list(self.options),
            "between": None if self.between is None else list(self.between),
            "tolerance": self.tolerance,
        }


@dataclass(frozen=True)
class Verdict:
    """How an answer stands to the truth.

    Attributes
    ----------
    right : bool or None
        None for a text, which nobody but a reader can judge.
    far : float or None
        Layers, units of a number, or a part of a curve's axis from the nearest right answer; None
        where there is no measure.
    """

    right: bool | None
    far: float | None


def judge(question: Question, answer: Any, truth: list[Any]) -> Verdict:
    """Compare an answer with the right ones, as `js/src/views/course/verdict.ts` does."""
    if question.kind == "text":
        return Verdict(None, None)
    if question.kind in ("token", "choice"):
        return Verdict(any(answer.strip() == one.strip() for one in truth), None)
    if question.kind == "head":
        return Verdict(answer in truth, None)
    return min((_near(question, answer, one) for one in truth), key=lambda found: found.far or 0.0)


def _near(question: Question, answer: Any, truth: Any) -> Verdict:
    limit = question.tolerance
    if question.kind == "curve":
        low, high = question.between or (0.0, 1.0)
        gaps = [abs(a - t) for a, t in zip(answer, truth, strict=True)]
        far = sum(gaps) / len(gaps) / (high - low)
        limit = SAME_CURVE if limit is None else limit / (high - low)
        return Verdict(far <= limit * ROUNDED, far)
    far = abs(answer - truth)
    if limit is None:
        limit = 0.0 if question.kind == "layer" else SAME_NUMBER * abs(truth)
    return Verdict(far <= limit * ROUNDED, far)


def _text(question: Question, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError
    return value


def _choice(question: Question, value: Any) -> str:
    if value not in question.options:
        raise InputError(
            f"Question '{question.id}' has no option {value!r}; there are "
            f"{', '.join(map(repr, question.options))}."
        )
    return str(value)


def _number(question: Question, value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _layer(question: Question, value: Any) -> int:
    number = _number(question, value)
    if number != int(number):
        raise ValueError
    low, high = question.between or (0, math.inf)
    if not low <= number <= high:
        raise InputError(
            f"Question '{question.id}' takes a layer from {low:g} to {high:g}, not {value!r}."
        )
    return int(number)


def _head(question: Question, value: Any) -> list[int]:
    parts: Iterable[Any] = value.split(".") if isinstance(value, str) else value
    layer, head = (int(part) for part in parts)
    if layer < 0 or head < 0:
        raise ValueError
    return [layer, head]


def _curve(question: Question, value: Any) -> list[float]:
    numbers = [_number(question, one) for one in value]
    if len(numbers) != len(question.options):
        raise InputError(
            f"Question '{question.id}' takes {len(question.options)} numbers, one for each place "
            f"of its axis, not {len(numbers)}."
        )
    return numbers


_READ: Mapping[str, Callable[[Question, Any], Any]] = {
    "token": _text,
    "text": _text,
    "choice": _choice,
    "number": _number,
    "layer": _layer,
    "head": _head,
    "curve": _curve,
}

_WANTED = {
    "token": "a token",
    "text": "a text",
    "number": "a finite number",
    "layer": "the number of a layer",
    "head": "a head such as '5.1', layer and head",
    "curve": "a list of finite numbers",
}
