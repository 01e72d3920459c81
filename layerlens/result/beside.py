"""Two answers to the same question on one grid: the first, the second, and what changed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.errors import ResultError
from layerlens.result.beside_words import (
    attributes_of_both,
    code_of_both,
    label_of,
    vocabularies_differ,
)
from layerlens.result.layers import OTHER, ends_of
from layerlens.result.listed import listing_the_same
from layerlens.result.result import Result
from layerlens.result.select import answer_names, real_positions

if TYPE_CHECKING:
    import xarray as xr

CHANGE = "change_"
"""Before the name of an array: the second's numbers less the first's."""

_VIEWS = {
    "attention": "ll.attention(model, text, other=...)",
    "lens": "ll.lens_difference(model, text, other=...)",
    "metrics": "ll.MetricsView(model, texts, other=...)",
}
"""Views whose results have a way of their own to lie beside each other."""


def beside(first: Result, second: Result, label: str = "") -> Result:
    """Lay two answers to the same question over each other: two models, two texts, two options.

    Parameters
    ----------
    first, second : Result
        Of the same analysis, over the same axes: as many layers and heads, and where there are
        positions, as many of these.
    label : str, optional
        What to call the second; by default what sets it apart: its model, its text or its options.

    Returns
    -------
    Result
        The arrays of the first; those of the second as ``other.<name>``; and for each array of
        real numbers ``change_<name>``, second minus first. It has the checks of both, and its
        view is frozen: it holds both answers, and not how to ask for them. Arrays that only one
        of the two has are left out.

    Raises
    ------
    ResultError
        They are of two analyses, their axes differ, or one holds two models already.

    Notes
    -----
    Whole numbers (ranks, counts, tokens), standard errors and the ends of intervals lie beside
    each other without a difference. A list of the strongest cells (``edge`` of `composition`) has
    those of the first, then what only the second lists, each with the numbers of both. Tokens of
    a second model whose vocabulary is another one are left out.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> one, two = (ll.ablate_sweep(model, text) for text in ("cat dog owl cat", "cat fox owl cat"))
    >>> ll.beside(one, two).data["change_effect"].dims
    ('layer', 'head')
    """
    _require_alike(first, second)
    mine, theirs = listing_the_same(first.data, second.data)
    label = label or label_of(first, second)
    names = [name for name in answer_names(mine) if name in answer_names(theirs)]
    names = [name for name in names if name != "input_id"]
    if vocabularies_differ(mine, theirs):
        names = [name for name in names if not mine[name].attrs.get("is_token")]
    if not names:
        raise ResultError("The two results have no array in common.")
    dims = common_axes(mine, theirs, names)
    data = mine.assign(
        {
            OTHER + name: (theirs[name].dims, theirs[name].values, theirs[name].attrs)
            for name in names
        }
        | {CHANGE + name: _change(mine[name], theirs[name]) for name in changing(mine, names)}
    )
    data = data.assign_coords(other_words(mine, theirs, dims))
    data.attrs |= attributes_of_both(first, second, label, [str(name) for name in data.data_vars])
    checks = [check._replace(name=f"{OTHER}{check.name}") for check in second.checks]
    code = code_of_both(first, second, label)
    return Result(first.analysis, data, [*first.checks, *checks], code)


def is_beside(data: xr.Dataset) -> bool:
    """Whether a result holds a second answer beside the first."""
    return any(str(name).startswith(OTHER) for name in data.data_vars)


def base_name(name: str) -> str:
    """Return the name that an array has on each of the two sides."""
    return name.removeprefix(OTHER).removeprefix(CHANGE)


def own_side(data: xr.Dataset) -> xr.Dataset:
    """Return the arrays of the first side alone."""
    return data[[name for name in data.data_vars if not str(name).startswith((OTHER, CHANGE))]]


def other_side(data: xr.Dataset) -> xr.Dataset:
    """Return the arrays of the second side alone, under the names that it gave them."""
    names = [str(name) for name in data.data_vars if str(name).startswith(OTHER)]
    return data[names].rename({name: base_name(name) for name in names})


def _require_alike(first: Result, second: Result) -> None:
    for result in (first, second):
        if not isinstance(result, Result):
            raise ResultError(f"beside takes two results, not {result!r:.60}.")
        # The models among the options of an analysis are told as <option>_load.
        if any(name == "other_label" or name.endswith("_load") for name in result.data.attrs):
            raise ResultError(
                f"This result of {result.analysis} holds two sides already: give two results of "
                "one side each."
            )
        require_no_own_way(result.analysis, result.view)
    if first.analysis != second.analysis:
        raise ResultError(
            f"One result is of {first.analysis} and the other of {second.analysis}: only answers "
            "to the same question lie over each other."
        )


def require_no_own_way(analysis: str, view: str) -> None:
    """Refuse an analysis whose results lie beside each other in a view of their own.

    Raises
    ------
    ResultError
        Naming the call.
    """
    if view in _VIEWS:
        raise ResultError(
            f"Results of {analysis} lie beside each other in their own way: {_VIEWS[view]}."
        )


def changing(data: xr.Dataset, names: Iterable[str]) -> list[str]:
    """Return those of some arrays of which a difference says something."""
    known = list(names)
    apart = {end for name in known for end in ends_of(data, name) or ()}
    return [
        name
        for name in known
        if data[name].dtype.kind == "f"
        and name not in apart
        and not name.endswith("standard_error")
    ]


def common_axes(mine: xr.Dataset, theirs: xr.Dataset, names: Iterable[str]) -> list[str]:
    """Return the axes of some arrays, which have to be the same in both.

    Raises
    ------
    ResultError
        They are not; the first that differs is named.
    """
    names = list(names)
    for name in names:
        if mine[name].dims != theirs[name].dims:
            raise ResultError(
                f"{name} lies over {_listed(mine[name].dims)} in one result and over "
                f"{_listed(theirs[name].dims)} in the other."
            )
    dims = list(dict.fromkeys(str(dim) for name in names for dim in mine[name].dims))
    for dim in dims:
        sizes = mine.sizes[dim], theirs.sizes[dim]
        if sizes[0] != sizes[1]:
            raise ResultError(
                f"The axis {dim} has {sizes[0]} entries in the first result and {sizes[1]} in the "
                "second: they are compared entry by entry, so both need as many."
            )
        if dim in mine.coords and not np.array_equal(mine[dim].values, theirs[dim].values):
            at = int(np.flatnonzero(mine[dim].values != theirs[dim].values)[0])
            one, two = (data[dim].values[at].item() for data in (mine, theirs))
            raise ResultError(
                f"Entry {at} of the axis {dim} is {one!r} in the first result and {two!r} in the "
                "second: they are compared entry by entry, so both need the same ones."
            )
    one_real, other_real = (np.asarray(real_positions(data)) for data in (mine, theirs))
    if "batch" in dims and not np.array_equal(one_real, other_real):
        raise ResultError(
            "The texts of the two results differ in length: they are compared position by "
            "position, so each needs as many tokens as its counterpart."
        )
    return dims


def _listed(dims: Any) -> str:
    return ", ".join(map(str, dims)) or "no axis"


def change_words(name: str, long_name: str) -> dict[str, str]:
    """Return what an array of differences is, as its attributes say it."""
    return {
        "long_name": f"{long_name}, second minus first",
        "formula": f"{OTHER}{name} - {name}",
    }


def _change(one: xr.DataArray, two: xr.DataArray) -> Any:
    with np.errstate(invalid="ignore"):  # infinite in both: no difference can be told
        values = two.values - one.values
    name, about = str(one.name), one.attrs
    words = change_words(name, str(about.get("long_name", name)))
    return one.dims, values, {"units": about.get("units", "1"), **words, "signed": 1}


def other_words(mine: xr.Dataset, theirs: xr.Dataset, dims: list[str]) -> dict[str, Any]:
    """Return what else the second says of the axes, where the first says something else.

    As coordinates, such as ``other.token``: (axes, values).
    """
    return {
        f"{OTHER}{name}": (values.dims, values.values)
        for name, values in theirs.coords.items()
        if name not in dims
        and values.ndim
        and set(values.dims) <= set(dims)
        and not (name in mine.coords and np.array_equal(mine[name].values, values.values))
    }
