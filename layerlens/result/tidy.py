"""A result as one long table: a row a point and position, a column a quantity."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.errors import ResultError
from layerlens.result.strings import any_string

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

_ORDER = ("batch", "point", "layer", "position", "token", "input_id")


def to_pandas(data: xr.Dataset, of: str | None = None) -> pd.DataFrame:
    """Return the data of a result as a tidy table.

    Where no variable has all the axes of a result (some count layers, say, and others the steps
    of a search), a table of all would repeat everything for everything. It then holds one
    variable and those that share its axes, or some of them.

    The axes ``k`` and ``tracked`` become columns, every other axis becomes rows. For a lens:
    ``top_token``, ``top_id``, ``probability`` are the best token, ``top_token_2``, ``top_id_2``,
    ``probability_2`` the second one, and so on; ``tracked_probability_42`` belongs to token 42,
    whose string is ``frame.attrs["tracked"][42]``. What belongs to a position alone
    (``first_layer``, ``target_id``) is repeated. Padding of shorter texts is left out.

    Parameters
    ----------
    data : xarray.Dataset
        The data of a result.
    of : str, optional
        The variable whose axes make the rows. By default one that has all axes, else the first.

    Returns
    -------
    pandas.DataFrame
        One row for each combination of the other axes, in their order, with a plain index.

    Raises
    ------
    ResultError
        There is no such variable.
    """
    with any_string():
        frame = _table(_one_table(data, of))
    frame.attrs["tracked"] = _tracked_strings(data)
    return frame


def _table(data: xr.Dataset) -> pd.DataFrame:
    flat = _columns(data)
    dims = [str(dim) for dim in data.dims if str(dim) in _rows(data)]
    if not dims:
        frame = flat.expand_dims("row").to_dataframe().reset_index(drop=True)
    else:
        frame = flat.to_dataframe(dim_order=dims).reset_index()
    if "input_id" in frame:
        frame = frame[frame["input_id"] >= 0].reset_index(drop=True)
    first = [name for name in _ORDER if name in frame]
    return frame[first + [name for name in frame.columns if name not in first]]


def _one_table(data: xr.Dataset, of: str | None) -> xr.Dataset:
    """Drop what does not share the axes of the variable that the rows are made of."""
    if of is None:
        whole = _rows(data)
        if not data.data_vars or any(_rows(one) == whole for one in data.values()):
            return data
        of = str(next(iter(data.data_vars)))
    if of not in data.data_vars:
        known = ", ".join(map(str, data.data_vars))
        raise ResultError(f"There is no variable {of!r}; choose one of {known}.")
    axes = _rows(data[of])
    return data[[name for name, one in data.items() if axes >= _rows(one)]]


def _rows(data: xr.Dataset | xr.DataArray) -> set[str]:
    """Axes that become rows."""
    return {str(dim) for dim in data.dims} - {"k", "tracked"}


def _columns(data: xr.Dataset) -> xr.Dataset:
    """Spread the axes ``k`` and ``tracked`` over variables of their own."""
    vocab: dict[str, str] = json.loads(data.attrs.get("vocab", "{}"))
    columns: dict[str, Any] = {}
    for rank in range(data.sizes.get("k", 0)):
        suffix = "" if rank == 0 else f"_{rank + 1}"
        for name in (name for name in data.data_vars if "k" in data[name].dims):
            chosen = data[name].isel(k=rank, drop=True)
            if name == "token_id":
                columns[f"top_token{suffix}"] = _strings(chosen, vocab)
                columns[f"top_id{suffix}"] = chosen
            else:
                columns[f"{name}{suffix}"] = chosen
    spread = data.drop_dims("k") if "k" in data.dims else data
    if "tracked" in data.dims:
        for name in (name for name in spread.data_vars if "tracked" in spread[name].dims):
            for i, token in enumerate(data["tracked"].values.tolist()):
                columns[f"{name}_{token}"] = spread[name].isel(tracked=i, drop=True)
        spread = spread.drop_dims("tracked")
    names = list(columns) + [name for name in spread.data_vars if name not in columns]
    return spread.assign(columns)[names]


def _strings(ids: xr.DataArray, vocab: dict[str, str]) -> xr.DataArray:
    texts = np.empty(ids.shape, dtype=object)
    for index, token in np.ndenumerate(ids.values):
        texts[index] = vocab.get(str(int(token)), "")
    return ids.copy(data=texts)


def _tracked_strings(data: xr.Dataset) -> dict[int, str]:
    if "tracked_token" not in data.variables:
        return {}
    ids, texts = data["tracked"].values.tolist(), data["tracked_token"].values.tolist()
    return {int(token): str(text) for token, text in zip(ids, texts, strict=True)}
