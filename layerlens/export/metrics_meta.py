"""The ``meta`` trait of measured layers, for live views and frozen pages alike."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypedDict, cast

from layerlens.export.setup import setup_code
from layerlens.glossary import terms_in
from layerlens.metrics import registry
from layerlens.metrics.catalogue import Entry, entry
from layerlens.result.axes import is_named
from layerlens.result.checks import Check, Checks
from layerlens.result.layers import (
    OTHER,
    Array,
    arrays_of,
    groups_of,
    metrics_in,
    numbers_of,
)

if TYPE_CHECKING:
    import xarray as xr


class MetaAxis(TypedDict):
    """One axis: its labels, and the layer or head of each entry where it has one.

    Between entries that are `named` nothing lies.
    """

    size: int
    labels: list[str]
    numbers: list[int] | None
    long_name: str
    named: bool


class MetricsMeta(TypedDict):
    """The ``meta`` trait."""

    run: int
    model: str
    model_type: str
    dtype: str
    n_layers: int
    n_heads: int
    d_vocab: int
    notes: list[str]
    source: str
    question: str
    cost: str
    code: str
    setup: str
    checks: list[dict[str, Any]]
    metrics: list[str]
    described: dict[str, Entry]
    n_texts: int
    n_tokens: int
    n_counted: int | None
    skip_first: int
    axes: dict[str, MetaAxis]
    arrays: list[Array]
    clusters: dict[str, list[list[int]]]
    other: dict[str, Any] | None
    lead: str
    terms: dict[str, str]


def metrics_meta_of(
    data: xr.Dataset, checks: Iterable[Check] = (), run: int = 1, *, ended: bool = True
) -> MetricsMeta:
    """Build the ``meta`` trait.

    Parameters
    ----------
    data : xarray.Dataset
        The data of a result of `layerlens.layer_metrics`; while a run is young, the same without
        numbers.
    checks : iterable of Check
        Empty until the run ends.
    run : int
        The run that this describes.
    ended : bool
        Whether the numbers are all there, so that layers can be grouped by them.

    Returns
    -------
    MetricsMeta
        Plain Python values only; fits into JSON.
    """
    attrs = data.attrs
    names = metrics_in(data)
    arrays = arrays_of(data)
    words = ("model", "model_type", "dtype", "source", "question", "cost", "code", "lead")
    counts = ("n_layers", "n_heads", "d_vocab", "skip_first")
    meta: dict[str, Any] = {
        "run": run,
        **{name: str(attrs.get(name, "")) for name in words},
        **{name: int(attrs.get(name, 0)) for name in counts},
        "notes": [str(note) for note in json.loads(attrs.get("notes", "[]"))],
        "checks": Checks(checks).records(),
        "setup": setup_code(attrs),
        "metrics": names,
        "described": {name: entry(name) for name in names if name in registry.every()},
        "n_texts": int(attrs.get("texts", 0)),
        "n_tokens": int(attrs.get("tokens", 0)),
        "n_counted": _count(attrs, "tokens_counted"),
        "axes": _axes(data, arrays),
        "arrays": arrays,
        "clusters": _clusters(data, arrays) if ended else {},
        "other": other_of(attrs),
    }
    meta["terms"] = terms_in(_said(meta))
    return cast(MetricsMeta, meta)


def _said(meta: Mapping[str, Any]) -> list[str]:
    """Return every sentence of the picture, in which terms are looked for."""
    entries = meta["described"].values()
    described = [entry[key] for entry in entries for key in ("long_name", "formula", "units")]
    arrays = [array["long_name"] for array in meta["arrays"]]
    return [meta["question"], meta["lead"], *described, *arrays]


def _axes(data: xr.Dataset, arrays: Iterable[Array]) -> dict[str, MetaAxis]:
    dims = dict.fromkeys(dim for array in arrays for dim in array["dims"])
    return {dim: _axis(data, dim) for dim in dims}


def _axis(data: xr.Dataset, dim: str) -> MetaAxis:
    own = dim.removeprefix(OTHER)
    size = data.sizes[dim]
    values = data[dim].values.tolist() if dim in data.coords else list(range(size))
    return MetaAxis(
        size=size,
        labels=[str(value) for value in values],
        numbers=numbers_of(dim, size, values),
        long_name=own.removesuffix("_other").replace("_", " "),
        named=is_named(data, dim),
    )


def _clusters(data: xr.Dataset, arrays: Iterable[Array]) -> dict[str, list[list[int]]]:
    names = [array["name"] for array in arrays if array["kind"] == "matrix"]
    found = {name: [list(group) for group in groups_of(data, name)] for name in names}
    return {name: groups for name, groups in found.items() if groups}


def other_of(attrs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what stands beside a result; None for nothing."""
    if "other_model" not in attrs:
        return None
    words = ("model", "model_type", "dtype", "label")
    return {
        **{name: str(attrs.get(f"other_{name}", "")) for name in words},
        **{name: int(attrs.get(f"other_{name}", 0)) for name in ("n_layers", "n_heads")},
        "n_counted": _count(attrs, "other_tokens_counted"),
    }


def _count(attrs: Mapping[str, Any], name: str) -> int | None:
    value = attrs.get(name)
    return None if value is None or not math.isfinite(float(value)) else int(value)
