"""Every layer measured, live: curves that grow while the model runs, and a second model beside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, Unpack

import traitlets as t

from layerlens.analyses.measuring.layer_metrics import Asked, require_metric
from layerlens.errors import InputError
from layerlens.export.metrics_meta import metrics_meta_of
from layerlens.metrics import registry
from layerlens.metrics.catalogue import catalogue
from layerlens.model.required import require_model
from layerlens.result import Result
from layerlens.views.adopt import asleep
from layerlens.views.base import READ_ONLY, Reply
from layerlens.views.keywords import MetricsKeywords
from layerlens.views.metrics_measuring import MeasuringView
from layerlens.views.metrics_memory import Memory
from layerlens.views.metrics_texts import of_corpus, texts_of, written
from layerlens.views.one_run import Run
from layerlens.views.second_lane import SecondLaneView
from layerlens.views.worker import Task, desk

if TYPE_CHECKING:
    import xarray as xr

    from layerlens.analyses.contract.contract import About
    from layerlens.model.lensmodel import LensModel


class MetricsView(MeasuringView):
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
        """Show a result that exists; see `ResultView.from_result`.

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
