"""Attention of every head, live: who looks where, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, Unpack

import traitlets as t

from layerlens.analyses.attention.weightings import chosen_weightings
from layerlens.errors import InputError
from layerlens.export.attention_meta import WIRES, attention_meta, attention_meta_of
from layerlens.export.attention_slices import PAGE_BYTES, all_layers, with_slices
from layerlens.export.pack import Frame, Wire, frames_of, pack
from layerlens.result.attention import WEIGHTINGS
from layerlens.result.given_attention import given_result, part_of
from layerlens.result.result import Result
from layerlens.result.select import one_text
from layerlens.views.adopt import asleep, other_of
from layerlens.views.attention_answers import Shown, exact_row, slice_of_layer
from layerlens.views.attention_stream import AttentionStream
from layerlens.views.base import Answer, Reply
from layerlens.views.keywords import AttentionKeywords
from layerlens.views.live import LiveView
from layerlens.views.one_run import Run
from layerlens.views.worker import desk

if TYPE_CHECKING:
    import xarray as xr

    from layerlens.analyses.contract.contract import About
    from layerlens.analyses.contract.parts import Variable
    from layerlens.model.lensmodel import LensModel
    from layerlens.views.frames import Stream

SNAPSHOT_BYTES = 1 << 19
"""Slices of more bytes than this are not kept in the notebook's file after each run."""

FROZEN_BYTES = 3 << 19
"""The same of a view without a model, whose page has nobody to ask for more."""

MODES = ("lines", "matrix", "both")
REDUCTIONS = ("one", "mean", "max")
COMPARED = ("first", "second", "beside", "difference")


class AttentionView(LiveView):
    """Attention of every head over one text, live.

    It shows all heads of a layer, and one of them large, as lines from token to token and as a
    matrix. Layers appear as the forward pass reaches them; a slider goes through them. Beside each
    head stands what it does in this text: an induction head, a sink, the token before. A second
    text or a second model can lie beside, and the difference of both.

    Parameters
    ----------
    model : LensModel
        From ``ll.load``.
    text : str, list of int or chat messages
        One text.
    other : str, list of int, chat messages or LensModel, optional
        A second text for the same model, or a second model, which reads the same text.
    **keywords
        Options of `layerlens.attention` (``layers``, ``weighting``, ``memory_limit``) and traits:
        ``layer``, ``head``, ``query``, ``key``, ``pins`` (dicts with ``position`` and ``side``),
        ``shown`` (heads; none for all), ``reduce``, ``mode``, ``mask_sinks``, ``theme``,
        ``title``; with ``other``, ``compare``: ``"first"``, ``"second"``, ``"beside"`` or
        ``"difference"``.

    Raises
    ------
    TypeError
        A keyword is none of these; the nearest is named. What is wrong with the text does not
        raise: it is said in the view, in `status` and by `wait`.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> view = ll.AttentionView(model, "cat dog owl cat dog", layer=1)
    >>> view.weighting = "norm"
    >>> view.wait().data["norm_weighted"].dims
    ('layer', 'head', 'query', 'key')
    """

    ANALYSIS = "attention"
    STREAM = AttentionStream
    PICTURE = (
        "view", "title", "theme", "text", "options", "layer", "position", "head", "query", "key",
        "pins", "shown", "reduce", "mode", "weighting", "mask_sinks", "compare", "part",
        "lead_open", "cell_width",
    )  # fmt: skip

    view = t.Unicode("attention").tag(sync=True)
    text = t.Unicode("", help="The prompt.").tag(sync=True)
    layer = t.Int(-1, help="Number of the layer that is looked at; -1: the first.").tag(sync=True)
    position = t.Int(-1, help="The query, for linking views; -1: none.").tag(sync=True)
    head = t.Int(-1, help="Head that is shown large; -1: the first shown.").tag(sync=True)
    query = t.Int(-1, help="Token whose row is looked at; -1: none.").tag(sync=True)
    key = t.Int(-1, help="Token whose column is looked at; -1: none.").tag(sync=True)
    pins = t.List(t.Dict(), help="Tokens that stay marked: 'position', 'side'.").tag(sync=True)
    shown = t.List(t.Int(), help="Heads that are on; none: all.").tag(sync=True)
    reduce = t.Enum(REDUCTIONS, "one", help="What is large: a head, or all shown.").tag(sync=True)
    mode = t.Enum(MODES, "both").tag(sync=True)
    weighting = t.Enum(tuple(WEIGHTINGS), "pattern").tag(sync=True)
    mask_sinks = t.Bool(False, help="Leave out the first and special tokens.").tag(sync=True)
    compare = t.Enum(COMPARED, "first", help="Which of two is large, or how both are.").tag(
        sync=True
    )
    lead_open = t.Bool(True, help="Whether the line that says how to read it is open.").tag(
        sync=True
    )
    part = t.Unicode("self", help="Which part, where there is more than one.").tag(sync=True)
    cell_width = t.Int(0, min=0, max=400, help="Pixels; 0: as there is room.").tag(sync=True)

    def __init__(
        self, model: LensModel, text: Any, other: Any = None, **keywords: Unpack[AttentionKeywords]
    ) -> None:
        super().__init__(model, {"text": text}, {**keywords, "other": other})

    def _open(
        self, model: LensModel | None, inputs: Mapping[str, Any], keywords: dict[str, Any]
    ) -> None:
        self._other = keywords.pop("other", None)
        if (weighting := keywords.pop("weighting", None)) is not None:
            # The word of the analysis, which computes it; the trait says which one is looked at.
            names = chosen_weightings(weighting)
            keywords["options"] = {**keywords.get("options", {}), "weighting": names}
            keywords["weighting"] = names[-1]
        super()._open(model, inputs, keywords)
        for name, answer in (("slice", slice_of_layer), ("exact", exact_row)):
            self._answers[name] = (self._about_picture(answer), desk())

    def _about_picture(self, answer: Callable[[Shown, dict[str, Any]], Reply]) -> Answer:
        return lambda params, task: answer(self._picture_now(), params)

    def _picture_now(self) -> Shown:
        stream = self._stream
        if not isinstance(stream, AttentionStream):
            raise InputError("not yet: there is no picture; ask again when layers are done.")
        return Shown(stream, self._shown_meta, self.layer, self.part)

    def run(self, text: Any = None, **options: Any) -> Self:
        """Ask again, or ask something else; returns at once.

        Parameters
        ----------
        text : str, list of int or chat messages, optional
            A new text; by default the present one.
        **options
            Options of the analysis to change, ``other`` among them.
        """
        if "other" in options:
            self._other = options.pop("other")
        return self._again({"text": text}, options)

    @property
    def other(self) -> Any:
        """The second text or model; setting it asks again."""
        return self._other

    @other.setter
    def other(self, other: Any) -> None:
        self.run(other=other)

    # The question

    def _question(self) -> tuple[dict[str, Any], dict[str, Any]]:
        inputs, options = super()._question()
        return inputs, options if self._other is None else {**options, "other": self._other}

    # A result that exists

    @classmethod
    def from_result(
        cls, result: Result, model: LensModel | None = None, *, text: int = 0, **keywords: Any
    ) -> Self:
        """Show a result that exists; see `ResultView.from_result`.

        One from a file beside which a second model lies is frozen, unless that is given as
        ``other=``.
        """
        attrs = result.data.attrs
        if attrs.get("other") == "model" and keywords.get("other") is None:
            keywords["other"] = other_of(result, text)
        if "parts" in attrs or (attrs.get("other") == "model" and keywords["other"] is None):
            result, model = asleep(result), None
        return super().from_result(result, model, text=text, **keywords)

    @classmethod
    def from_attention(
        cls,
        attention: Any,
        tokens: Sequence[str] | None = None,
        key_tokens: Sequence[str] | None = None,
        **keywords: Any,
    ) -> Self:
        """Show attention that something else computed, without a model.

        `layerlens.head_view`, `layerlens.model_view`, `layerlens.attention_heads` and
        `layerlens.attention_patterns` do the same by the names and the order of arguments that
        BertViz and CircuitsVis have.

        Parameters
        ----------
        attention : tuple of arrays, or array
            ``[1, heads, query, key]`` for each layer, as Hugging Face models hand it out; or
            ``[layers, heads, query, key]``, ``[heads, query, key]``, ``[query, key]``.
        tokens, key_tokens : sequence of str, optional
            Those that look, and those that are looked at; by default the same, or numbers.
        **keywords
            Traits: ``layer``, ``head``, ``mode``, ``theme``, ...

        Raises
        ------
        InputError
            A shape does not fit; says which and what was expected.
        """
        part = part_of(attention, tokens, key_tokens)
        code = "ll.AttentionView.from_attention(attention, tokens)"
        return cls.from_result(given_result({"self": part}, code=code), **keywords)

    @classmethod
    def _asked_of(cls, data: xr.Dataset, options: dict[str, Any]) -> dict[str, Any]:
        other = options.pop("other", None)
        return {"other": other} if data.attrs.get("other") == "text" else {}

    # What the picture says

    def _meta_before(
        self, run: Run, attrs: Mapping[str, Any], coords: Mapping[str, Any]
    ) -> dict[str, Any]:
        return dict(attention_meta(attrs, coords, (), run.number))

    def _meta_of(
        self, result: Result, data: xr.Dataset, run: int, about: About | None
    ) -> dict[str, Any]:
        known = {} if about is None else about.shown()
        return dict(attention_meta_of(data.assign_attrs(known), result.checks, run))

    def _meta_after(self, meta: dict[str, Any], result: Result) -> dict[str, Any]:
        return self._meta_of(result, one_text(result.data), meta["run"], self.analysis.about)

    def _wires(self, variables: Mapping[str, Variable]) -> Mapping[str, Wire]:
        return WIRES

    def _frames(self, data: xr.Dataset, run: int) -> list[Frame]:
        return frames_of(data, run, WIRES)

    def _keep_run(self, run: Run, meta: dict[str, Any], stream: Stream) -> None:
        shown = self._partial if self._partial is not None else self._result
        if shown is not None:
            stream.hold(one_text(shown.data))
        super()._keep_run(run, meta, stream)

    def _packed(self, meta: Mapping[str, Any], stream: Stream, *, page: bool = False) -> bytes:
        if isinstance(stream, AttentionStream):
            kept = SNAPSHOT_BYTES if self.model is not None else FROZEN_BYTES
            most = PAGE_BYTES if page else kept
            meta = with_slices(meta, stream.get, first=self.layer, most_bytes=most)
        return pack(meta, stream.merged())

    def _follow_meta(self) -> None:
        """Keep what is looked at inside the new picture, unless others share it."""
        meta = self._shown_meta
        layers = all_layers(meta) if meta else []
        if layers and self.layer not in layers and not self.linked:
            self.layer = min(layers, key=lambda layer: (abs(layer - self.layer), layer))
        parts = meta.get("parts", [self.part])
        if self.part not in parts:
            self.part = parts[0]
        shape = (meta.get("by_part") or {self.part: meta})[self.part]
        limits = {"head": "n_heads", "query": "tokens", "key": "key_tokens"}
        if self.linked:
            del limits["query"]
        for name, held in limits.items():
            size = shape.get(held, 0)
            if getattr(self, name) >= (size if isinstance(size, int) else len(size)):
                setattr(self, name, -1)
        self.shown = [head for head in self.shown if head < shape.get("n_heads", 0)]

    def _figure_options(self) -> dict[str, Any]:
        return {
            **super()._figure_options(),
            "layer": self.layer if self.layer in self._shown_meta.get("layers", []) else None,
            "head": self.head if self.head >= 0 else None,
            "weighting": self.weighting,
            "part": self.part,
            "compare": self._comparison(),
        }

    def _comparison(self) -> str:
        """Return how two are drawn; side by side where there is no difference to draw."""
        meta, other = self._shown_meta, self._shown_meta.get("other")
        if other is None or self.part != meta["parts"][0]:
            return "first"
        alike = all(len(meta[name]) == len(other[name]) for name in ("tokens", "key_tokens"))
        return self.compare if alike or self.compare != "difference" else "beside"

    def _table_data(self, data: xr.Dataset) -> xr.Dataset:
        """Return the layer that is looked at, and the head: of all there are millions of rows."""
        if self.layer in data["layer"].values:
            data = data.isel(layer=data["layer"].values.tolist().index(self.layer))
        return data.isel(head=self.head) if self.head >= 0 else data

    # Traits

    @t.validate("layer", "position", "head", "query", "key")
    def _valid_place(self, proposal: Any) -> int:
        return max(-1, int(proposal["value"]))

    @t.validate("pins")
    def _valid_pins(self, proposal: Any) -> list[dict[str, int]]:
        return [_pin(pin) for pin in proposal["value"]]

    @t.observe("query", "position")
    def _place_changed(self, change: Any) -> None:
        """The query is the position that other views share."""
        name = "position" if change["name"] == "query" else "query"
        setattr(self, name, change["new"])

    @t.observe("weighting")
    def _weighting_changed(self, change: Any) -> None:
        """One that was not computed is computed when it is looked at."""
        asked = chosen_weightings(self.options.get("weighting", ()))
        if self._ready and self._lane is not None and self.weighting not in asked:
            self.options = {**self.options, "weighting": ["pattern", self.weighting]}


def _pin(pin: Any) -> dict[str, Any]:
    position, side = pin.get("position"), pin.get("side", "query")
    if not isinstance(position, int) or position < 0 or side not in ("query", "key"):
        raise t.TraitError(
            "A pin is {'position': int, 'side': 'query' or 'key'} with a position from 0, not "
            f"{pin!r}."
        )
    return {"position": position, "side": side}
