"""What the arrays of measured layers are: curves, matrices, grids of heads; of one model or two."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from layerlens.metrics import registry
from layerlens.metrics.clusters import clusters

if TYPE_CHECKING:
    import xarray as xr

OTHER = "other."
"""Before the names of a second model's arrays and axes."""

CLUSTER = "_cluster"
"""After the name of a matrix: the array with the number of the group of each of its entries."""

CHANCE = "_chance"
"""After the name of an array: the same measure where nothing can be found."""

MOST_GROUPS = 8
"""More groups of layers than this tell nothing in a picture; the best so many are shown."""

MOST_LINES = 12
"""Entries of an axis of a metric's own that still make a line each."""


RUN = "run"
"""The axis of the moments of a training."""

_DEPTHS = ("layer", "point")


class Array(TypedDict):
    """One array of a picture.

    `kind` says how it is drawn: ``curve`` (over layers or points), ``lines`` (the same, one for
    each entry of a second axis), ``heads``, ``matrix``, ``profile`` (over an axis of the metric's
    own), ``scalar``, ``clusters`` (only as outlines on its matrix), or else ``table``.
    """

    name: str
    metric: str
    long_name: str
    units: str
    dims: list[str]
    dtype: str
    interval: bool
    kind: str
    other: bool


def variables_in(data: xr.Dataset) -> list[str]:
    """Return the names of the arrays of a measurement, ends of intervals among them, in order.

    Of an analysis that does not name them these are all; where it gives the mean over texts, that
    stands for the texts' own.
    """
    every = [str(name) for name in data.data_vars if not data[name].attrs.get("hidden")]
    if "variables" in data.attrs:
        return [str(name) for name in json.loads(data.attrs["variables"]) if name in every]
    return [name for name in every if f"{name}_mean" not in every]


def ends_of(data: xr.Dataset, name: str) -> tuple[str, str] | None:
    """Return the names of the two ends of an array's interval, if it has one."""
    for stem in (name, name.removesuffix("_mean")):
        if f"{stem}_low" in data.data_vars and f"{stem}_high" in data.data_vars:
            return f"{stem}_low", f"{stem}_high"
    return None


def metrics_in(data: xr.Dataset) -> list[str]:
    """Return the metrics that were measured, in their order."""
    return [str(name) for name in json.loads(data.attrs.get("metrics", "[]"))]


def arrays_of(data: xr.Dataset) -> list[Array]:
    """Return the arrays of a measurement, without those that are ends of an interval."""
    names = variables_in(data)
    ends = {end for name in names for end in ends_of(data, name) or ()}
    metrics = sorted(metrics_in(data), key=len, reverse=True)
    return [_array(data, name, metrics) for name in names if name not in ends]


def _array(data: xr.Dataset, name: str, metrics: list[str]) -> Array:
    array = data[name]
    own = name.removeprefix(OTHER)
    metric = next((m for m in metrics if own == m or own.startswith(f"{m}_")), own)
    token = own in _tokens_of(metric)
    dims = [str(dim) for dim in array.dims]
    kind = kind_of([dim.removeprefix(OTHER) for dim in dims], array.shape)
    if token:
        kind = "table"
    elif name.endswith(CLUSTER) and name.removesuffix(CLUSTER) in data.data_vars:
        kind = "clusters"
    return Array(
        name=name,
        metric=metric,
        long_name=str(array.attrs.get("long_name", own)),
        units=str(array.attrs.get("units", "1")),
        dims=dims,
        dtype="token" if token else "float" if array.dtype.kind == "f" else "int",
        interval=ends_of(data, name) is not None,
        kind=kind,
        other=name.startswith(OTHER),
    )


def _tokens_of(metric: str) -> list[str]:
    if metric not in registry.every():
        return []
    return [name for name, output in registry.get(metric).outputs.items() if output.is_token]


def kind_of(dims: list[str], shape: tuple[int, ...]) -> str:
    """Return how an array over these axes is drawn."""
    along = bool(dims) and dims[0] in _DEPTHS
    if len(dims) < 2:
        return "scalar" if not dims else "curve" if along else "profile"
    if len(dims) == 2 and dims[1] == f"{dims[0]}_other":
        return "matrix"
    if dims == ["layer", "head"]:
        return "heads"
    return "lines" if along_of(dims, shape) else "table"


def along_of(dims: Sequence[str], shape: Sequence[int]) -> str | None:
    """Return which of two axes lines run along; None where they would be too many.

    They run through the layers, or through the moments of a training where these are more.

    Examples
    --------
    >>> along_of(["run", "layer"], [9, 4]), along_of(["run", "layer"], [3, 31])
    ('run', 'layer')
    """
    if len(dims) != 2:
        return None
    (first, second), (size, other) = dims, shape
    if first == RUN and second in _DEPTHS and size <= other:
        first, second, size, other = second, first, other, size
    along = first in _DEPTHS or (first == RUN and second in _DEPTHS)
    return first if along and other <= MOST_LINES else None


def groups_of(data: xr.Dataset, name: str) -> list[tuple[int, int]]:
    """Return the groups of layers of a matrix: the metric's own, else those that it shows.

    Returns
    -------
    list of (int, int)
        First and last entry of each; empty while numbers are missing.
    """
    own = f"{name}{CLUSTER}"
    if own not in data.data_vars:
        values = data[name].values
        if values.shape[0] != values.shape[1] or not np.isfinite(values.diagonal()).all():
            return []  # without an entry of each with itself it is no likeness
        found = clusters(values)
        return found if len(found) <= MOST_GROUPS else clusters(values, MOST_GROUPS)
    numbers = data[own].values.tolist()
    if -1 in numbers:
        return []
    return [
        (numbers.index(number), len(numbers) - 1 - numbers[::-1].index(number))
        for number in dict.fromkeys(numbers)
    ]


def numbers_of(dim: str, size: int, values: list[object]) -> list[int] | None:
    """Return the layer or head of each entry of an axis; None where entries are neither."""
    own = dim.removeprefix(OTHER)
    if own in ("point", "point_other"):
        return list(range(-1, size - 1))
    if own in ("layer", "layer_other", "head"):
        return [int(str(value)) for value in values]
    return None
