"""The traits of a frozen view: what a live one would have after it has shown a result."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from layerlens.errors import ResultError
from layerlens.export.attention_meta import WIRES, attention_meta_of
from layerlens.export.attention_slices import slice_of, with_slices
from layerlens.export.generation_meta import WIRES as GENERATION_WIRES
from layerlens.export.generation_meta import generation_meta_of, written
from layerlens.export.meta import meta_of
from layerlens.export.pack import Frame, answer_wires, frames_of, pack
from layerlens.export.patch_meta import GRIDS, SITES, patch_meta_of

if TYPE_CHECKING:
    import xarray as xr

    from layerlens.result.checks import Checks

THEMES = {"auto": "light dark", "light": "light", "dark": "dark"}


def traits_of(data: xr.Dataset, checks: Checks, *, theme: str = "auto") -> dict[str, Any]:
    """Return every trait of a frozen view of a result of one text, but the snapshot.

    Raises
    ------
    ResultError
        There is no such theme.
    """
    if theme not in THEMES:
        raise ResultError(f"There is no theme '{theme}'; choose {', '.join(THEMES)}.")
    view = view_for(data)
    own = TWINS[view](data, checks)
    status = {
        "state": "done",
        "run": own["meta"]["run"],
        "done": 1,
        "total": 1,
        "what": "",
        "message": "",
        "seconds": float(data.attrs.get("seconds", 0.0)),
    }
    return {"view": view, "title": "", "theme": theme, "status": status, "live": False, **own}


def lens_traits(data: xr.Dataset, checks: Checks) -> dict[str, Any]:
    """Return the traits that only the lens table has."""
    meta = meta_of(data, checks)
    tracked = [token["id"] for token in meta["tracked"]]
    return {
        "text": "".join(token["text"] for token in meta["tokens"]),
        "options": {"top_k": meta["k"], "tracked": tracked},
        "row": len(meta["points"]) - 1,
        "position": -1,
        "layer": meta["layers"][-1] if meta["layers"] else 0,
        "pins": [],
        "color": "probability",
        "tracked": 0,
        "transposed": False,
        "other": meta["other"]["label"] if meta["other"] else "",
        "other_kind": meta["other"]["kind"] if meta["other"] else "",
        "scale": "linear",
        "lens": [lens["name"] for lens in meta["lenses"]],
        "through": 0,
        "compare": "alone" if "lens" in data.dims else "beside",
        "cell_width": 0,
        "meta": meta,
    }


def generation_traits(data: xr.Dataset, checks: Checks) -> dict[str, Any]:
    """Return the traits that only the view of what is written has."""
    meta = generation_meta_of(written(data), checks)
    return {
        "text": str(data.attrs.get("text", "")),
        "options": {},
        "begin": [],
        "before": [],
        "row": len(meta["points"]) - 1,
        "step": -1,
        "layer": meta["layers"][-1],
        "pins": [],
        "color": "written",
        "rule": str(data.attrs.get("rule", "margin")),
        "threshold": float(data.attrs.get("threshold", 0.5)),
        "min_layers": int(data.attrs.get("min_layers", 0)),
        "transposed": False,
        "cell_width": 0,
        "meta": meta,
    }


def patch_traits(data: xr.Dataset, checks: Checks) -> dict[str, Any]:
    """Return the traits that only the patch bench has."""
    meta = patch_meta_of(data, checks)
    options = json.loads(data.attrs.get("options", "{}"))
    return {
        "clean": str(data.attrs.get("clean_text", "")),
        "corrupt": str(data.attrs.get("corrupt_text", "")),
        "answer": meta["answer"]["text"] if meta["answer"] else "",
        "wrong": meta["wrong"]["text"] if meta["wrong"] else "",
        "site": meta["site"],
        "by": meta["by"],
        "metric": meta["metric"]["name"],
        "direction": str(options.get("direction", "denoise")),
        "options": {},
        "layer": -1,
        "position": -1,
        "head": -1,
        "edits": [],
        "history": [],
        "cell_width": 0,
        "meta": meta,
    }


def metrics_traits(data: xr.Dataset, checks: Checks) -> dict[str, Any]:
    """Return the traits that only measured layers have."""
    from layerlens.export.metrics_meta import metrics_meta_of
    from layerlens.metrics.catalogue import catalogue

    text = str(data.attrs.get("text", ""))
    several = int(data.attrs.get("texts", 1)) > 1 and "rows" not in data.attrs
    texts = [str(one) for one in json.loads(text)] if several else [text]
    return {
        "texts": texts,
        "text": "" if several else text,
        "metrics": json.loads(data.attrs.get("metrics", "[]")),
        "options": {},
        "layer": -1,
        "position": -1,
        "head": -1,
        "hidden": [],
        "focus": "",
        "scale": "linear",
        "overlay": True,
        "cell_width": 0,
        "catalogue": catalogue(),
        "meta": metrics_meta_of(data, checks),
    }


def answer_traits(data: xr.Dataset, checks: Checks) -> dict[str, Any]:
    """Return the traits that only the views of an answer of any analysis have."""
    from layerlens.export.answer_meta import answer_meta_of, fields_of

    inputs = fields_of(data)
    return {
        "analysis_name": str(data.attrs.get("analysis", "")),
        "inputs": inputs,
        "input_names": list(inputs),
        "text": next(iter(inputs.values()), ""),
        "options": {},
        "estimate": {},
        "layer": -1,
        "position": -1,
        "head": -1,
        "hidden": [],
        "focus": "",
        "scale": "linear",
        "entry": 0,
        "third": "",
        "means": False,
        "lead_open": True,
        "cell_width": 0,
        "meta": answer_meta_of(data, checks),
    }


def graph_traits(data: xr.Dataset, checks: Checks) -> dict[str, Any]:
    """Return the traits that only the view of a graph has."""
    from layerlens.export.graph_meta import graph_meta_of

    return {
        **answer_traits(data, checks),
        "node": "",
        "pins": [],
        "share": 1.0,
        "errors": True,
        "meta": graph_meta_of(data, checks),
    }


def feature_traits(data: xr.Dataset, checks: Checks) -> dict[str, Any]:
    """Return the traits that only the page of a feature has."""
    from layerlens.export.feature_meta import feature_meta_of

    return {
        **answer_traits(data, checks),
        "strength": 1.0,
        "meanings": {},
        "meta": feature_meta_of(data, checks),
    }


def scatter_traits(data: xr.Dataset, checks: Checks) -> dict[str, Any]:
    """Return the traits that only the scatter has."""
    from layerlens.export.scatter_meta import scatter_meta_of

    return {
        **answer_traits(data, checks),
        "step": -1,
        "item": -1,
        "hidden_labels": [],
        "fitted": True,
        "axes": "all",
        "meta": scatter_meta_of(data, checks),
    }


def strip_traits(data: xr.Dataset, checks: Checks) -> dict[str, Any]:
    """Return the traits that only the strip has."""
    from layerlens.export.strip_meta import strip_meta_of

    return {
        **answer_traits(data, checks),
        "step": -1,
        "colors": "one",
        "meta": strip_meta_of(data, checks),
    }


def attention_traits(data: xr.Dataset, checks: Checks) -> dict[str, Any]:
    """Return the traits that only attention has."""
    meta = attention_meta_of(data, checks)
    return {
        # Of a result of many texts, each has its own.
        "text": str(data["text"].values if "text" in data.coords else data.attrs.get("text", "")),
        "options": {},
        "layer": meta["layers"][0] if meta["layers"] else -1,
        "position": -1,
        "head": -1,
        "query": -1,
        "key": -1,
        "pins": [],
        "shown": [],
        "reduce": "one",
        "mode": "both",
        "weighting": "pattern",
        "mask_sinks": False,
        "compare": "first",
        "lead_open": True,
        "part": meta["parts"][0],
        "cell_width": 0,
        "meta": meta,
    }


TWINS: dict[str, Callable[[Any, Any], dict[str, Any]]] = {
    "attention": attention_traits,
    "feature": feature_traits,
    "generation": generation_traits,
    "graph": graph_traits,
    "lens": lens_traits,
    "metrics": metrics_traits,
    "patch": patch_traits,
    "grid": answer_traits,
    "curves": answer_traits,
    "panels": answer_traits,
    "scatter": scatter_traits,
    "strip": strip_traits,
}
"""View -> the function that returns its own traits."""


def view_for(data: xr.Dataset) -> str:
    """Return the name of the view that shows these data: that of the analysis, else a grid.

    A grid is for what has no view of its own. The patch bench shows two axes; a sweep over three
    is a grid with a slider.
    """
    view = str(data.attrs.get("view", "lens"))
    if view != "patch":
        return view if view in TWINS else "grid"
    bench = data.attrs.get("site") in SITES and data["recovered"].dims[-2:] in GRIDS
    return "patch" if bench else "grid"


def frames_for(data: xr.Dataset) -> list[Frame]:
    """Return the arrays of a result of one text as its view gets them."""
    if view_for(data) == "attention":
        return frames_of(data, wires=WIRES)
    if view_for(data) == "generation":
        return frames_of(written(data), wires=GENERATION_WIRES)
    own = TWINS.get(view_for(data)) in (
        answer_traits, feature_traits, graph_traits, scatter_traits, strip_traits,
    )  # fmt: skip
    wires = answer_wires(data) if own else None
    return frames_of(data, wires=wires)


def packed_of(data: xr.Dataset, traits: dict[str, Any]) -> bytes:
    """Return the data of a page, packed: what a live view would have been sent."""
    meta = traits["meta"]
    if traits["view"] == "attention":
        meta = with_slices(meta, lambda key: slice_of(data, key), first=traits["layer"])
    return pack(meta, frames_for(data))
