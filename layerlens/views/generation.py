"""A text as the model writes it: what each layer would have written, token by token."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, Unpack

import traitlets as t

from layerlens.analyses.contract.options import plain
from layerlens.analyses.contract.provenance import named_texts
from layerlens.errors import InputError
from layerlens.export.generation_meta import (
    WIRES,
    generation_meta_from,
    generation_meta_of,
    written,
)
from layerlens.export.pack import Frame, Wire, frames_of
from layerlens.views.keywords import GenerationKeywords
from layerlens.views.one_run import Run
from layerlens.views.point_rows import PointRows, valid_pin

if TYPE_CHECKING:
    import xarray as xr

    from layerlens.analyses.contract.contract import About
    from layerlens.analyses.contract.parts import Variable
    from layerlens.model.lensmodel import LensModel
    from layerlens.result import Result

COLORS = ("written", "probability", "entropy", "margin", "rank", "kl")


class GenerationView(PointRows):
    """What a model writes, and what each layer would have written, live.

    A column appears as soon as its token is written; Stop keeps what is there. The text can be
    edited in place. From any token, or from one that stood beside it, another text can be written
    (`branch`): the two are shown one under the other, and where they part is marked. The rule by
    which the model could have stopped early, and its threshold, are moved on the numbers that are
    there.

    Parameters
    ----------
    model : LensModel
        From ``ll.load``.
    text : str, list of int or chat messages
        What the model goes on from.
    **keywords
        Options of `layerlens.generation_lens` (``max_new_tokens``, ``lens``, ``edits``,
        ``temperature`` ...) and traits: ``row`` or ``layer``, ``step``, ``pins`` (dicts with
        ``position``, the step, and ``id``), ``color``, ``rule``, ``threshold``, ``min_layers``,
        ``transposed``, ``theme``, ``cell_width``, ``title``.

    Raises
    ------
    TypeError
        A keyword is none of these; the nearest is named.
    InputError
        ``begin`` holds what is no token. What is wrong with the text does not raise: it is said
        in the view, in `status` and by `wait`.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> view = ll.GenerationView(model, "cat dog owl cat", max_new_tokens=3)
    >>> view.wait().data.token.values.tolist()
    ['dog', 'owl', 'cat']
    >>> view.branch(1, "fox").wait().data.token.values.tolist()[:2]
    ['dog', 'fox']
    """

    ANALYSIS = "generation_lens"
    ASKS = ("begin",)
    PICTURE = (
        "view", "title", "theme", "text", "options", "begin", "before", "row", "step", "layer",
        "pins", "color", "rule", "threshold", "min_layers", "transposed",
        "cell_width",
    )  # fmt: skip

    view = t.Unicode("generation").tag(sync=True)
    text = t.Unicode("", help="What the model goes on from.").tag(sync=True)
    begin = t.List(t.Int(), help="Ids of the tokens that are written first.").tag(sync=True)
    before = t.List(t.Dict(), help="What was written before the branch: {'id': int, 'text': str}.")
    before.tag(sync=True)
    step = t.Int(-1, help="Written token that is looked at; -1: the last.").tag(sync=True)
    pins = t.List(t.Dict(), help="Trajectories: {'position': step, 'id': int}.").tag(sync=True)
    color = t.Enum(COLORS, "written").tag(sync=True)
    rule = t.Unicode("margin", help="When the model could have stopped.").tag(sync=True)
    threshold = t.Float(0.5, help="What the rule's score has to exceed.").tag(sync=True)
    min_layers = t.Int(0, min=0, help="Blocks that always run.").tag(sync=True)
    transposed = t.Bool(False, help="Tokens down, layers across.").tag(sync=True)
    cell_width = t.Int(0, min=0, max=400, help="Pixels; 0: as there is room.").tag(sync=True)

    def __init__(self, model: LensModel, text: Any, **keywords: Unpack[GenerationKeywords]) -> None:
        super().__init__(model, {"text": text}, {**keywords})

    def _open(
        self, model: LensModel | None, inputs: Mapping[str, Any], keywords: dict[str, Any]
    ) -> None:
        from layerlens.analyses.lenses.exits import require_rule

        rule = keywords.get("rule") or "margin"
        given = keywords.pop("threshold", None)
        keywords = {**keywords, "rule": rule, "threshold": require_rule(rule, given)}
        if model is not None:
            keywords["begin"] = _ids(model, keywords.get("begin", ()))
        super()._open(model, inputs, keywords)

    def _written(self, name: str, value: Any) -> Any:
        return list(value) if name == "begin" else super()._written(name, value)

    def run(self, text: Any = None, **options: Any) -> Self:
        """Write again, or something else; returns at once.

        Parameters
        ----------
        text : str, list of int or chat messages, optional
            A new text; by default the present one.
        **options
            Options of the analysis to change.
        """
        if "begin" in options and self.model is not None:
            options["begin"] = _ids(self.model, options["begin"])
        return self._again({"text": text}, options)

    def branch(self, step: int, token: str | int | None = None) -> Self:
        """Write on from a written token, or from another one in its place; returns at once.

        Parameters
        ----------
        step : int
            Which written token.
        token : str or int, optional
            What stands in its place; by default the token itself, which is a change only where
            tokens are drawn: with the next seed then.

        Raises
        ------
        InputError
            There is no such step yet, or nothing would change.
        """
        shown = self._partial or self._result
        if self.model is None or shown is None:
            raise InputError("There is no text to branch from yet; call view.wait() before.")
        data = written(shown.data)
        if not 0 <= step < data.sizes["step"]:
            raise InputError(f"step is {step}; this text has {data.sizes['step']} tokens.")
        ids = [int(i) for i in data["written_id"].values]
        new = ids[step] if token is None else self.model.token_id(token)
        options: dict[str, Any] = {}
        if new == ids[step]:
            if not self.options.get("temperature"):
                raise InputError(
                    "The best token is taken each time, so the same would be written again: give "
                    "another token, or draw with temperature=1."
                )
            options = {"seed": int(self.options.get("seed", 0)) + 1}
        words = [str(token) for token in data["token"].values]
        self.before = [{"id": i, "text": text} for i, text in zip(ids, words, strict=True)]
        return self.run(begin=[*ids[:step], new], **options)

    @t.observe("text")
    def _text_changed(self, change: Any) -> None:
        """What was written first belongs to the text that it followed."""
        if self._ready:
            self._ready = False
            self.begin, self.before = [], []
            self._ready = True

    @t.validate("rule")
    def _valid_rule(self, proposal: Any) -> str:
        from layerlens.analyses.lenses.exits import require_rule

        require_rule(proposal["value"], None)
        return str(proposal["value"])

    @t.validate("pins")
    def _valid_pins(self, proposal: Any) -> list[dict[str, int]]:
        limit = self.model.d_vocab if self.model is not None else None
        return [valid_pin(pin, limit) for pin in proposal["value"]]

    # What the picture says

    def _attrs_of(self, run: Run) -> dict[str, Any]:
        options = {**self.analysis.options, **run.options}
        told = {"options": json.dumps(plain(options)), **named_texts(run.tokens)}
        return super()._attrs_of(run) | told

    def _meta_before(
        self, run: Run, attrs: Mapping[str, Any], coords: Mapping[str, Any]
    ) -> dict[str, Any]:
        return dict(generation_meta_from(attrs, coords, (), run.number))

    def _meta_of(
        self, result: Result, data: xr.Dataset, run: int, about: About | None
    ) -> dict[str, Any]:
        known = {} if about is None else about.shown()
        shown = written(data).assign_attrs(known)
        return dict(generation_meta_of(shown, result.checks, run))

    def _meta_after(self, meta: dict[str, Any], result: Result) -> dict[str, Any]:
        known = generation_meta_of(result.data)
        return {**super()._meta_after(meta, result), "tokens": known["tokens"],
                "steps": known["steps"]}  # fmt: skip

    def _wires(self, variables: Mapping[str, Variable]) -> Mapping[str, Wire]:
        return WIRES

    def _frames(self, data: xr.Dataset, run: int) -> list[Frame]:
        return frames_of(written(data), run, WIRES)

    def _resolved(self, run: Run) -> dict[str, Any]:
        options = dict(run.options)
        if self.model is not None and options.get("begin"):
            options["begin"] = [self.model.token_named(i) for i in options["begin"]]
        elif "begin" in options:
            del options["begin"]
        return options

    def _figure_options(self) -> dict[str, Any]:
        shown = self._partial or self._result
        there = shown is not None and self.step < shown.data.sizes["step"]
        return {
            **super()._figure_options(),
            "color": self.color,
            "transposed": self.transposed,
            "pins": self.pins,
            "selected": (self.row, self.step if there else -1),
        }


def _ids(model: LensModel, tokens: Any) -> list[int]:
    """Ids of one token or several, as they may be given."""
    given = tokens.tolist() if hasattr(tokens, "tolist") else tokens
    return [model.token_id(token) for token in ([given] if isinstance(given, str | int) else given)]
