"""The patch bench: a sweep over two prompts, and patches picked in it by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self, Unpack

import numpy as np
import traitlets as t

from layerlens.errors import InputError, SiteError
from layerlens.export.patch_meta import SITES, patch_meta, patch_meta_of
from layerlens.model.sites import HEADS
from layerlens.views.base import Answer, Reply
from layerlens.views.keywords import PatchKeywords
from layerlens.views.listen import RunListener
from layerlens.views.live import LiveView
from layerlens.views.one_run import Run
from layerlens.views.patch_answers import Benches, code, distribution, entry, lenses
from layerlens.views.patch_edits import normal, patches
from layerlens.views.patch_pairing import pairing, without_align
from layerlens.views.worker import Task

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from layerlens.analyses.contract.contract import About
    from layerlens.analyses.patching.hand_patches import Bench
    from layerlens.model.lensmodel import LensModel
    from layerlens.result import Result
    from layerlens.run.edits import Edit

MAX_HISTORY = 100


class PatchView(LiveView):
    """Activation patching between two prompts, live.

    The grid says how much of the answer comes back when one activation of the run is replaced by
    the other run's. It is first drawn as an estimate (hatched and pale) from a pass and a backward
    pass; true values take its place, the strongest first, and whoever has seen enough can stop.
    With ``estimate_first=False``, or where nothing can be estimated, it fills up cell by cell.
    Patches that are picked in it by hand are run together, and the next-token distribution is
    shown before and after.

    Parameters
    ----------
    model : LensModel
        From ``ll.load``.
    clean, corrupt : str, list of int or chat messages
        One text each, of equal length in tokens.
    **keywords
        Options of `layerlens.patch_sweep` (``answer``, ``wrong``, ``site``, ``by``, ``metric``,
        ``direction``, ``positions``, ...) and traits: ``layer``, ``position``, ``head``,
        ``edits``, ``theme``, ``cell_width``, ``title``.

    Raises
    ------
    TypeError
        A keyword is none of these; the nearest is named. What is wrong with the texts or with a
        token does not raise: it is said in the view, in `status` and by `wait`.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> view = ll.PatchView(
    ...     model,
    ...     clean="cat dog owl cat",
    ...     corrupt="cat fox owl cat",
    ...     answer="dog",
    ...     wrong="fox",
    ... )
    >>> view.site = "attn_out"
    >>> view.wait().data["recovered"].dims
    ('layer', 'position')
    """

    _idle = False

    ANALYSIS = "patch_sweep"
    INPUTS = ("clean", "corrupt")
    ASKS = ("answer", "wrong", "site", "by", "metric", "direction")
    LATEST = frozenset({"distribution", "lens"})
    PICTURE = (
        "view", "title", "theme", "clean", "corrupt", "answer", "wrong", "site", "by", "metric",
        "direction", "options", "layer", "position", "head", "edits", "history", "cell_width",
    )  # fmt: skip

    view = t.Unicode("patch").tag(sync=True)
    clean = t.Unicode("", help="The clean prompt.").tag(sync=True)
    corrupt = t.Unicode("", help="The corrupted prompt.").tag(sync=True)
    answer = t.Unicode("", help="Token; empty: the clean run's own.").tag(sync=True)
    wrong = t.Unicode("", help="Token; empty: the corrupted run's own.").tag(sync=True)
    site = t.Enum(SITES, "resid_pre", help="What is patched.").tag(sync=True)
    by = t.Enum(("position", "head"), "position", help="Columns of the grid.").tag(sync=True)
    metric = t.Unicode("logit_diff", help="What is measured.").tag(sync=True)
    direction = t.Enum(("denoise", "noise"), "denoise").tag(sync=True)
    layer = t.Int(-1, help="Layer that is looked at; -1: none.").tag(sync=True)
    position = t.Int(-1, help="Position that is looked at; -1: none.").tag(sync=True)
    head = t.Int(-1, help="Head that is looked at; -1: none.").tag(sync=True)
    edits = t.List(t.Dict(), help="Patches picked by hand; see patch_edits.").tag(sync=True)
    history = t.List(t.Dict(), help="What picked patches gave, newest last.").tag(sync=True)
    cell_width = t.Int(0, min=0, max=400, help="Pixels; 0: as wide as there is room for.").tag(
        sync=True
    )

    def __init__(
        self, model: LensModel, clean: Any, corrupt: Any, **keywords: Unpack[PatchKeywords]
    ) -> None:
        if keywords.get("site") in HEADS:
            keywords.setdefault("by", "head")
        super().__init__(model, {"clean": clean, "corrupt": corrupt}, dict(keywords))

    @classmethod
    def idle(cls, model: LensModel, clean: str, corrupt: str = "", **keywords: Any) -> Self:
        """Return a bench that asks nothing until it has a corrupted text."""
        view = cls._waiting(model, {"clean": clean, "corrupt": corrupt}, keywords)
        view._idle = True
        return view

    def _ask(self, *, again: bool = False) -> None:
        if self.corrupt or not self._idle:
            self._idle = False
            super()._ask(again=again)

    def _open(
        self, model: LensModel | None, inputs: Mapping[str, Any], keywords: dict[str, Any]
    ) -> None:
        self._benches = Benches()
        for name in ("answer", "wrong"):
            if name in keywords and keywords[name] is None:
                del keywords[name]
        super()._open(model, inputs, keywords)
        if self._lane is not None:
            for name, answer in (("distribution", distribution), ("lens", lenses), ("code", code)):
                self._answers[name] = (self._about_patches(answer), self._lane)

    @classmethod
    def _asked_of(cls, data: xr.Dataset, options: dict[str, Any]) -> dict[str, Any]:
        resolved = {name: str(data.attrs[name]) for name in ("site", "by")}
        if options.get("estimate_first") is False:  # the default of the analysis, not of the view
            del options["estimate_first"]
        return {**super()._asked_of(data, options), **resolved}

    def _written(self, name: str, value: Any) -> Any:
        if name in self.INPUTS:
            return super()._written(name, value)
        if name == "metric":
            from layerlens.analyses.contract.options import plain

            return str(plain(value))
        if isinstance(value, int) and self.model is not None:
            return self.model.token_string(value)
        return str(value)

    def run(self, clean: Any = None, corrupt: Any = None, **options: Any) -> Self:
        """Ask again, or ask something else; returns at once.

        Parameters
        ----------
        clean, corrupt : str, list of int or chat messages, optional
            New texts; by default the present ones.
        **options
            Options of the sweep to change.
        """
        return self._again({"clean": clean, "corrupt": corrupt}, options)

    @property
    def patches(self) -> list[Edit]:
        """The picked patches that are on, as edits for `layerlens.run`.

        Raises
        ------
        InputError
            There is no picture yet, or a patch does not fit it.
        """
        return self._bench().edits(patches(self.edits))

    # What the picture says

    def _attrs_of(self, run: Run) -> dict[str, Any]:
        from layerlens.analyses.contract.options import plain
        from layerlens.analyses.contract.provenance import named_texts

        texts = named_texts(run.tokens) if run.tokens else {}
        options = json.dumps(plain(run.resolved))
        return {**super()._attrs_of(run), **texts, **self._model_attrs(), "options": options}

    def _model_attrs(self) -> dict[str, Any]:
        """Return what only the model itself says."""
        if self.model is None:
            return {}
        return {
            "n_heads": self.model.n_heads,
            "n_kv_heads": self.model.n_kv_heads,
            "sites": [site for site in SITES if _can_change(self.model, site)],
        }

    def _tokens_named(self, attrs: Mapping[str, Any]) -> dict[str, str]:
        if self.model is None:
            return {}
        ids = {name: attrs[name] for name in ("answer", "wrong") if attrs.get(name) is not None}
        return {f"{name}_token": self.model.token_string(int(i)) for name, i in ids.items()}

    def _meta_before(
        self, run: Run, attrs: Mapping[str, Any], coords: Mapping[str, Any]
    ) -> dict[str, Any]:
        from layerlens.analyses.answers.answer_metric import METRICS

        units = METRICS.get(str(attrs.get("metric", "")), ("", "1"))[1]
        known = {**attrs, **self._tokens_named(attrs), "metric_units": units}
        return dict(patch_meta(known, coords, (), run.number))

    def _meta_of(
        self, result: Result, data: xr.Dataset, run: int, about: About | None
    ) -> dict[str, Any]:
        shown = {} if about is None else about.shown()
        known = {**shown, **self._model_attrs(), **self._tokens_named(data.attrs)}
        return dict(patch_meta_of(data.assign_attrs(known), result.checks, run))

    def _meta_after(self, meta: dict[str, Any], result: Result) -> dict[str, Any]:
        return self._meta_of(result, result.data, meta["run"], self.analysis.about)

    def _follow_meta(self) -> None:
        """Forget a selection that the new picture does not have, unless others share it."""
        if self.linked:
            return
        meta = self._shown_meta
        across = {"position": "head", "head": "position"}.get(meta.get("by", ""), "")
        names = {"layer": "row_numbers", meta.get("by", "position"): "column_numbers"}
        for name, numbers in names.items():
            if getattr(self, name) not in meta.get(numbers, []):
                setattr(self, name, -1)
        if across:
            setattr(self, across, -1)

    def _figure_options(self) -> dict[str, Any]:
        listed = {
            number: cell
            for number, edit in enumerate(self.edits, 1)
            if edit["site"] == self._shown_meta.get("site")
            and (cell := self._cell(edit["layer"], edit.get(self._shown_meta["by"]))) is not None
        }
        across = self.head if self._shown_meta.get("by") == "head" else self.position
        selected = self._cell(self.layer, across)
        return {**super()._figure_options(), "selected": selected, "listed": listed}

    def _cell(self, layer: int, across: int | None) -> tuple[int, int] | None:
        """Return row and column of the grid's cell; None where it has none."""
        rows, columns = (self._shown_meta[name] for name in ("row_numbers", "column_numbers"))
        if layer not in rows or across not in columns:
            return None
        return rows.index(layer), columns.index(across)

    def _worth(self, listener: RunListener) -> bool:
        return super()._worth(listener) or "estimate" in listener.emitted

    def _table(self, data: xr.Dataset) -> pd.DataFrame:
        """Return the numbers with a column that says what was measured and what only estimated."""
        table = super()._table(data)
        if "estimate" in table:
            true, guessed = np.isfinite(table["metric"]), np.isfinite(table["estimate"])
            shown = np.where(true, "measured", np.where(guessed, "estimate", ""))
            table.insert(list(table.columns).index("recovered") + 1, "shown", shown)
        return table

    # Traits

    @t.validate("layer", "position", "head")
    def _valid_place(self, proposal: Any) -> int:
        return max(-1, int(proposal["value"]))

    @t.validate("edits")
    def _valid_edits(self, proposal: Any) -> list[dict[str, Any]]:
        try:
            return normal(proposal["value"])
        except InputError as error:
            raise t.TraitError(str(error)) from None

    @t.validate("history")
    def _valid_history(self, proposal: Any) -> list[dict[str, Any]]:
        try:
            return [entry(item) for item in proposal["value"][-MAX_HISTORY:]]
        except InputError as error:
            raise t.TraitError(str(error)) from None

    @t.observe("clean", "corrupt")
    def _text_changed(self, change: Any) -> None:
        if self._ready and "align" in self.options:
            self.options = without_align(self.options)

    @t.observe("site")
    def _site_changed(self, change: Any) -> None:
        if self.site not in HEADS and self.by == "head":
            self.by = "position"

    # Asking the model

    def _resolved(self, run: Run) -> dict[str, Any]:
        options = dict(run.options)
        for name in ("answer", "wrong"):
            given = None if options[name] == "" else options[name]
            if isinstance(given, int) and self.model is not None:
                given = self.model.token_named(given)
            options[name] = given
        if options["metric"] != "logit_diff":  # the field keeps its word for when it is again
            options["wrong"] = None
        if options["by"] == ("head" if options["site"] in HEADS else "position"):
            options["by"] = None
        options.setdefault("estimate_first", True)
        if self.model is not None:
            align = pairing(self.model, run)
            options |= {} if align is None else {"align": align}
        return options

    def _bench(self) -> Bench:
        run = self._pictured
        if self.model is None or run is None:
            raise InputError("There is no picture yet; call view.wait() before.")
        if not run.tokens:
            run.resolved = self._resolved(run)
            add_bos = run.options.get("add_bos")
            run.tokens = {
                name: self.model.tokens(given, add_bos=add_bos)
                for name, given in run.inputs.items()
            }
        return self._benches.get(self.model, run)

    def _about_patches(self, answer: Callable[[Bench, dict[str, Any], Task], Reply]) -> Answer:
        return lambda params, task: answer(self._bench(), params, task)

    def close(self) -> None:
        """Stop what is under way and free everything that the view holds."""
        super().close()
        self._benches = Benches()
        self._pictured = None


def _can_change(model: LensModel, kind: str) -> bool:
    """Whether a model has a site of this kind that can be changed."""
    from layerlens.run.where import editable_sites

    layers = [site.block for site in model.anatomy.available() if site.kind == kind]
    try:
        return bool(layers) and bool(editable_sites(model, kind, layers))
    except SiteError:
        return False
