"""The answer of any analysis, live: grids and curves that fill while the model runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, cast

import traitlets as t

from layerlens.analyses.contract.contract import Analysis
from layerlens.analyses.contract.options import plain
from layerlens.analyses.contract.provenance import named_texts, several
from layerlens.export.answer_meta import answer_meta_of, fields_of
from layerlens.export.pack import Frame, Wire, answer_wires, frames_of, plain_wire
from layerlens.result.beside import is_beside
from layerlens.result.select import one_text
from layerlens.views.adopt import inputs_of, options_of
from layerlens.views.answer_cell import opened_cell
from layerlens.views.answer_figure import figure_options
from layerlens.views.answer_listen import AnswerListener
from layerlens.views.answer_memory import Answers
from layerlens.views.answer_question import AnswerQuestion
from layerlens.views.answer_second import SecondView, second_of
from layerlens.views.base import Reply
from layerlens.views.frames import Stream
from layerlens.views.one_run import Run
from layerlens.views.worker import Task

if TYPE_CHECKING:
    import xarray as xr

    from layerlens.analyses.contract.contract import About
    from layerlens.analyses.contract.parts import Variable
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.runs import Runs
    from layerlens.result import Result


class AnswerView(AnswerQuestion, SecondView):
    """Base of `GridView` and `CurvesView`."""

    KERNEL_ONLY = AnswerQuestion.KERNEL_ONLY | SecondView.KERNEL_ONLY
    PICTURE: tuple[str, ...] = (
        "view", "title", "theme", "analysis_name", "inputs", "input_names", "text", "options",
        "estimate", "layer", "position", "head", "focus", "hidden", "scale", "entry", "third",
        "means", "lead_open", "cell_width",
    )  # fmt: skip

    LATEST = frozenset({"cell"})

    layer = t.Int(-1, help="Layer that is looked at; -1: none.").tag(sync=True)
    position = t.Int(-1, help="Position that is looked at; -1: none.").tag(sync=True)
    head = t.Int(-1, help="Head that is looked at; -1: none.").tag(sync=True)
    focus = t.Unicode("", help="Array that is shown large.").tag(sync=True)
    hidden = t.List(t.Unicode(), help="Arrays that are not drawn.").tag(sync=True)
    scale = t.Enum(("linear", "log"), "linear").tag(sync=True)
    entry = t.Int(0, min=0, help="Entry of a third axis that is shown.").tag(sync=True)
    third = t.Unicode("", help="Axis of which one entry is shown; empty: the last.").tag(sync=True)
    means = t.Bool(False, help="Whether means of rows and columns are drawn.").tag(sync=True)
    lead_open = t.Bool(True, help="Whether it says how to read the picture.").tag(sync=True)
    cell_width = t.Int(0, min=0, max=400, help="Pixels; 0: as there is room.").tag(sync=True)

    @t.validate("layer", "position", "head")
    def _valid_place(self, proposal: Any) -> int:
        return max(-1, int(proposal["value"]))

    def __init__(
        self,
        model: LensModel | Runs,
        analysis: str | Analysis,
        /,
        *texts: Any,
        start: bool = False,
        other: Any = None,
        label: str = "",
        **keywords: Any,
    ) -> None:
        self._name(analysis)
        self.analysis.require_kind(model)
        model = cast("LensModel", model)  # runs stand in its place, where they may
        if "other" in self.analysis.options:  # its own way to ask about two
            keywords |= {} if other is None else {"other": other}
            other = None
        inputs, rest = self._sorted(texts, keywords)
        if other is not None:
            second = second_of(model, self.analysis, rest["options"], other, label)
            self._set_second(second, model)
        super().__init__(model, {"inputs": inputs}, rest)
        if start and self._run is not None:
            self._agree(self._run)

    def _open(
        self, model: LensModel | None, inputs: Mapping[str, Any], keywords: dict[str, Any]
    ) -> None:
        self._known = Answers()
        super()._open(model, inputs, keywords)
        if self._lane is not None:
            self._answers["cell"] = (self._cell, self._lane)

    def _cell(self, params: dict[str, Any], task: Task) -> Reply:
        return opened_cell(self, params, task)

    def run(self, *texts: Any, **changes: Any) -> Self:
        """Ask again, or ask something else; returns at once.

        Parameters
        ----------
        *texts
            New texts in the order of the analysis; by default the present ones.
        **changes
            Texts by name, and options of the analysis to change.
        """
        if not texts and not changes and not (self._run is not None and self._run.paused):
            self._known.forget()
        inputs, options = self._changes(texts, changes)
        self._again({"inputs": inputs}, options)
        if self._run is not None:
            self._agree(self._run)
        return self

    # A result that exists

    @classmethod
    def _model_of(cls, result: Result, model: LensModel | None) -> LensModel | None:
        # Two answers side by side hold what was said, and not how to ask for both again.
        return None if is_beside(result.data) else super()._model_of(result, model)

    @classmethod
    def from_result(
        cls, result: Result, model: LensModel | None = None, *, text: int = 0, **keywords: Any
    ) -> Self:
        """Show a result that exists; see `ResultView.from_result`."""
        model = cls._model_of(result, model)
        data = one_text(result.data, text)
        view = cls.__new__(cls)
        if model is None:
            view.ANALYSIS, view.names = result.analysis, tuple(fields_of(data))
        else:
            view._name(result.analysis)
        inputs, options = _question_of(result, data, view.names, text, model)
        view._open(model, {"inputs": inputs}, {**keywords, "options": options})
        view._adopt(result, data, text)
        return view

    def _frames(self, data: xr.Dataset, run: int) -> list[Frame]:
        return frames_of(data, run, answer_wires(data))

    # What the picture says

    def _attrs_of(self, run: Run) -> dict[str, Any]:
        attrs = super()._attrs_of(run)
        texts = {} if list(run.tokens) == ["text"] else named_texts(run.tokens)
        return {
            **attrs,
            **texts,
            **several(run.tokens),
            "analysis": self.ANALYSIS,
            "options": json.dumps(plain({**self.analysis.options, **run.resolved})),
            "notes": json.dumps(attrs.get("notes", []), ensure_ascii=False),
        }

    def _meta_of_blank(self, run: Run, blank: xr.Dataset) -> dict[str, Any]:
        return dict(answer_meta_of(blank, (), run.number))

    def _meta_of(
        self, result: Result, data: xr.Dataset, run: int, about: About | None
    ) -> dict[str, Any]:
        shown = {} if about is None else about.shown()
        lacking = {name: words for name, words in shown.items() if name not in data.attrs}
        return dict(answer_meta_of(data.assign_attrs(lacking), result.checks, run))

    def _meta_after(self, meta: dict[str, Any], result: Result) -> dict[str, Any]:
        return self._meta_of(result, result.data, meta["run"], self.analysis.about)

    def _figure_options(self) -> dict[str, Any]:
        view = self._shown_meta.get("view", "")
        return {
            **super()._figure_options(),
            **figure_options(self, self._shown_meta.get("arrays", []), str(view)),
        }

    # Computing, on the worker's thread

    def _wires(self, variables: Mapping[str, Variable]) -> Mapping[str, Wire]:
        return {name: plain_wire(name, variable.dtype) for name, variable in variables.items()}

    def _listener(self, run: Run, task: Task) -> AnswerListener:
        return AnswerListener(self, run, task)

    def _compute(self, run: Run, task: Task) -> None:
        known = self._known.get(run)
        if known is None:
            super()._compute(run, task)
            self._answered(run)
            return
        with self._lock:
            if run is not self._run:
                return
            meta = run.signed(self._meta_of(known, known.data, run.number, self.analysis.about))
            stream = Stream.finished(self._frames(known.data, run.number), run.number)
            self._restore(stream, meta)
            self._result, self._partial, self._pictured = known, None, run
            self._last = run, stream, meta
        self._tell(run, "done")
        run.end(result=known)

    def _answered(self, run: Run) -> None:
        if run.result is not None:
            self._known.keep(run, run.result)

    def close(self) -> None:
        """Stop what is under way and free everything that the view holds."""
        super().close()
        self._known = Answers()


class GridView(AnswerView):
    """The answer of any analysis, live, its grids above its curves.

    It appears at once and fills while the model runs; the newest question wins. What is expected
    to take over ten seconds says so, and waits for `run`, `wait` or its button.

    Parameters
    ----------
    model : LensModel
        From ``ll.load``.
    analysis : str or Analysis
        Such as ``"ablate_sweep"`` or ``ll.ablate_sweep``; ``ll.analyses()`` has all.
    *texts
        Its texts, in its order or by name; several for an analysis that pools them, none for one
        that looks at weights.
    start : bool
        Whether the first run begins at once, whatever it takes.
    other : LensModel or text, optional
        A second model that is asked the same, or a second text for an analysis of one; the picture
        holds the first's arrays, the second's (``other.<name>``) and their difference
        (``change_<name>``), see `layerlens.beside`. A cell opens on both sides.
    label : str, optional
        What to call the second side; by default its name, or the text.
    **keywords
        Options of the analysis and traits: ``focus``, ``hidden``, ``entry``, ``third``, ``scale``,
        ``means``, ``theme``, ``title``, ... A name that is both is the option.

    Raises
    ------
    TypeError
        A keyword is none of these; the nearest is named.
    InputError
        There is no such analysis, a text is missing, or there can be no `other`. What is wrong
        with a text or with an option's value does not raise: it is said in the view, in `status`
        and by `wait`.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> view = ll.GridView(model, "ablate_sweep", text="cat dog owl cat", how="zero")
    >>> view.wait().data["effect"].dims
    ('layer', 'head')
    """

    view = t.Unicode("grid").tag(sync=True)


class CurvesView(AnswerView):
    """The answer of any analysis, live, its curves above its grids; see `GridView`.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> view = ll.CurvesView(model, ll.knockout, "cat dog owl cat", sources={"dog": "dog"})
    >>> view.wait().data["percent_change"].dims
    ('source', 'layer')
    """

    view = t.Unicode("curves").tag(sync=True)


def _question_of(
    result: Result, data: xr.Dataset, names: tuple[str, ...], text: int, model: LensModel | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the texts and the options of a result, as they were given where that is known."""
    if result.given is not None and "batch" not in result.data.dims:
        inputs, options = result.given
        return dict(inputs), dict(options)
    options = options_of(data) if result.given is None else dict(result.given[1])
    if "batch" in result.data.dims:  # what was one for each text is the one of this text
        options |= {name: int(data.attrs[name]) for name in ("answer", "wrong")
                    if name in options and name in data.attrs}  # fmt: skip
        return inputs_of(result.data, text, names, model), options
    more = json.loads(data.attrs.get("several", "[]"))
    found = {}
    for name in names:
        written = str(data.attrs.get(f"{name}_text", data.attrs.get("text", "")))
        ids = json.loads(data.attrs.get(f"{name}_ids", "[]"))
        found[name] = json.loads(written) if name in more else written or ids
    return found, options
