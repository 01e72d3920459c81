"""One of several lenses as a lens alone, or beside the one that others are compared with."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from layerlens.errors import ResultError

if TYPE_CHECKING:
    import xarray as xr

OTHER = "other_"
APART = ("change", "tracked_change", "kl_between")


def against_index(data: xr.Dataset) -> int:
    """Return which of several lenses the others were compared with."""
    if "lens" not in data.dims:
        return 0
    names = [str(name) for name in data["lens"].values]
    return names.index(str(data.attrs.get("lens_against", names[0])))


def lens_index(data: xr.Dataset, lens: int | str | None, compared: bool) -> int:
    """Return which lens is meant; None is the first, and where two are compared the first other.

    Raises
    ------
    ResultError
        There is no such lens, or it is the one that others are compared with.
    """
    if "lens" not in data.dims:
        if lens not in (None, 0):
            raise ResultError("This result has one lens: leave lens= out.")
        return 0
    names = [str(name) for name in data["lens"].values]
    if lens is None:
        lens = int(compared and len(names) > 1 and against_index(data) == 0)
    if isinstance(lens, str):
        lens = names.index(lens) if lens in names else len(names)
    if not 0 <= lens < len(names):
        raise ResultError(f"There is no such lens; this result has {', '.join(names)}.")
    if compared and lens == against_index(data):
        raise ResultError(
            f"The others are compared with {names[lens]} here: choose one of those as lens=, or "
            "compute again with another as against=."
        )
    return lens


def chosen_lens(data: xr.Dataset, lens: int, compared: bool) -> xr.Dataset:
    """Return the data of one lens, or of the one compared against with `lens` as its other.

    Parameters
    ----------
    data : xarray.Dataset
        The data of one text; without an axis ``lens`` they are returned as they are.
    lens : int
        Which lens.
    compared : bool
        Whether it stands beside another, as ``lens_difference`` has two runs.
    """
    if "lens" not in data.dims:
        return data
    name = str(data["lens"].values[lens])
    if not compared:
        return data.isel(lens=lens).drop_vars(APART, errors="ignore").assign_attrs(lens_shown=name)
    first, second = data.isel(lens=against_index(data)), data.isel(lens=lens)
    apart = {each: second[each] for each in APART if each in second}
    others = {f"{OTHER}{each}": second[each] for each in first.data_vars if each not in apart}
    return first.assign({**apart, **others}).assign_attrs(
        lens_shown=str(data["lens"].values[against_index(data)]),
        other_kind="lens",
        other_label=name,
        other_tokens=json.dumps([str(token) for token in data["token"].values]),
    )
