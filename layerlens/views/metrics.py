"""Every layer measured, live: curves that grow while the model runs, and a second model beside."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, Unpack

import traitlets as t

from layerlens.analyses.measuring.joined_metrics import Frame, beside, joined
from layerlens.analyses.measuring.layer_metrics import Asked, chosen, require_metric
from layerlens.errors import Cancelled, InputError
from layerlens.export.metrics_meta import metrics_meta_of
from layerlens.metrics import registry
from layerlens.metrics.catalogue import catalogue
from layerlens.model.required import require_model
from layerlens.result import Result
from layerlens.result.beside_words import about_other
from layerlens.result.layers import metrics_in, variables_in
from layerlens.views.adopt import asleep
from layerlens.views.base import READ_ONLY, Reply
from layerlens.views.keywords import MetricsKeywords
from layerlens.views.metrics_listen import MetricsListener
from layerlens.views.metrics_memory import Memory
from layerlens.views.metrics_texts import of_corpus, texts_of, written
from layerlens.views.one_run import Run, superseded
from layerlens.views.second_lane import SecondLaneView
from layerlens.views.worker import Task, desk, lane_of

if TYPE_CHECKING:
    import xarray as xr

    from layerlens.analyses.contract.contract import About
    from layerlens.model.lensmodel import LensModel
    from layerlens.views.listen import RunListener


class MetricsView(SecondLaneView):
    """Measurements of every layer of a model, live.

    Curves by layer, matrices of layer by layer and grids of heads grow while the model runs.
    Metrics are picked from a list that says what each means; what was measured of the same texts
    is kept, so that one more costs only itself. A second model or checkpoint can lie beside.

    Parameters
    ----------
    model : LensModel
        From ``ll.load``.
    texts : str, list of str, list of int, chat messages or ``ll.texts``
        One text or several; several give one answer.
    metrics : str or list of str, optional
        Names from ``ll.metrics()``; by default a set that says how the model uses its depth.
    other : LensModel or Result, optional
        A second model, measured over the same texts after the first; or a result of
        ``ll.layer_metrics``.
    label : str, optional
        What to call it; by default its name.
    **keywords
        Options of `layerlens.layer_metrics` (``skip_first``, ``batch_size``, ``metric_options``,
        ...) and traits: ``layer``, ``head``, ``position``, ``hidden``, ``focus``, ``scale``,
        ``overlay``, ``theme``, ``title``.

    Raises
    ------
    TypeError
        A keyword is none of these; the nearest is named.
    InputError
        A metric is not known, or `other` is no model. What is wrong with the texts does not
        raise: it is said in the view, in `status` and by `wait`.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> view = ll.MetricsView(model, ["cat dog owl", "owl fox bee"])
    >>> view.metrics = ["residual_norm", "cka"]
    >>> view.wait().data["cka"].dims
    ('point', 'point_other')
    """

    ANALYSIS = "layer_metrics"
    INPUTS = ("texts",)
    ASKS = ("metrics",)
    KERNEL_ONLY = SecondLaneView.KERNEL_ONLY | {"catalogue"}
    PICTURE = (
        "view", "title", "theme", "texts", "text", "metrics", "options", "layer", "position",
        "head", "hidden", "focus", "scale", "overlay", "cell_width", "catalogue",
    )  # fmt: skip

    view = t.Unicode("metrics").tag(sync=True)
    texts = t.List(t.Unicode(), help="What is measured.").tag(sync=True)
    text = t.Unicode("", help="The text, where there is one only.").tag(sync=True)
    metrics = t.List(t.Unicode(), help="Names; empty: the default ones.").tag(sync=True)
    layer = t.Int(-1, help="Layer that is looked at; -1: none.").tag(sync=True)
    position = t.Int(-1, help="Position of a linked view; -1: none.").tag(sync=True)
    head = t.Int(-1, help="Head that is looked at; -1: none.").tag(sync=True)
    hidden = t.List(t.Unicode(), help="Arrays that are not drawn.").tag(sync=True)
    focus = t.Unicode("", help="Array that is shown large.").tag(sync=True)
    scale = t.Enum(("linear", "log"), "linear").tag(sync=True)
    overlay = t.Bool(True, help="Whether a second model is drawn.").tag(sync=True)
    cell_width = t.Int(0, min=0, max=400, help="Pixels; 0: as there is room.").tag(sync=True)
    catalogue = t.List(t.Dict(), help="All metrics that can be picked.").tag(**READ_ONLY)

    other: LensModel | Result | None = None

    def __init__(
        self,
        model: LensModel,
        texts: Any,
        metrics: Asked = None,
        *,
        other: LensModel | Result | None = None,
        label: str = "",
        **keywords: Unpack[MetricsKeywords],
    ) -> None:
        if isinstance(model, list | tuple):
            raise InputError(
                "MetricsView shows one model and a second beside it: give the first as it is, "
                "and the second as other=."
            )
        require_model(model)
        asked = [] if metrics is None else [metrics] if isinstance(metrics, str) else [*metrics]
        for name in asked:
            require_metric(name)
        registry.named(asked or ["residual_norm"])
        self._set_other(model, other, label)
        super().__init__(model, {"texts": texts}, {"metrics": asked, **keywords})

    def _set_other(self, model: LensModel, other: LensModel | Result | None, label: str) -> None:
        if isinstance(other, Result):
            if other.analysis != self.ANALYSIS:
                raise InputError(f"other= is a result of {other.analysis}, not of layer_metrics.")
            name = str(other.data.attrs.get("model", ""))
        elif other is not None:
            require_model(other, "other (or a result of ll.layer_metrics)")
            name, self._second_lane = other.name, lane_of(other)
        else:
            return
        self.other = other
        self._label = label or (f"{name} (other)" if name == model.name else name)

    def _open(
        self, model: LensModel | None, inputs: Mapping[str, Any], keywords: dict[str, Any]
    ) -> None:
        self._memory, self._other_memory = Memory(), Memory()
        super()._open(model, inputs, keywords)
        self._follow_texts()
        self.catalogue = [dict(entry) for entry in catalogue(model)]
        self._answers["code"] = (self._code, desk())

    def run(self, texts: Any = None, **options: Any) -> Self:
        """Measure again, or something else; returns at once.

        Parameters
        ----------
        texts : str, list of str, list of int, chat messages or ``ll.texts``, optional
            New texts; by default the present ones, of which nothing is kept.
        **options
            Options to change, ``metrics`` among them.
        """
        if texts is None and not options:
            self._memory.forget()
            self._other_memory.forget()
        return self._again({"texts": texts}, options)

    def _on_run(self, message: dict[str, Any]) -> None:
        if not {*self.INPUTS, *self.ASKS, "options"} & set(message):
            self._memory.forget()
            self._other_memory.forget()
        super()._on_run(message)

    # The question

    def _written(self, name: str, value: Any) -> Any:
        return written(self.model, value) if name == "texts" else list(value or [])

    def _take(self, values: Mapping[str, Any]) -> dict[str, Any]:
        taken = super()._take(values)
        if isinstance(taken.get("texts"), str):
            taken["texts"] = self._shown["texts"] = [taken["texts"]]
        return taken

    def _question(self) -> tuple[dict[str, Any], dict[str, Any]]:
        texts = self._meant("texts")
        if isinstance(texts, list) and len(texts) == 1 and isinstance(texts[0], str):
            single = self._given.get("texts") is not texts
            texts = texts[0] if single else texts
        return {"text": texts}, {**self.options, "metrics": list(self.metrics)}

    def _asked(self) -> dict[str, Any]:
        # A picture with fewer metrics is true of these texts all the same.
        return {**super()._asked(), "options": {}}

    def _resolved(self, run: Run) -> dict[str, Any]:
        return {**run.options, "metrics": run.options["metrics"] or None}

    @t.validate("metrics")
    def _valid_metrics(self, proposal: Any) -> list[str]:
        names = list(dict.fromkeys(proposal["value"]))
        try:
            for name in names:
                require_metric(name)
            return registry.named(names) if names else []
        except InputError as error:
            raise t.TraitError(str(error)) from None

    @t.validate("layer", "position", "head")
    def _valid_place(self, proposal: Any) -> int:
        return max(-1, int(proposal["value"]))

    @t.observe("text")
    def _text_changed(self, change: Any) -> None:
        if self.text and self.texts != [self.text]:
            self.texts = [self.text]

    @t.observe("texts")
    def _texts_changed(self, change: Any) -> None:
        self._follow_texts()

    def _follow_texts(self) -> None:
        self.text = self.texts[0] if len(self.texts) == 1 else ""

    def _caption(self) -> str:
        return " / ".join(self.texts[:3])

    def __repr__(self) -> str:
        name = self._shown_meta.get("model", "") if self.model is None else self.model.name
        shown = repr(self.texts[0]) if len(self.texts) == 1 else f"{len(self.texts)} texts"
        beside = f", other={self._label!r}" if self.other is not None else ""
        return f"MetricsView({shown}, model={name!r}{beside})"

    # A result that exists

    @classmethod
    def from_result(
        cls, result: Result, model: LensModel | None = None, *, text: int = 0, **keywords: Any
    ) -> Self:
        """Show a result that exists; see `LiveView.from_result`.

        That of a corpus is frozen: it holds how the texts were read, and not the texts.
        """
        if of_corpus(result.data):
            result, model = asleep(result), None
        return super().from_result(result, model, text=text, **keywords)

    @classmethod
    def _inputs_of(cls, data: xr.Dataset, text: int, model: LensModel | None) -> dict[str, Any]:
        return {"texts": texts_of(data)}

    @classmethod
    def _asked_of(cls, data: xr.Dataset, options: dict[str, Any]) -> dict[str, Any]:
        return {"metrics": options.pop("metrics", [])}

    def _adopt_texts(self, data: xr.Dataset, text: int) -> None:
        """Nothing: they are shown as they were given."""

    def _figure_options(self) -> dict[str, Any]:
        others = [a["name"] for a in self._shown_meta.get("arrays", []) if a["other"]]
        return {
            **super()._figure_options(),
            "scale": self.scale,
            "hidden": [*self.hidden, *([] if self.overlay else others)],
            "layer": self.layer if self.layer >= 0 else None,
        }

    # What the picture says

    def _model_attrs(self) -> dict[str, Any]:
        return {} if self.model is None else {"n_heads": self.model.n_heads}

    def _meta_of(
        self, result: Result, data: xr.Dataset, run: int, about: About | None
    ) -> dict[str, Any]:
        shown = {} if about is None else about.shown()
        known = data.assign_attrs({**shown, **self._model_attrs()})
        return dict(metrics_meta_of(known, result.checks, run))

    def _meta_after(self, meta: dict[str, Any], result: Result) -> dict[str, Any]:
        return self._meta_of(result, result.data, meta["run"], self.analysis.about)

    def _code(self, params: dict[str, Any], task: Task) -> Reply:
        return str(self._shown_meta.get("code", "")), []

    def code_of(self, run: Run) -> str:
        """Return the call that answers the question of a run."""
        code = super().code_of(run)
        if self.other is None or isinstance(self.other, Result):
            return code
        return f"{code}\n{code.replace('(model, ', '(other, ', 1)}  # {self._label}"

    # Measuring, on the worker's thread

    def _listener(self, run: Run, task: Task) -> RunListener:
        return MetricsListener(self, run, task)

    def _answer(self, model: LensModel, run: Run, listener: RunListener) -> Result:
        names, remarks = chosen(model, run.resolved["metrics"])
        options = run.resolved.get("metric_options") or {}
        registry.named([*names, *options])
        frame, attrs = Frame.of(model, names, options), self._attrs_of(run)
        attrs |= {"metrics": json.dumps(names), "notes": json.dumps([*attrs["notes"], *remarks])}
        attrs |= {"skip_first": int(run.resolved.get("skip_first", True)), **self._model_attrs()}
        if self.other is not None:
            also, about = self._other_frame(names, options)
            frame, attrs = frame.beside(also), attrs | about
        if isinstance(listener, MetricsListener):
            listener.begin(frame, attrs)
        return self._measure(model, run, names, listener, self._memory, remarks)

    def _measure(
        self,
        model: LensModel,
        run: Run,
        names: Sequence[str],
        listener: RunListener,
        memory: Memory,
        remarks: Sequence[str] = (),
    ) -> Result:
        """Measure what is not known yet; show and return all."""
        options = run.resolved.get("metric_options") or {}
        memory.open(run)
        for known in memory.results(names, options):
            data = known.data
            listener.on_emit({}, {name: data[name].values for name in variables_in(data)})
        if lacking := memory.lacking(names, options):
            own = {name: given for name, given in options.items() if name in lacking}
            asked = {**run.resolved, "metrics": lacking, "metric_options": own or None}
            try:
                found = self.analysis.run(model, run.inputs, asked, listener)
            except Exception as stop:
                part = getattr(stop, "partial", None)
                if part is not None or isinstance(stop, Cancelled):
                    whole = self._partly(run, names, memory, part, remarks)
                    stop.partial = whole  # type: ignore[attr-defined]
                raise
            memory.keep(lacking, options, found)
        return self._whole(run, joined(memory.results(names, options), names, remarks))

    def _partly(
        self, run: Run, names: Sequence[str], memory: Memory, part: Any, remarks: Sequence[str]
    ) -> Result | None:
        known = memory.results(names, run.resolved.get("metric_options") or {})
        parts = [*known, *([part] if part is not None else [])]
        return self._whole(run, joined(parts, names, remarks)) if parts else None

    def _whole(self, run: Run, result: Result) -> Result:
        """Say in a result how all of it was asked for, not only what was measured last."""
        from layerlens.analyses.contract import options as opts

        known = self.analysis.options
        options = opts.plain(opts.complete(run.resolved, known, self.ANALYSIS))
        attrs = {"options": json.dumps(options, ensure_ascii=False), **self._model_attrs()}
        data = result.data.assign_attrs(attrs)
        return Result(self.ANALYSIS, data, result.checks, self.code_of(run), self.model)

    # The second model

    def _other_frame(
        self, names: Sequence[str], options: Mapping[str, Any]
    ) -> tuple[Frame, dict[str, Any]]:
        """Return the arrays of the second model, and what is known of it."""
        other = self.other
        if isinstance(other, Result):
            data = self._given_result(other, names).data
            return Frame.of_data(data), about_other(data.attrs, self._label)
        if other is None:
            return Frame({}, {}, {}), {}
        attrs = {
            "model": other.name,
            "load": other.load_code,
            "model_type": other.anatomy.family,
            "dtype": str(other.dtype).removeprefix("torch."),
            "n_layers": other.n_layers,
            "n_heads": other.n_heads,
        }
        able = [name for name in names if not registry.get(name).missing(other)]
        return Frame.of(other, able, options), about_other(attrs, self._label)

    @staticmethod
    def _given_result(other: Result, names: Sequence[str]) -> Result:
        """Return the part of a result that has a counterpart in the picture."""
        held = metrics_in(other.data)
        return joined([other], [name for name in names if name in held])

    def _finished(self, run: Run, result: Result, listener: RunListener) -> None:
        if run is not self._run or self.other is None or not isinstance(listener, MetricsListener):
            super()._finished(run, result, listener)
            return
        names = metrics_in(result.data)
        if isinstance(self.other, Result):
            other = self._given_result(self.other, names).data
            values = {name: other[name].values for name in variables_in(other)}
            listener.second(listener.task).on_emit({}, values)
            super()._finished(run, beside(result, other, self._label), listener)
            return
        with self._lock:
            if run is self._run:
                self._result = result
            self._go_on(
                run,
                lambda view, task: view._compute_other(run, result, listener, task),
            )

    def _compute_other(self, run: Run, result: Result, first: MetricsListener, task: Task) -> None:
        if run is not self._run or self.other is None or isinstance(self.other, Result):
            run.end(error=superseded())
            return
        names = metrics_in(result.data)
        able = [name for name in names if not registry.get(name).missing(self.other)]
        if not able:
            raise InputError(f"{self._label} has not what any of these metrics reads.")
        try:
            found = self._measure(self.other, run, able, first.second(task), self._other_memory)
        except Cancelled as stop:
            if isinstance(stop.partial, Result):
                stop.partial = beside(result, stop.partial.data, self._label)
            else:
                stop.partial = result
            first.done = max(first.done, 1)  # the first model is measured, if only from memory
            self._stopped(run, stop, first)
            return
        both = beside(result, found.data, self._label)
        super()._finished(run, both, first)

    def close(self) -> None:
        """Stop what is under way and free everything that the view holds."""
        super().close()
        self.other = None
        self._memory, self._other_memory = Memory(), Memory()
