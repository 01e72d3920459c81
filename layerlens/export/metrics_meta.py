"""The ``meta`` trait of measured layers, for live views and frozen pages alike."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypedDict, cast


from layerlens.metrics import registry
from layerlens.metrics.catalogue import Entry, entry
from layerlens.metrics.clusters import Group, clusters
from layerlens.result.checks import Check, Checks

if TYPE_CHECKING:
    import xarray as xr

OTHER = "other."
"""Before the names of a second model's arrays and axes."""

CLUSTER = "_cluster"
"""After the name of a matrix: the array with the number of the group of each of its entries."""

MOST_LINES = 12
"""Entries of an axis of a metric's own that still make a line each."""


class MetaAxis(TypedDict):
    """One axis: its labels, and the layer or head of each entry where it has one."""

    size: int
    labels: list[str]
    numbers: list[int] | None
    long_name: str


class MetaArray(TypedDict):
    """One array of the picture; `kind` says how it is drawn."""

    name: str
    metric: str
    long_name: str
    units: str
    dims: list[str]
    dtype: str
    interval: bool
    kind: str
    other: bool


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
    checks: list[dict[str, Any]]
    metrics: list[str]
    described: dict[str, Entry]
    n_texts: int
    n_tokens: int
    n_counted: int | None
    skip_first: int
    axes: dict[str, MetaAxis]
    arrays: list[MetaArray]
    clusters: dict[str, list[list[int]]]
    other: dict[str, Any] | None


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
    names = [str(name) for name in json.loads(attrs.get("metrics", "[]"))]
    arrays = arrays_of(data)
    words = ("model", "model_type", "dtype", "source", "question", "cost", "code")
    counts = ("n_layers", "n_heads", "d_vocab", "skip_first")
    meta: dict[str, Any] = {
        "run": run,
        **{name: str(attrs.get(name, "")) for name in words},
        **{name: int(attrs.get(name, 0)) for name in counts},
        "notes": [str(note) for note in json.loads(attrs.get("notes", "[]"))],
        "checks": Checks(checks).records(),
        "metrics": names,
        "described": {name: entry(name) for name in names if name in registry.every()},
        "n_texts": int(attrs.get("texts", 0)),
        "n_tokens": int(attrs.get("tokens", 0)),
        "n_counted": _count(attrs, "tokens_counted"),
        "axes": _axes(data, arrays),
        "arrays": arrays,
        "clusters": _clusters(data, arrays) if ended else {},
        "other": _other(attrs),
    }
    return cast(MetricsMeta, meta)


def arrays_of(data: xr.Dataset) -> list[MetaArray]:
    """Return the arrays of a result, without those that are ends of an interval."""
    names = [str(name) for name in json.loads(data.attrs.get("variables", "[]"))]
    names = [name for name in names if name in data.data_vars]
    ends = {f"{name}{end}" for name in names for end in ("_low", "_high")}
    metrics = sorted(json.loads(data.attrs.get("metrics", "[]")), key=len, reverse=True)
    found = [_array(data, name, metrics, f"{name}_low" in names) for name in names]
    return [array for array in found if array["name"] not in ends]


def _array(data: xr.Dataset, name: str, metrics: list[str], interval: bool) -> MetaArray:
    array = data[name]
    own = name.removeprefix(OTHER)
    metric = next((m for m in metrics if own == m or own.startswith(f"{m}_")), own)
    token = own in _tokens_of(metric)
    kind = "token" if token else "float" if array.dtype.kind == "f" else "int"
    dims = [str(dim) for dim in array.dims]
    how = kind_of([dim.removeprefix(OTHER) for dim in dims], array.shape)
    if token:
        how = "table"
    elif name.removesuffix(CLUSTER) in data.data_vars and name.endswith(CLUSTER):
        how = "clusters"
    return MetaArray(
        name=name,
        metric=metric,
        long_name=str(array.attrs.get("long_name", own)),
        units=str(array.attrs.get("units", "1")),
        dims=dims,
        dtype=kind,
        interval=interval,
        kind=how,
        other=name.startswith(OTHER),
    )


def _tokens_of(metric: str) -> list[str]:
    if metric not in registry.every():
        return []
    return [name for name, output in registry.get(metric).outputs.items() if output.is_token]


def kind_of(dims: list[str], shape: tuple[int, ...]) -> str:
    """Return how an array over these axes is drawn; see the traits of the view."""
    along = bool(dims) and dims[0] in ("layer", "point")
    if len(dims) < 2:
        return "scalar" if not dims else "curve" if along else "profile"
    if len(dims) == 2 and dims[1] == f"{dims[0]}_other":
        return "matrix"
    if len(dims) == 2 and dims == ["layer", "head"]:
        return "heads"
    return "lines" if len(dims) == 2 and along and shape[1] <= MOST_LINES else "table"


def _axes(data: xr.Dataset, arrays: Iterable[MetaArray]) -> dict[str, MetaAxis]:
    dims = dict.fromkeys(dim for array in arrays for dim in array["dims"])
    return {dim: _axis(data, dim) for dim in dims}


def _axis(data: xr.Dataset, dim: str) -> MetaAxis:
    own = dim.removeprefix(OTHER)
    size = data.sizes[dim]
    values = data[dim].values.tolist() if dim in data.coords else list(range(size))
    numbers: list[int] | None = None
    if own in ("point", "point_other"):
        numbers = list(range(-1, size - 1))
    elif own in ("layer", "layer_other", "head"):
        numbers = [int(value) for value in values]
    return MetaAxis(
        size=size,
        labels=[str(value) for value in values],
        numbers=numbers,
        long_name=own.removesuffix("_other").replace("_", " "),
    )


def _clusters(data: xr.Dataset, arrays: Iterable[MetaArray]) -> dict[str, list[list[int]]]:
    names = [array["name"] for array in arrays if array["kind"] == "matrix"]
    found = {name: [list(group) for group in clusters_of(data, name)] for name in names}
    return {name: groups for name, groups in found.items() if groups}


def clusters_of(data: xr.Dataset, name: str) -> list[Group]:
    """Return the groups of layers of a matrix: the metric's own, else those that it shows.

    Empty while numbers are missing.
    """
    own = f"{name}{CLUSTER}"
    if own not in data.data_vars:
        return clusters(data[name].values)
    numbers = data[own].values.tolist()
    if -1 in numbers:
        return []
    return [
        (numbers.index(number), len(numbers) - 1 - numbers[::-1].index(number))
        for number in dict.fromkeys(numbers)
    ]


def _other(attrs: Mapping[str, Any]) -> dict[str, Any] | None:
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
