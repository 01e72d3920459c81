"""An answer as strips of tokens: which of its arrays have a number for each token at each depth.

Any answer with an array of floats over layers and positions can be drawn as strips: a row for each
such array, of which the slider shows one depth. What else is known of a depth as a whole (a sum,
what a rule loses, a control) is said beside the rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from layerlens.errors import ResultError
from layerlens.result.axes import role_of
from layerlens.result.beside import CHANGE
from layerlens.result.layers import OTHER, ends_of
from layerlens.result.select import answer_names

if TYPE_CHECKING:
    import xarray as xr


class Strip(TypedDict):
    """Names of arrays and axes: `rows` lie over both axes, `beside` over the steps alone.

    A picture of one step begins at `start`; -1 for the last.
    """

    steps: str
    items: str
    rows: list[str]
    beside: list[str]
    start: int


def strip_of(data: xr.Dataset) -> Strip:
    """Return what the strips of an answer are made of.

    The axes are those of its first array of floats over layers and positions.

    Raises
    ------
    ResultError
        It has no such array.

    Examples
    --------
    >>> import numpy as np
    >>> import xarray as xr
    >>> dims = ("layer", "position")
    >>> found = {"share": (dims, np.ones((2, 3))), "sum": ("layer", np.ones(2))}
    >>> strip_of(xr.Dataset(found, {"layer": [0, 1]}))
    {'steps': 'layer', 'items': 'position', 'rows': ['share'], 'beside': ['sum'], 'start': -1}
    """
    names = answer_names(data)
    ends = {end for name in names for end in ends_of(data, name) or ()}
    numbers = [name for name in names if name not in ends and not data[name].attrs.get("is_token")]
    axes = {name: _axes(data, name) for name in numbers if data[name].dtype.kind == "f"}
    found = next((pair for pair in axes.values() if pair is not None), None)
    if found is None:
        raise ResultError(
            "A strip needs an array with a number for each token at each layer, and this answer "
            "has none: ll.GridView shows what it has."
        )
    steps, items = found
    rows = [name for name, pair in axes.items() if pair == found]
    return Strip(
        steps=steps,
        items=items,
        rows=rows,
        beside=[name for name in numbers if data[name].dims == (steps,)],
        start=0 if data[rows[0]].attrs.get("of_input") else -1,
    )


def tokens_of_row(data: xr.Dataset, strip: Strip, row: str) -> list[str]:
    """Return the token that each number of a row is of; of a difference of two, both.

    Without tokens their places.

    Examples
    --------
    >>> import numpy as np
    >>> import xarray as xr
    >>> numbers = ("layer", "position"), np.ones((1, 2))
    >>> texts = {"token": ("position", ["a", "b"]), "other.token": ("position", ["a", "c"])}
    >>> found = {"share": numbers, "other.share": numbers, "change_share": numbers}
    >>> data = xr.Dataset(found, {"layer": [0], **texts})
    >>> [tokens_of_row(data, strip_of(data), row) for row in found]
    [['a', 'b'], ['a', 'c'], ['a', 'b→c']]
    """
    items = strip["items"]
    named = [name for name in ("token", f"{OTHER}token")
             if name in data.coords and data[name].dims == (items,)]  # fmt: skip
    if not named:
        places = data[items].values if items in data.coords else range(data.sizes[items])
        return [str(place) for place in places]
    mine, theirs = (list(map(str, data[name].values.tolist())) for name in (named[0], named[-1]))
    if row.startswith(OTHER):
        return theirs
    both = zip(mine, theirs, strict=True)
    changes = row.startswith(CHANGE)
    return [f"{one}→{other}" if changes and one != other else one for one, other in both]


def _axes(data: xr.Dataset, name: str) -> tuple[str, str] | None:
    """Return the axes of layers and of positions of an array that has these and no other."""
    dims = {role_of(data, str(dim)): str(dim) for dim in data[name].dims}
    if data[name].ndim != 2 or dims.keys() != {"layer", "position"}:
        return None
    return dims["layer"], dims["position"]
