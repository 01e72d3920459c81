"""One text out of a result of many."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.errors import ResultError

if TYPE_CHECKING:
    import xarray as xr


EACH = (
    "clean_metric", "corrupt_metric", "answer", "wrong", "answer_token", "wrong_token",
    "estimate_pearson", "estimate_cells", "other_tokens",
)  # fmt: skip
"""Attributes of patching results that have an entry for each of several pairs."""


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
    chosen = data.isel(batch=text).assign_attrs(_of_one(data.attrs, text))
    real = real_positions(chosen)
    if real is None:
        return chosen
    along = str(chosen["input_id"].dims[0])
    # Attention has the tokens along two axes.
    axes = [along, "key"] if along == "query" else [along]
    return chosen.isel(dict.fromkeys(axes, np.flatnonzero(real)))


def _of_one(attrs: Mapping[str, Any], text: int) -> dict[str, Any]:
    """Return the attributes that are lists with an entry for each text, with that entry alone."""
    names = json.loads(attrs.get("inputs", "[]"))
    lists = [f"{name}_{what}" for name in names for what in ("text", "ids", "tokens", "continues")]
    found: dict[str, Any] = {}
    for name in [*lists, *EACH]:
        if isinstance(attrs.get(name), str):
            entry = json.loads(attrs[name])[text]
            found[name] = entry if isinstance(entry, str | int | float) else json.dumps(entry)
    if "several" in attrs:
        found |= {"several": "[]", "text": str(json.loads(attrs["text"])[text])}
    return found


def real_positions(data: xr.Dataset) -> np.ndarray | None:
    """Return which positions hold a token and not padding (bool), or None if all of them do.

    Padding has the input id -1.
    """
    if "input_id" not in data.variables:
        return None
    ids = data["input_id"].values
    real: np.ndarray = ids >= 0
    return None if real.all() else real


def answer_names(data: xr.Dataset) -> list[str]:
    """Return the names of all arrays of numbers of an answer, ends of intervals among them.

    Those of one text come with their means over texts, where there are some.
    """
    named = json.loads(data.attrs.get("variables", "[]"))
    numbers = [str(name) for name in data.data_vars if data[name].dtype.kind in "fiub"]
    every = [name for name in numbers if not data[name].attrs.get("hidden")]
    return [str(name) for name in named if name in every] or every
