"""Panels side by side and below each other: which arrays share one, and how much room they take."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.figures.palette import Palette
from layerlens.figures.panels import Panel, draw_panel, names_height, write_panel_title
from layerlens.result.axes import is_named
from layerlens.result.layers import CHANCE, MOST_LINES, OTHER, Array

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

COLUMNS = 3
"""Panels side by side, at most, where it was not said."""

_CURVES = (2.35, 1.35)  # inches of a panel, without its labels
_CELLS = (2.35, 2.1)
_LEFT, _BETWEEN, _ABOVE, _UNDER = 0.5, 0.68, 0.42, 0.42


def drawn_as(data: xr.Dataset, array: Array) -> Array:
    """Return an array over two axes of its own as lines, where one of them has few entries.

    Lines run along an axis of numbers, one for each entry of the other; of things with names along
    the second, one for each of the first.
    """
    dims = array["dims"]
    if array["kind"] != "table" or len(dims) != 2:
        return array
    first, second = (is_named(data, dim) for dim in dims)
    each = dims[0] if first else dims[1]
    alike = data[dims[0]].values.tolist() == data[dims[1]].values.tolist()
    if not second or alike or data.sizes[each] > MOST_LINES:
        return array
    return {**array, "kind": "lines"}


def panels_of(arrays: Iterable[Array]) -> list[Panel]:
    """Put arrays into panels: curves of the same kind together, cells alone."""
    curves: dict[tuple[Any, ...], list[Array]] = {}
    arrays = list(arrays)
    known = {array["name"].removeprefix(OTHER) for array in arrays}
    for array in arrays:
        own = array["name"].removeprefix(OTHER)
        dims = tuple(dim.removeprefix(OTHER) for dim in array["dims"])
        if array["kind"] in ("matrix", "heads"):
            curves[array["name"],] = [array]
        elif array["kind"] in ("curve", "profile", "lines") and array["dtype"] == "float":
            # What ends in the same word is the same quantity of other parts: norms, ratios.
            stem = own.removesuffix(CHANCE) if _stem(own) not in known else _stem(own)
            last = stem.removesuffix("_mean").rpartition("_")[2]
            alone = own if len(dims) > 1 else last
            curves.setdefault((dims, array["units"], alone), []).append(array)
    order = list(curves)  # a second model's cells stand beside the first one's
    for key in [key for key in order if len(key) == 1 and key[0].startswith(OTHER)]:
        order.remove(key)
        beside = (key[0].removeprefix(OTHER),)
        order.insert(order.index(beside) + 1 if beside in order else len(order), key)
    return [Panel(curves[key]) for key in order]


def _stem(name: str) -> str:
    """Return what an array would be a control of, by its name."""
    return re.sub("^random_|_(chance|shuffled|random|baseline)$", "", name)


def has_values(panel: Panel, data: xr.Dataset) -> bool:
    """Return whether anything of a panel has a number."""
    return any(np.isfinite(data[array["name"]].values).any() for array in panel.arrays)


def rows_width(across: int) -> float:
    """Return the inches of so many panels side by side."""
    return _LEFT + across * (_CURVES[0] + _BETWEEN)


def rows_height(data: xr.Dataset, panels: Sequence[Panel], across: int) -> float:
    """Return the inches of all panels in rows of so many."""
    return sum(_ABOVE + tall + under for _, tall, under in _rows(data, panels, across))


def draw_rows(
    figure: Figure,
    data: xr.Dataset,
    panels: Sequence[Panel],
    top: float,
    *,
    across: int,
    colors: Palette,
    scale: str = "linear",
    layer: int | None = None,
    titled: bool = True,
) -> None:
    """Draw panels in rows, from `top` (inches from below) down."""
    width, height = figure.get_size_inches()
    y = top
    for row, tall, under in _rows(data, panels, across):
        y -= _ABOVE + tall
        for i, panel in enumerate(row):
            x = _LEFT + i * (_CURVES[0] + _BETWEEN)
            box = (x / width, y / height, _CURVES[0] / width, tall / height)
            axes = draw_panel(figure, box, panel, data, colors, scale, layer)
            if titled:
                write_panel_title(axes, panel, data, colors)
        y -= under


def _rows(
    data: xr.Dataset, panels: Sequence[Panel], across: int
) -> list[tuple[Sequence[Panel], float, float]]:
    """Return the panels of each row, how tall they are, and the room that is under them."""
    rows = [panels[i : i + across] for i in range(0, len(panels), across)]
    return [
        (
            row,
            max((_CELLS if panel.square else _CURVES)[1] for panel in row),
            _UNDER + max(names_height(data, panel) for panel in row),
        )
        for row in rows
    ]


def said_of_numbers(data: xr.Dataset, arrays: Iterable[Array]) -> str:
    """Return what has no axis, in words."""
    found = []
    for array in [one for one in arrays if one["kind"] == "scalar" and one["dtype"] == "float"]:
        units = "" if array["units"] in ("1", "") else f" {array['units']}"
        found.append(f"{array['long_name']} {float(data[array['name']].values):.4g}{units}")
    return "; ".join(found)
