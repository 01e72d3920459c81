"""Two lenses of one result as one table: the first one's columns, then the other's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from layerlens.errors import ResultError

if TYPE_CHECKING:
    from collections.abc import Sequence

OTHER = "other_"


def laid_beside(data: xr.Dataset, columns: Sequence[int]) -> xr.Dataset:
    """Return a lens whose positions are some of both runs, one after the other.

    Raises
    ------
    ResultError
        The result is of one lens only.
    """
    if "kl_between" not in data:
        raise ResultError(
            "This is one lens, so there is nothing beside it: draw ll.lens_difference."
        )
    shown = data.isel(position=list(columns))
    names = [str(name) for name in data.data_vars if f"{OTHER}{name}" in data.data_vars]
    first = shown[names]
    second = shown[[f"{OTHER}{name}" for name in names]].rename(
        {f"{OTHER}{name}": name for name in names}
    )
    every = [str(text) for text in json.loads(str(data.attrs["other_tokens"]))]
    positions = shown["position"].values.tolist()
    second = second.assign_coords(token=("position", np.array([every[i] for i in positions])))
    both = xr.concat([first, second], "position", join="override", combine_attrs="override")
    return both.assign_attrs(data.attrs)
