"""The part of a result that a figure can show: one variable, as many axes as the figure has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.errors import ResultError
from layerlens.figures.fonts import drawable

if TYPE_CHECKING:
    import xarray as xr

COMPANIONS = ("_mean", "_low", "_high")
"""Endings of variables that belong to the one named before: mean and interval over texts."""


def main_variable(data: xr.Dataset, n_axes: int, variable: str | None = None) -> str:
    """Return which variable to draw.

    Parameters
    ----------
    data : xarray.Dataset
        The data of one text.
    n_axes : int
        How many axes it must have at least.
    variable : str, optional
        The one that the user wants; by default the first that fits, or its mean over texts where
        there is one.

    Raises
    ------
    ResultError
        There is none, or not the one that was named.
    """
    fitting = [str(name) for name in data.data_vars if _fits(data[name], n_axes)]
    if variable is not None:
        if variable in fitting:
            return variable
        raise ResultError(
            f"'{variable}' cannot be drawn here; choose one of {', '.join(fitting) or 'none'}."
        )
    own = [name for name in fitting if not name.endswith(COMPANIONS)]
    if not own:
        raise ResultError(f"This result has no variable of numbers with {n_axes} axes to draw.")
    mean = f"{own[0]}_mean"
    return mean if mean in fitting else own[0]


def _fits(array: xr.DataArray, n_axes: int) -> bool:
    return array.dtype.kind in "fiu" and len(array.dims) >= n_axes


def cut(
    array: xr.DataArray, axes: Sequence[str], at: Mapping[str, Any] | None
) -> tuple[xr.DataArray, str]:
    """Return the part of `array` that has only `axes`, in their order, and what was chosen.

    Parameters
    ----------
    array : xarray.DataArray
        More axes are possible.
    axes : sequence of str
        Those that stay.
    at : mapping, optional
        Axis name to label, for the others; by default each is cut where the largest number is.

    Raises
    ------
    ResultError
        There is no such axis or label.
    """
    at = dict(at or {})
    unknown = [name for name in at if name not in array.dims or name in axes]
    if unknown:
        others = [str(dim) for dim in array.dims if dim not in axes]
        raise ResultError(
            f"at= names '{unknown[0]}'; it takes {', '.join(others) or 'nothing here'}."
        )
    words = []
    for dim in [str(dim) for dim in array.dims if str(dim) not in axes]:
        index = _index_of(array, dim, at[dim]) if dim in at else _strongest(array, dim)
        label = labels_of(array, dim)[index]
        words.append(f"{dim} {label}" + ("" if dim in at else " (the strongest)"))
        array = array.isel({dim: index})
    return array.transpose(*axes), ", ".join(words)


def _index_of(array: xr.DataArray, dim: str, label: Any) -> int:
    known = array[dim].values.tolist() if dim in array.coords else list(range(array.sizes[dim]))
    if label not in known:
        raise ResultError(f"There is no {dim} {label!r}; there are {known[0]!r} to {known[-1]!r}.")
    return int(known.index(label))


def _strongest(array: xr.DataArray, dim: str) -> int:
    sizes = np.abs(array.values.astype(np.float64))
    axis = array.dims.index(dim)
    sizes = np.where(np.isfinite(sizes), sizes, -1.0)
    return int(sizes.max(axis=tuple(i for i in range(sizes.ndim) if i != axis)).argmax())


def labels_of(data: xr.Dataset | xr.DataArray, dim: str) -> list[str]:
    """Return what stands beside an axis: the tokens or names along it, else its numbers.

    States after whole blocks have the number of their block.
    """
    texts = [
        name
        for name, values in data.coords.items()
        if values.dims == (dim,) and values.dtype.kind in "UO"
    ]
    for name in sorted(texts, key=lambda name: name != "token"):
        words = [drawable(str(text)) for text in data.coords[name].values]
        if "token" in str(name):
            return words
        if all(word == "embed" or word.endswith("_post") for word in words):
            words = [word.removesuffix("_post") for word in words]
        return [word.replace("␣", " ") for word in words]
    if dim in data.coords:
        values = data.coords[dim].values
        return [f"{value:.6g}" if values.dtype.kind == "f" else str(value) for value in values]
    return [str(index) for index in range(data.sizes[dim])]


def words_of(array: xr.DataArray) -> str:
    """Return the name of a variable in words, with its unit."""
    name = str(array.attrs.get("long_name", array.name))
    units = str(array.attrs.get("units", "1"))
    said = units in ("1", "") or (units == "%" and "per cent" in name)
    return name if said else f"{name} ({units})"
