"""What a finished result says to a view that takes it up."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from layerlens.result.select import one_text
from layerlens.views.other_kind import told

if TYPE_CHECKING:
    import xarray as xr

    from layerlens.model.lensmodel import LensModel
    from layerlens.result import Result


def options_of(data: xr.Dataset) -> dict[str, Any]:
    """Return the options of a result that say something: neither None nor empty."""
    options = json.loads(data.attrs.get("options", "{}"))
    return {name: value for name, value in options.items() if value not in (None, [], {}, "")}


def inputs_of(
    data: xr.Dataset, text: int, names: Iterable[str], model: LensModel | None
) -> dict[str, Any]:
    """Return the texts that a result is about.

    Parameters
    ----------
    data : xarray.Dataset
        The data of a whole result.
    text : int
        Which of several texts.
    names : iterable of str
        The analysis's names of them.
    model : LensModel, optional
        Where there is one, a text of which it would make other tokens than the result has (one
        given as ids, say) is returned as token ids, as far as the result holds them.
    """
    add_bos = options_of(data).get("add_bos")
    found: dict[str, Any] = {}
    for name in names:
        written, ids = _written(data, text, name), _ids(data, text, name)
        exact = model is None or not ids or _ids_again(model, written, add_bos) == ids
        found[name] = written if exact else ids
    return found


def asleep(result: Result) -> Result:
    """Return a result without its model, whose view is frozen."""
    from layerlens.result import Result

    return Result(result.analysis, result.data, result.checks, result.code)


def other_of(result: Result, text: int) -> Any:
    """Return what a result's call was given as ``other=``; None where that is not at hand.

    It is in results of this session; a file holds what the other side said, and not how to ask it.
    Of several texts, the one that lies beside the text that is looked at.
    """
    other = None if result.given is None else result.given[1].get("other")
    if "batch" in result.data.dims and told(other)[0] == "text" and other is not None:
        return other[text]
    return other


def shown_of(data: xr.Dataset, text: int, name: str) -> str:
    """Return a text of a result as it can be read."""
    return _written(data, text, name)


def _written(data: xr.Dataset, text: int, name: str) -> str:
    written = str(data.attrs.get(f"{name}_text", data.attrs.get("text", "")))
    if "batch" in data.dims:
        written = str(json.loads(written)[text])
    if not written and "token" in data.variables:
        written = "".join(str(token) for token in one_text(data, text)["token"].values)
    return written


def _ids(data: xr.Dataset, text: int, name: str) -> list[int]:
    key = f"{name}_ids"
    if key in data.attrs:
        ids = json.loads(data.attrs[key])
        return [int(i) for i in (ids[text] if "batch" in data.dims else ids)]
    chosen = one_text(data, text)
    return [int(i) for i in chosen["input_id"].values] if "input_id" in chosen.variables else []


def _ids_again(model: LensModel, text: str, add_bos: bool | None) -> list[int]:
    from layerlens.errors import InputError

    try:
        return [int(i) for i in model.tokens(text, add_bos=add_bos).ids[0]]
    except InputError:
        return []
