"""Axes that list the strongest cells of a grid: of two results, they list what either has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.errors import ResultError

if TYPE_CHECKING:
    import xarray as xr

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Listing:
    """An axis whose entries are cells of a grid, the strongest first.

    Parameters
    ----------
    axis
        Its name; its coordinate labels each cell.
    grid
        The array that the cells are of.
    values
        The array along the axis that repeats their numbers.
    places
        Axis of the grid to the array along the axis that holds the cell's place on it.
    """

    axis: str
    grid: str
    values: str
    places: Mapping[str, str]


def told(listings: list[Listing]) -> dict[str, str]:
    """Return the attribute of a result that says what it lists."""
    return {"listings": json.dumps([asdict(listing) for listing in listings])}


def listing_the_same(mine: xr.Dataset, theirs: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """Return two results whose lists have the same entries: the first's, then what it lacks.

    The numbers of an entry that one of them does not list are those of its whole grid.

    Raises
    ------
    ResultError
        A cell that one lists does not exist in the other.
    """
    for given in json.loads(mine.attrs.get("listings", "[]")):
        listing = Listing(**given)
        if not all(listing.axis in data.coords for data in (mine, theirs)):
            continue
        if not np.array_equal(mine[listing.axis], theirs[listing.axis]):
            rows = _rows(mine, listing) | _rows(theirs, listing)
            mine, theirs = (_with_rows(data, listing, rows) for data in (mine, theirs))
    return mine, theirs


def _rows(data: xr.Dataset, listing: Listing) -> dict[str, Row]:
    """Return the place of each entry by its label."""
    columns = {axis: data[name].values for axis, name in listing.places.items()}
    labels = [str(label) for label in data[listing.axis].values]
    return {
        label: {axis: column[i].item() for axis, column in columns.items()}
        for i, label in enumerate(labels)
    }


def _with_rows(data: xr.Dataset, listing: Listing, rows: Mapping[str, Row]) -> xr.Dataset:
    """Return a result that lists other cells of its grid."""
    grid, axis = data[listing.grid], listing.axis
    try:
        values = [grid.sel(place).item() for place in rows.values()]
    except KeyError as error:
        raise ResultError(
            f"{listing.grid} has no cell at {error.args[0]} in one of the results: both need the "
            "same layers and heads."
        ) from None
    columns = {listing.values: values} | {
        name: [place[of] for place in rows.values()] for of, name in listing.places.items()
    }
    found = data.drop_dims(axis).assign_coords({axis: list(rows)})
    return found.assign(
        {
            name: ((axis,), np.array(column, dtype=data[name].dtype), data[name].attrs)
            for name, column in columns.items()
        }
    ).assign_attrs(data.attrs)
