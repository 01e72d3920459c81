"""An answer as a scatter: which of its arrays are coordinates, and what its marks are called.

Any answer can be drawn as a scatter. Its first two arrays of floats over the same axes are the
coordinates. The last of these axes are the marks, the one before it is what the slider goes
through (layers, or checkpoints), and one before that are pictures side by side. An integer array
called ``label_id`` over the marks (and the pictures) numbers the words of the coordinate ``label``;
without it marks that are layers are coloured by depth, and few marks by their own names. A
coordinate ``fitted`` says which marks the axes were fitted on, which are drawn as outlines where
others were not. The attribute ``equal_axes`` gives both axes one scale.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, TypedDict

from layerlens.errors import ResultError
from layerlens.result.select import answer_names

if TYPE_CHECKING:
    import xarray as xr

LABEL = "label_id"
_MOST_NAMED = 12


class Scatter(TypedDict):
    """Names of arrays and axes; `labels` are empty where marks have none.

    `colors` says what colours are: ``label`` by `label_id`, ``own`` one each, ``depth`` along a
    ramp, ``one`` the same for all. `fitted` is empty where it makes no difference.
    """

    x: str
    y: str
    steps: str
    items: str
    pictures: str
    colors: str
    labels: list[str]
    words: list[str]
    fitted: list[int]
    equal: bool


def coordinates_of(data: xr.Dataset) -> tuple[str, str]:
    """Return the names of the arrays that are coordinates.

    Raises
    ------
    ResultError
        No two arrays of floats have the same two or three axes.
    """
    floats = [name for name in answer_names(data)
              if data[name].dtype.kind == "f" and 2 <= data[name].ndim <= 3]  # fmt: skip
    for x, y in combinations(floats, 2):
        if data[x].dims == data[y].dims:
            return x, y
    raise ResultError(
        "A scatter needs two arrays over the same axes, of which the last are the marks and the "
        "one before it the steps of its slider."
    )


def scatter_of(data: xr.Dataset) -> Scatter:
    """Return what the scatter of an answer is made of.

    Raises
    ------
    ResultError
        It has no coordinates.

    Examples
    --------
    >>> import numpy as np
    >>> import xarray as xr
    >>> dims = ("checkpoint", "layer")
    >>> plane = xr.Dataset({"i_xt": (dims, np.ones((2, 3))), "i_ty": (dims, np.ones((2, 3)))})
    >>> found = scatter_of(plane)
    >>> found["steps"], found["items"], found["colors"]
    ('checkpoint', 'layer', 'depth')
    """
    x, y = coordinates_of(data)
    *pictures, steps, items = map(str, data[x].dims)
    words = _words(data, items)
    colors = _colors(data, items)
    labels = {"label": lambda: [str(one) for one in data["label"].values.tolist()],
              "own": lambda: words}.get(colors, list)()  # fmt: skip
    fitted = data["fitted"].values.astype(int).tolist() if "fitted" in data.coords else []
    return Scatter(
        x=x, y=y, steps=steps, items=items, pictures=pictures[0] if pictures else "",
        colors=colors, labels=labels, words=words, fitted=fitted if len(set(fitted)) > 1 else [],
        equal=bool(data.attrs.get("equal_axes")),
    )  # fmt: skip


def _words(data: xr.Dataset, items: str) -> list[str]:
    for name in ("words", items):
        if name in data.coords and data[name].dims == (items,):
            return [str(one) for one in data[name].values.tolist()]
    return [str(index) for index in range(data.sizes[items])]


def _colors(data: xr.Dataset, items: str) -> str:
    if LABEL in data:
        return "label"
    if items in ("layer", "point") or f"{items}_layer" in data.coords:
        return "depth"
    return "own" if data.sizes[items] <= _MOST_NAMED else "one"
