"""One text out of a result of many."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from layerlens.errors import ResultError

if TYPE_CHECKING:
    import xarray as xr


def one_text(data: xr.Dataset, text: int = 0) -> xr.Dataset:
    """Return the data of one text, without the ``batch`` axis and without its padding.

    Parameters
    ----------
    data : xarray.Dataset
        The data of a result; without a ``batch`` axis they are returned as they are.
    text : int
        Which text, counted from 0; negative from the end.

    Raises
    ------
    ResultError
        There is no such text.
    """
    n_texts = data.sizes.get("batch", 1)
    if not -n_texts <= text < n_texts:
        raise ResultError(
            f"This result has {n_texts} text{'s' * (n_texts > 1)}, so there is no text {text}; "
            f"give a number from 0 to {n_texts - 1}."
        )
    if "batch" not in data.dims:
        return data
    chosen = data.isel(batch=text)
    real = real_positions(chosen)
    return chosen if real is None else chosen.isel(position=np.flatnonzero(real))


def real_positions(data: xr.Dataset) -> np.ndarray | None:
    """Return which positions hold a token and not padding (bool), or None if all of them do.

    Padding has the input id -1.
    """
    if "input_id" not in data.variables:
        return None
    ids = data["input_id"].values
    real: np.ndarray = ids >= 0
    return None if real.all() else real
