"""The lens table: what each layer would say next, at each token, while the model is running."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, Unpack

import traitlets as t

from layerlens.errors import InputError
from layerlens.export.meta import meta_from, meta_of
from layerlens.model.abilities import reads_first
from layerlens.views.adopt import asleep, other_of
from layerlens.views.base import READ_ONLY, Reply
from layerlens.views.given_lenses import lens_words
from layerlens.views.keywords import LensKeywords
from layerlens.views.one_run import Run
from layerlens.views.other_kind import told
from layerlens.views.point_rows import PointRows, valid_pin
from layerlens.views.track import Tracks
from layerlens.views.worker import Task

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from layerlens.analyses.contract.contract import About
    from layerlens.model.lensmodel import LensModel
    from layerlens.result import Result

LONG_TEXT = 64
"""A text of more tokens has a row for each block, and none for its middle unless asked for.

Nearly all time goes into the head, which is as much for each row: half as many take half as long.
"""

BLOCKS = ("embed", "post")
LOGIT = "logit"

PIXELS_PER_INCH = 96  # of CSS
WIDEST_INCHES = 60  # of a figure with columns as wide as on screen

COLORS = ("probability", "entropy", "rank", "kl", "tracked")
COMPARED = ("alone", "beside", "change", "kl")
COMPARISON = "lens_difference"


class LensView(PointRows):
    """Lens of one text, live: the logit lens, or lenses that were fitted.

    It appears at once, computes on the model's own thread and shows each layer as the forward
    pass reaches it. The prompt can be edited in place; the newest question wins. A text of more
    than 64 tokens has a row for each block; with ``points=("embed", "mid", "post")``, or the
    button above the table, also one between its attention and its MLP.

    Parameters
    ----------
    model : LensModel
        From ``ll.load``.
    text : str, list of int or chat messages
        One text.
    lens : str, Fitted, path or list of them, optional
        What states are read through on their way to the head; see `layerlens.logit_lens`. Of
        several, each can be looked at, alone, beside another or as its difference from that
        (``against``, the first unless it is named; another choice is another run); a curve beside
        the rows says how well each did on texts that were set apart.
    other : LensModel, str, list of int, chat messages or edits, optional
        What lies over it on the same grid: a second model that reads the same tokens and has the
        same points, a second text of as many tokens (which can be edited in place too), or edits
        (``ll.edit``) of this text's run; see `layerlens.lens_difference`. The two are shown side
        by side, or as their difference; layer and position are chosen for both.
    **keywords
        Options of `layerlens.logit_lens` (``top_k``, ``points``, ``tracked``: ids or strings that
        are one token each) and traits: ``row`` or ``layer``, ``position``, ``pins`` (dicts with
        ``position`` and ``id``), ``color``, ``scale``, ``transposed``, ``theme``, ``cell_width``,
        ``title``; with ``other`` or several lenses, ``compare``: ``"beside"``, ``"change"`` or
        ``"kl"``; with several lenses also ``"alone"``, and ``through``, the index of the one that
        is looked at.

    Raises
    ------
    TypeError
        A keyword is none of these; the nearest is named. What is wrong with the text or with a
        token does not raise: it is said in the view, in `status` and by `wait`.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> view = ll.LensView(model, "cat dog owl cat", tracked=["dog"])
    >>> view.text = "owl fox cat owl"
    >>> view.wait().data["tracked_rank"].dims
    ('point', 'position', 'tracked')
    >>> pair = ll.LensView(model, "cat dog owl cat", other="cat fox owl cat", compare="kl")
    >>> pair.wait().data["kl_between"].dims
    ('point', 'position')
    >>> several = ll.LensView(model, "cat dog owl cat", lens=["logit", "logit"], through=1)
    >>> several.wait().data["token_id"].dims, several.lens
    (('lens', 'point', 'position', 'k'), ['logit', 'logit'])
    """

    ANALYSIS = "logit_lens"
    ASKS = ("lens",)
    KERNEL_ONLY = PointRows.KERNEL_ONLY | {"other_kind"}
    PICTURE = (
        "view", "title", "theme", "text", "options", "row", "position", "layer", "pins", "color",
        "tracked", "transposed", "lens", "through", "other", "other_kind", "compare", "scale",
        "cell_width",
    )  # fmt: skip

    view = t.Unicode("lens").tag(sync=True)
    text = t.Unicode("", help="The prompt.").tag(sync=True)
    position = t.Int(-1, help="Token that is looked at; -1: the last.").tag(sync=True)
    pins = t.List(t.Dict(), help="Trajectories: {'position': int, 'id': int}.").tag(sync=True)
    color = t.Enum(COLORS, "probability").tag(sync=True)
    tracked = t.Int(0, min=0, help="Which tracked token colours the cells.").tag(sync=True)
    lens = t.List(t.Unicode(), help="What states are read through; empty: the head alone.").tag(
        sync=True
    )
    through = t.Int(0, min=0, help="Which of the lenses is looked at.").tag(sync=True)
    other = t.Unicode("", help="What it is compared with; a second text can be edited.").tag(
        sync=True
    )
    other_kind = t.Enum(("", "model", "text", "edits"), "", help="What `other` is.").tag(
        **READ_ONLY
    )
    compare = t.Enum(COMPARED, "beside", help="How two lenses are shown.").tag(sync=True)
    scale = t.Enum(("linear", "log"), "linear", help="Of the chart of pinned tokens.").tag(
        sync=True
    )
    transposed = t.Bool(False, help="Positions down, layers across.").tag(sync=True)
    cell_width = t.Int(0, min=0, max=400, help="Pixels; 0: as wide as there is room for.").tag(
        sync=True
    )

    def __init__(
        self, model: LensModel, text: Any, *, other: Any = None, **keywords: Unpack[LensKeywords]
    ) -> None:
        compared: dict[str, Any] = {}
        if other is not None and "lens" in keywords:
            raise InputError("Either lens= or other= can be compared with, not both at once.")
        if other is not None:
            self._be_of_two()
            compared = {"other": other}
        elif _are_several(keywords.get("lens")):
            keywords.setdefault("compare", "alone")
            if keywords["compare"] != "alone" and not keywords.get("against"):
                keywords.setdefault("through", 1)  # the first is what others are compared with
        super().__init__(model, {"text": text}, {**keywords, **compared})

    @classmethod
    def from_result(
        cls, result: Result, model: LensModel | None = None, *, text: int = 0, **keywords: Any
    ) -> Self:
        """Show a result that exists; see `ResultView.from_result`.

        One of two lenses that comes from a file is frozen, unless its other side is given as
        ``other=``: it holds what that said, and not how to run it. So is one of lenses that were
        fitted, unless they are given as ``lens=``.
        """
        if "lenses" in result.data.attrs and keywords.get("lens") is None:
            if result.given is None:
                result, model = asleep(result), None
            else:
                keywords["lens"] = result.given[1]["lens"]
        if result.analysis == COMPARISON and keywords.get("other") is None:
            keywords["other"] = other_of(result, text)
            if keywords["other"] is None:
                del keywords["other"]
                result, model = asleep(result), None
        return super().from_result(result, model, text=text, **keywords)

    @classmethod
    def _new(cls, result: Result) -> Self:
        view = super()._new(result)
        if result.analysis == COMPARISON:
            view._be_of_two()
        return view

    def _be_of_two(self) -> None:
        """Ask about two runs from now on."""
        self.ANALYSIS, self.ASKS = COMPARISON, ("other",)

    @classmethod
    def _asked_of(cls, data: xr.Dataset, options: dict[str, Any]) -> dict[str, Any]:
        lens = options.pop("lens", None)
        if options.pop("other", None) is not None:
            return {"other": str(data.attrs["other_label"])}
        if lens is None or lens == LOGIT:
            return {}
        alone = {"compare": "alone"} if "lens" in data.dims else {}
        return {"lens": [one["name"] for one in meta_of(data)["lenses"]], **alone}

    def _adopt(self, result: Result, data: xr.Dataset, text: int) -> None:
        super()._adopt(result, data, text)
        self.other_kind = str(data.attrs.get("other_kind", ""))

    def _written(self, name: str, value: Any) -> Any:
        if name == "lens":
            return lens_words(value)
        if name != "other":
            return super()._written(name, value)
        kind, words = told(value)
        return words if kind != "text" else super()._written(name, value)

    def _question(self) -> tuple[dict[str, Any], dict[str, Any]]:
        inputs, options = super()._question()
        if "other" in options:
            self.other_kind = told(options["other"])[0]
        elif not self.lens:
            options.pop("lens")
        return inputs, options

    def _open(
        self, model: LensModel | None, inputs: Mapping[str, Any], keywords: dict[str, Any]
    ) -> None:
        tracked = keywords.get("tracked")
        if tracked is not None and not isinstance(tracked, int):
            # The word of the analysis; the trait of the same name is an index into it.
            options = keywords.setdefault("options", {})
            keywords["options"] = {**options, "tracked": keywords.pop("tracked")}
        if "position" not in keywords and model is not None and reads_first(model):
            keywords["position"] = 0
        self._tracks = Tracks()
        super()._open(model, inputs, keywords)
        if self._lane is not None:
            self._answers["track"] = (self._track, self._lane)

    def __repr__(self) -> str:
        alone = super().__repr__()
        return f"{alone[:-1]}, other={self.other!r})" if self.other else alone

    def run(self, text: Any = None, **options: Any) -> Self:
        """Ask again, or ask something else; returns at once.

        Parameters
        ----------
        text : str, list of int or chat messages, optional
            A new text; by default the present one.
        **options
            Options of the analysis to change.
        """
        return self._again({"text": text}, options)

    def _meta_before(
        self, run: Run, attrs: Mapping[str, Any], coords: Mapping[str, Any]
    ) -> dict[str, Any]:
        return dict(meta_from(attrs, coords, (), run.number))

    def _meta_of(
        self, result: Result, data: xr.Dataset, run: int, about: About | None
    ) -> dict[str, Any]:
        known = {} if about is None else about.shown()
        return dict(meta_of(data.assign_attrs(known), result.checks, run))

    # Traits that follow each other

    @t.validate("pins")
    def _valid_pins(self, proposal: Any) -> list[dict[str, int]]:
        limit = self.model.d_vocab if self.model is not None else None
        return [valid_pin(pin, limit) for pin in proposal["value"]]

    @t.validate("other")
    def _valid_other(self, proposal: Any) -> str:
        if proposal["value"] and "other" not in self.ASKS and self.model is not None:
            raise t.TraitError(
                "This view shows one lens: make one of two with LensView(model, text, other=...)."
            )
        return str(proposal["value"])

    @t.validate("position")
    def _valid_position(self, proposal: Any) -> int:
        return max(-1, int(proposal["value"]))

    def _follow_meta(self) -> None:
        """Keep row, position and pins inside the new picture, and row beside layer."""
        super()._follow_meta()
        if self._layers() and self.position >= len(self._shown_meta.get("tokens", [])):
            self.position = -1

    def _figure_options(self) -> dict[str, Any]:
        columns = len(self._shown_meta.get("points" if self.transposed else "tokens", []))
        width = self.cell_width / PIXELS_PER_INCH
        return {
            **super()._figure_options(),
            "color": self.color,
            **self._comparison(),
            "tracked": self.tracked,
            "transposed": self.transposed,
            "pins": self.pins,
            "selected": (self.row, self.position),
            # As wide as on screen, so that what can be read there can be read here.
            "cell_width": width if 0 < columns * width <= WIDEST_INCHES else None,
        }

    def _comparison(self) -> dict[str, Any]:
        """Return the options of the figure that draw two lenses as they are looked at."""
        chosen = {"lens": self._looked_at} if self._several else {}
        same = chosen.get("lens") == self._shown_meta.get("against")
        alone = self._shown_meta.get("other") is None and (same or not chosen)
        if alone or self.compare == "alone":
            return chosen
        if self.compare == "beside":
            return {**chosen, "beside": True}
        return {**chosen, "color": {"change": "change", "kl": "kl_between"}[self.compare]}

    @property
    def _several(self) -> int:
        """How many lenses are shown, where there are several."""
        count = len(self._shown_meta.get("lenses", []))
        return count if count > 1 else 0

    @property
    def _looked_at(self) -> int:
        """Index of the lens that is looked at."""
        return min(self.through, max(self._several - 1, 0))

    def _table(self, data: xr.Dataset) -> pd.DataFrame:
        """Return the numbers with columns for the selected cell and the tokens pinned to a row.

        ``selected`` is 1 in the row of the cell that is looked at, else 0; ``pins`` has the ids of
        the tokens that are followed at this position, with a space between.
        """
        table = super()._table(data)
        points, positions = data["point"].values, data["position"].values
        pins: dict[int, list[str]] = {}
        for pin in self.pins:
            if pin["position"] < len(positions):
                pins.setdefault(int(positions[pin["position"]]), []).append(str(pin["id"]))
        row = table["point"] == points[self.row]
        if "lens" in table:
            row &= table["lens"] == data["lens"].values[self._looked_at]
        table["selected"] = (row & (table["position"] == positions[self.position])).astype(int)
        table["pins"] = [" ".join(pins.get(int(at), [])) for at in table["position"]]
        return table

    # Asking the model

    def _resolved(self, run: Run) -> dict[str, Any]:
        options = dict(run.options)
        if self.model is None:
            return options
        given = options.get("tracked") or []
        given = [given] if isinstance(given, str | int) else list(given)
        pinned = [pin["id"] for pin in self.pins]
        after = run.tokens.get("text")
        after = None if after is None or not after.single else after
        ids = [self.model.token_id(token, after) for token in [*given, *pinned]]
        if ids:
            options["tracked"] = [self.model.token_named(i) for i in dict.fromkeys(ids)]
        if "points" not in options and not self.lens:
            tokens = self.model.tokens(run.inputs["text"], add_bos=run.options.get("add_bos"))
            options |= {"points": BLOCKS} if tokens.ids.shape[1] > LONG_TEXT else {}
        return options

    def _track(self, params: dict[str, Any], task: Task) -> Reply:
        run = self._run
        if run is None or self.model is None or (not run.tokens and self._result is None):
            raise InputError("There is no picture yet to follow a token in.")
        number = int(self._shown_meta.get("run", 0))
        if number != run.number:
            raise InputError("The picture is about to change; ask again when it has.")
        if not run.tokens:
            add_bos = run.options.get("add_bos")
            run.tokens = {"text": self.model.tokens(run.inputs["text"], add_bos=add_bos)}
            run.resolved = self._resolved(run)
        track = self._tracks.get(self, run, params, task)
        return {"probability": track.probability, "rank": track.rank}, []


def _are_several(lens: Any) -> bool:
    return isinstance(lens, list | tuple) and len(lens) > 1
