"""A view that shows a result that exists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from layerlens.result.select import one_text
from layerlens.views.adopt import inputs_of, options_of, shown_of
from layerlens.views.frames import Stream
from layerlens.views.one_run import Run
from layerlens.views.question import QuestionView

if TYPE_CHECKING:
    import xarray as xr

    from layerlens.analyses.contract.contract import About
    from layerlens.model.lensmodel import LensModel
    from layerlens.result import Result

IDLE = {"state": "idle", "run": 0, "done": 0, "total": 0, "what": "", "message": "", "seconds": 0.0}


class ResultView(QuestionView):
    """Base of views that take up a result: frozen, or as if they had asked for it themselves."""

    _run: Run | None = None
    _pictured: Run | None = None
    _last: tuple[Run | None, Stream | None, Mapping[str, Any]] = (None, None, {})
    """The last picture that a run brought to its end, or until it was cancelled."""

    @classmethod
    def from_result(
        cls, result: Result, model: LensModel | None = None, *, text: int = 0, **keywords: Any
    ) -> Self:
        """Show a result that exists, computing nothing.

        Parameters
        ----------
        result : Result
            Of the view's analysis.
        model : LensModel, optional
            By default the one that the result was made with. Without one (after ``ll.open``) the
            view is frozen: it can be looked at, and says why the rest is off.
        text : int
            Which text of a result of many.
        """
        model = cls._model_of(result, model)
        data = one_text(result.data, text)
        view = cls._new(result)
        given = {} if result.given is None else result.given[1]
        options = {name: given.get(name, value) for name, value in options_of(data).items()}
        options |= keywords.pop("options", {})
        asked = cls._asked_of(data, options)
        inputs = cls._inputs_of(result.data, text, model)
        view._open(model, inputs, {**asked, **keywords, "options": options})
        view._adopt(result, data, text)
        return view

    @classmethod
    def _new(cls, result: Result) -> Self:
        """Return a view that can ask the question of a result, still without anything in it."""
        return cls.__new__(cls)

    @classmethod
    def _model_of(cls, result: Result, model: LensModel | None) -> LensModel | None:
        """Return the model that can be asked a result's question again; None: a frozen view."""
        return result.model if model is None else model

    @classmethod
    def _inputs_of(cls, data: xr.Dataset, text: int, model: LensModel | None) -> dict[str, Any]:
        """Return the texts that a result is about, by the traits that hold them."""
        return inputs_of(data, text, cls.INPUTS, model)

    @classmethod
    def _asked_of(cls, data: xr.Dataset, options: dict[str, Any]) -> dict[str, Any]:
        """Remove from the options of a result those that are traits, and return them."""
        return {name: options.pop(name) for name in cls.ASKS if name in options}

    def _adopt(self, result: Result, data: xr.Dataset, text: int) -> None:
        self._index = text
        self._ready = False
        self._adopt_texts(result.data, text)
        self._ready = True
        run = self._run = self._pictured = Run(1, *self._question(), self._asked())
        about = None if self.model is None else self.analysis.about
        meta = run.signed(self._meta_of(result, data, run.number, about))
        self._show_result(result, data, meta)
        self._last = run, self._stream, meta
        seconds = float(data.attrs.get("seconds", 0.0))
        self.status = {**IDLE, "state": "done", "run": run.number, "seconds": round(seconds, 3)}
        run.end(result=result)

    def _adopt_texts(self, data: xr.Dataset, text: int) -> None:
        """Show the texts of a result as they were written."""
        for name in self.INPUTS:
            self._shown[name] = shown_of(data, text, name)
            setattr(self, name, self._shown[name])

    def _meta_of(
        self, result: Result, data: xr.Dataset, run: int, about: About | None
    ) -> dict[str, Any]:
        """Return the ``meta`` trait of a result; `data` are those of one text."""
        raise NotImplementedError
