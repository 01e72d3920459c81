"""Predict, then reveal: a question in the cell, whose truth is computed once it was answered."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import traitlets as t
from ipywidgets import Widget

from layerlens.course import asked, pages
from layerlens.course.question import Question, Verdict, judge
from layerlens.errors import InputError
from layerlens.export.inline import Inline, wanted
from layerlens.result.files import checked_path, write_bytes
from layerlens.views.base import READ_ONLY, View, sentence
from layerlens.views.worker import Task, desk

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

BLANK: dict[str, Any] = {"value": None, "given": False, "tries": 0}


def _reference(figure: Widget | None, _: Widget) -> str | None:
    """Return what anywidget's front end finds another widget by."""
    return None if figure is None else f"anywidget:{figure.model_id}"


class Prediction(View):
    """A question, what was answered to it, and the truth beside it; made by `predict`.

    Attributes
    ----------
    question : dict
        What is asked, see `layerlens.course.question.Question.wire`.
    answer : dict
        ``value`` as far as it was put in, whether it was ``given`` for good, and ``tries``.
    truth : list
        Every right answer; empty until it may be seen.
    figure : Widget or None
        What is revealed together with the truth.
    """

    view = t.Unicode("course").tag(sync=True)
    question = t.Dict().tag(**READ_ONLY)
    answer = t.Dict(dict(BLANK)).tag(sync=True)
    truth: t.List[Any] = t.List().tag(**READ_ONLY)
    figure = t.Instance(Widget, allow_none=True).tag(**READ_ONLY, to_json=_reference)

    KERNEL_ONLY = View.KERNEL_ONLY | {"question", "truth", "figure"}

    def __init__(
        self,
        question: Question,
        truth: Any,
        reveal: Any = None,
        *,
        title: str = "",
        theme: str = "auto",
    ) -> None:
        self._question = question
        self._truth = truth
        self._reveal = reveal
        self._known: list[Any] | None = None
        super().__init__(title=title, theme=theme)
        self.question = question.wire()
        self.observe(self._on_answer, "answer")
        before = asked.questions().get(question.id)
        if before is not None and before.asked == question:
            self.answer = before.answer
        asked.remember(question.id, self)

    # What the notebook's author uses

    @property
    def asked(self) -> Question:
        """What is asked."""
        return self._question

    def known(self) -> list[Any]:
        """Return every right answer, computed when first asked for.

        Raises
        ------
        InputError
            What was given as `truth` is no answer to the question.
        """
        if self._known is None:
            found = self._truth() if callable(self._truth) else self._truth
            self._known = self._question.read_truth(found)
        return self._known

    def commit(self, value: Any) -> Prediction:
        """Answer the question, as the button does; return the prediction.

        Raises
        ------
        InputError
            `value` is no answer to the question, or another one was given for good.
        """
        if self._question.lock and self.answer.get("given"):
            raise InputError(f"Question '{self._question.id}' was answered, and its answer stays.")
        tries = self.answer.get("tries", 0) + 1
        self.answer = {"value": self._question.read(value), "given": True, "tries": tries}
        return self

    def verdict(self) -> Verdict | None:
        """Return how the given answer stands to the truth; None where none was given."""
        if not self.answer.get("given"):
            return None
        return judge(self._question, self.answer["value"], self.known())

    def ahead(self) -> Prediction:
        """Compute the truth now, so that it is revealed without a kernel, too.

        It lies in the page from then on, where somebody who looks for it finds it.
        """
        self._show_truth()
        return self

    def html(self, path: str | os.PathLike[str]) -> Path:
        """Write a page that asks the question and reveals its truth with no kernel."""
        return write_bytes(checked_path(path, ".html", ".htm"), pages.content(self.ahead()))

    def embed(self, *, height: int = 300) -> Inline:
        """Return the page that `html` writes as a piece of any other page, see `Inline`."""
        return Inline(pages.content(self.ahead()), self.asked.ask, height)

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
        if wanted():
            return {"text/html": self.embed().html, "text/plain": self._plain()}, {}
        return super()._repr_mimebundle_(**kwargs)

    # What the front end says

    def set_state(self, sync_data: dict[str, Any]) -> None:
        """Take in an answer, unless one was given for good or this is none."""
        sent = sync_data.get("answer")
        if sent is not None and not self._takes(sent):
            sync_data = {name: value for name, value in sync_data.items() if name != "answer"}
        super().set_state(sync_data)
        if sent is not None and sent != self.answer:
            self.send_state("answer")

    def _takes(self, sent: Any) -> bool:
        if self._question.lock and self.answer.get("given"):
            return False
        if not isinstance(sent, dict) or set(sent) != set(BLANK):
            return False
        if not sent["given"]:
            return True
        try:
            return bool(self._question.read(sent["value"]) == sent["value"])
        except InputError as error:
            self._report(error)
            return False

    def _on_answer(self, change: Any) -> None:
        if not change["new"].get("given"):
            return
        self._post(status={"state": "running", "message": ""})
        desk().put(Task(self._owner, "truth", lambda task: self._show_truth(), self._failed))

    def _failed(self, error: BaseException) -> None:
        self._post(status={"state": "error", "message": sentence(error)})

    def _show_truth(self) -> None:
        known = self.known()
        figure = self.figure  # made once: a page and an answer may both ask for it
        if figure is None and self._reveal is not None:
            figure = _widget_of(self._reveal)
        if figure is not None and self._question.kind == "layer" and figure.has_trait("layer"):
            figure.layer = known[0]
        self._post(truth=known, figure=figure, status={"state": "done", "message": ""})

    def __repr__(self) -> str:
        said = f"answered {self.answer['value']!r}" if self.answer.get("given") else "not answered"
        return f"Prediction({self._question.id!r}, {self._question.kind}): {said}"


def predict(
    key: str,
    ask: str,
    *,
    kind: str,
    truth: Any | Callable[[], Any],
    model: LensModel | None = None,
    options: Iterable[str] = (),
    along: Iterable[Any] = (),
    between: tuple[float, float] | None = None,
    unit: str = "",
    tolerance: float | None = None,
    hint: str = "",
    lock: bool = True,
    reveal: Any = None,
    title: str = "",
    theme: str = "auto",
) -> Prediction:
    """Ask a question whose answer the reader commits to before the truth is computed.

    Parameters
    ----------
    key : str
        The question's id, under which its answer is kept in the notebook's own file; asking again
        under the same one, after a restart too, finds the answer that was given.
    ask : str
        The question, in words.
    kind : str
        ``"token"``, ``"layer"``, ``"head"``, ``"number"``, ``"curve"`` (drawn), ``"choice"`` or
        ``"text"``, which is kept and never judged.
    truth : callable or value
        What is right: a token, a number, ``"5.1"`` or ``(5, 1)`` for a head, one of `options`, a
        sequence of numbers for a curve, a model answer for a text; a list where several are right.
        A callable runs once an answer was given.
    model : LensModel, optional
        Whose layers a layer is one of.
    options : iterable of str, optional
        What can be chosen.
    along : iterable, optional
        The places of a curve, such as the layers; what they are called stands below its axis.
    between : (float, float), optional
        The least and the largest answer; a curve needs it, it is its upright axis.
    unit : str, optional
        What numbers are of.
    tolerance : float, optional
        How far from the truth is right, in `unit`; a curve is taken on average over its places. By
        itself the very layer, 5 % of a number, a tenth of a curve's axis.
    hint : str, optional
        Shown when it is asked for.
    lock : bool
        Whether an answer stays as it was given; otherwise it can be changed once the truth is seen.
    reveal : view, Result, or a callable that returns one, optional
        The figure that appears with the truth; a callable runs only then. Where a layer was asked
        for, the figure opens there.
    title, theme : str, optional
        As in every view.

    Returns
    -------
    Prediction
        The question as a cell shows it.

    Raises
    ------
    InputError
        The question is not whole, or its options do not fit its kind.

    Examples
    --------
    >>> import layerlens as ll
    >>> from layerlens import course
    >>> model = ll.load("toy:induction")
    >>> lens = ll.logit_lens(model, "cat dog owl cat")
    >>> asked = course.predict(
    ...     "settles", "After which layer does it say its next word?", kind="layer", model=model,
    ...     truth=lambda: int(lens.data.settle_layer[-1]), reveal=lens,
    ... )
    >>> asked.commit(0).verdict()
    Verdict(right=False, far=1)
    >>> course.check("settles")
    False
    """
    if kind == "layer" and between is None and model is not None:
        between = (0, model.n_layers - 1)
    along, options = tuple(map(str, along)), tuple(map(str, options))
    if along and kind != "curve":
        raise InputError(
            f"Question '{key}': along= names the places of a 'curve', not of a '{kind}'."
        )
    if options and kind != "choice":
        raise InputError(f"Question '{key}': options= are those of a 'choice', not of a '{kind}'.")
    entries = along or options
    question = Question(key, ask, kind, entries, between, unit, tolerance, hint, lock)
    return Prediction(question, truth, reveal, title=title, theme=theme)


def _widget_of(reveal: Any) -> Widget:
    from layerlens.result import Result
    from layerlens.views import view_of

    shown = reveal() if callable(reveal) and not isinstance(reveal, Widget) else reveal
    if isinstance(shown, Result):
        shown = view_of(shown)
    if not isinstance(shown, Widget):
        raise InputError(
            f"What a prediction reveals is a view or a result, not {type(shown).__name__}."
        )
    return shown
