"""What a grid of cells shows of a result: one variable, two of its axes, which of their entries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.errors import ResultError
from layerlens.figures.fonts import drawable
from layerlens.figures.names import axis_words
from layerlens.figures.slices import cut, labels_of, main_variable
from layerlens.result.layers import OTHER

if TYPE_CHECKING:
    import xarray as xr

MOST_NEURONS = 64
"""Columns of neurons that a figure has room for."""


@dataclass(frozen=True)
class Grid:
    """What is drawn.

    `values` are ``[row, column]``, row 0 at the bottom; `limit` is where the colours end; `words`
    name the axes.
    """

    name: str
    values: np.ndarray
    rows: list[str]
    columns: list[list[str]]
    axes: tuple[str, str]
    words: tuple[str, str]
    label: str
    units: str
    limit: float
    guessed: np.ndarray
    """Where `values` are estimates in the place of true ones (bool)."""


def grid_of(
    data: xr.Dataset, variable: str | None, at: Mapping[str, Any] | None, limit: float | None
) -> tuple[Grid, str]:
    """Return what to draw of `data`, and what to say of the rest; see `grid_figure`."""
    if variable is None and "recovered" in data.data_vars and data.attrs.get("view") == "patch":
        variable = _recovered(data)
    name = main_variable(data, 2, variable)
    array = _with_estimates(data, name)
    axes = _axes(array, at)
    if axes[1] == "layer":  # layers go upwards, whatever the order
        axes = axes[1], axes[0]
    if limit is not None and not limit > 0:
        raise ResultError(f"limit is {limit}; it is the value of the strongest colour, above 0.")
    shown, where = cut(array, axes, at)
    guessed = _guessed(data, name, shown)
    kept, left_out = _strongest_neurons(shown, axes[1])
    shown = shown.isel({axes[1]: kept})
    rows, columns, empty = _with_values(data, shown)
    shown, kept = shown.isel({axes[0]: rows, axes[1]: columns}), [kept[i] for i in columns]
    guessed = guessed[np.ix_(rows, kept)]
    said = f"drawn at {where}" if where else "", left_out, *empty
    values = shown.values.astype(np.float64)
    fraction = name.removeprefix(OTHER).startswith("recovered")
    largest = np.abs(values[np.isfinite(values)]).max(initial=0.0)
    grid = Grid(
        name=name,
        values=values,
        rows=[label for i, label in enumerate(labels_of(data, axes[0])) if i in rows],
        columns=[
            [line[i] for i in kept] for line in _columns(data, axes[1], mean=name.endswith("_mean"))
        ],
        axes=axes,
        words=(axis_words(data, axes[0]), axis_words(data, axes[1])),
        label=_label(data, name),
        units=units if (units := str(array.attrs.get("units", "1"))) != "1" else "",
        limit=limit or (1.0 if fraction else float(largest) or 1.0),
        guessed=guessed,
    )
    return grid, "; ".join(word for word in said if word)


def _label(data: xr.Dataset, name: str) -> str:
    """Return what is drawn, in words; of a second answer also whose it is."""
    words = str(data[name].attrs.get("long_name", name))
    return f"{words}: {data.attrs['other_label']}" if name.startswith(OTHER) else words


def _axes(array: xr.DataArray, at: Mapping[str, Any] | None) -> tuple[str, str]:
    """Return the last two axes that are not cut."""
    dims = [str(dim) for dim in array.dims]
    whole = [dim for dim in dims if dim not in (at or {})]
    kept = whole if len(whole) > 1 else dims
    return kept[-2], kept[-1]


def _with_values(data: xr.Dataset, shown: xr.DataArray) -> tuple[list[int], list[int], list[str]]:
    """Return the rows and columns that have a value, and what to say of the others.

    Where a run goes on, or the question can be asked of every cell, all of them stay.
    """
    known = np.isfinite(shown.values.astype(np.float64))
    kept: list[list[int]] = []
    said = []
    for axis, dim in enumerate(map(str, shown.dims)):
        every = list(range(known.shape[axis]))
        some = np.flatnonzero(known.any(1 - axis)).tolist()
        whole = data.attrs.get("view") == "patch" or not int(data.attrs.get("complete", 1))
        if whole or dim == "position" or not some:
            some = every
        if len(some) < len(every):
            said.append(f"{dim}: the {len(some)} of {len(every)} that have a value are drawn")
        kept.append(some)
    return kept[0], kept[1], said


def _strongest_neurons(shown: xr.DataArray, dim: str) -> tuple[list[int], str]:
    """Return which columns to draw, and what to say of the others.

    A neuron of one layer has nothing to do with that of the same number in another, and there are
    thousands of them: those with the largest numbers are drawn.
    """
    size = shown.sizes[dim]
    if dim != "neuron" or size <= MOST_NEURONS:
        return list(range(size)), ""
    largest = np.abs(np.nan_to_num(shown.values.astype(np.float64))).max(0)
    kept = sorted(np.argsort(-largest, kind="stable")[:MOST_NEURONS].tolist())
    words = f"of {size} neurons the {MOST_NEURONS} with the largest number in any layer are drawn"
    return kept, words


def _with_estimates(data: xr.Dataset, name: str) -> xr.DataArray:
    """Return a variable, with what was estimated first where a sweep was stopped before."""
    if name != "recovered" or "estimate" not in data:
        return data[name]
    return data[name].fillna(data["estimate"]).assign_attrs(data[name].attrs)


def _guessed(data: xr.Dataset, name: str, shown: xr.DataArray) -> np.ndarray:
    """Return where the values of a cut are estimates."""
    if name != "recovered" or "estimate" not in data:
        return np.zeros(shown.shape, dtype=bool)
    where = {dim: shown[dim].item() for dim in data[name].dims if dim not in shown.dims}
    true = data[name].sel(where).transpose(*shown.dims)
    return np.asarray(np.isnan(true.values) & np.isfinite(shown.values))


def _recovered(data: xr.Dataset) -> str | None:
    """Return the fraction to draw; None where it has no value because both runs answer alike."""
    name = "recovered_mean" if "recovered_mean" in data.data_vars else "recovered"
    known = np.isfinite(_with_estimates(data, name).values).any()
    return name if known or "metric" not in data else "metric"


def _columns(data: xr.Dataset, dim: str, *, mean: bool) -> list[list[str]]:
    """Return the labels under the columns: one line, or the tokens of both texts of a pair.

    A mean over several texts has no tokens of its own, so its positions are numbered.
    """
    if dim != "position":
        return [labels_of(data, dim)]
    if mean:
        return [[str(position) for position in data[dim].values]]
    pair = [json.loads(data.attrs.get(f"{name}_tokens", "[]")) for name in ("clean", "corrupt")]
    if all(len(tokens) == data.sizes[dim] and _flat(tokens) for tokens in pair):
        return [[drawable(str(token)) or "⋯" for token in tokens] for tokens in pair]
    return [[label or "⋯" for label in labels_of(data, dim)]]


def _flat(tokens: list[Any]) -> bool:
    return all(isinstance(token, str) for token in tokens)
