"""Quantities by layer as one figure: a small picture for each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.errors import ResultError
from layerlens.figures.canvas import (
    checks_line,
    new_figure,
    notes_height,
    wrapped,
    write_notes,
    write_title,
)
from layerlens.figures.palette import palette
from layerlens.figures.panels import (
    Panel,
    draw_panel,
    is_list,
    names_height,
    title_of,
    write_panel_title,
)
from layerlens.result.axes import is_named
from layerlens.result.layers import CHANCE, MOST_LINES, OTHER, Array, arrays_of, metrics_in

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

FEW = 3
"""Up to so many metrics are drawn with all their arrays, more with their first one each."""

_COLUMNS = 3
_CURVES = (2.35, 1.35)  # inches of a panel, without its labels
_CELLS = (2.35, 2.1)
_TITLE_CHARACTER = 0.085  # inches, on average
_LEFT, _BETWEEN, _ABOVE, _UNDER = 0.5, 0.68, 0.42, 0.42


def metrics_figure(
    data: xr.Dataset,
    *,
    variable: str | Sequence[str] | None = None,
    scale: str = "linear",
    columns: int | None = None,
    hidden: Sequence[str] = (),
    layer: int | None = None,
    theme: str = "light",
    title: str | None = None,
) -> Figure:
    """Draw measured layers as small multiples.

    Quantities of the same kind and unit share a panel (the norms, the ratios, the cosines); the
    band is the 95 % interval over texts. A second model is dashed. In matrices the groups of
    layers that are alike are outlined.

    Parameters
    ----------
    data : xarray.Dataset
        Of ``ll.layer_metrics``, or of an analysis with the same axes.
    variable : str or sequence of str, optional
        Metrics (with all that they give) or arrays. By default all metrics; with more than three
        of them only the first array of each.
    scale : {"linear", "log"}
        Scale of curves.
    columns : int, optional
        Panels side by side, by default up to three.
    hidden : sequence of str
        Arrays that are left out.
    layer : int, optional
        A layer to mark in every curve.
    theme : {"light", "dark", "auto"}
        ``auto`` is light.
    title : str, optional
        Instead of the model's name.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ResultError
        An option is unknown, or there is nothing to draw.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> found = ll.layer_metrics(model, ["cat dog owl", "owl fox bee"], ["cka", "residual_norm"])
    >>> found.figure("cka")
    <Picture size ... with 2 Axes>
    """
    if scale not in ("linear", "log"):
        raise ResultError(f"There is no scale '{scale}'; choose linear or log.")
    colors = palette(theme)
    arrays = [_beside(data, a) for a in _chosen(data, variable) if a["name"] not in hidden]
    whole = variable is None and not hidden
    found = panels_of(arrays)
    every = [panel for panel in found if not is_list(data, panel)] or found
    panels = [panel for panel in every if _has_values(panel, data)] or every
    empty = [title_of(panel, data) for panel in every if panel not in panels]
    scalars = [a for a in arrays if a["kind"] == "scalar" and a["dtype"] == "float"]
    if not panels:
        raise ResultError("There is nothing over layers to draw; look at .data or .to_pandas().")
    across = max(1, min(columns or _COLUMNS, len(panels)))
    rows = [panels[i : i + across] for i in range(0, len(panels), across)]
    tall = [max(_size(panel)[1] for panel in row) for row in rows]
    width = max(_LEFT + across * (_CURVES[0] + _BETWEEN), 4.5)
    one = "variables" in data.attrs or not any(a["name"].endswith("_mean") for a in arrays)
    said = f"without any value: {', '.join(empty)}" if empty else ""
    checked = checks_line(data, _belongs(data, arrays))
    notes = [n for n in (_said(data, scalars) if one else "", said, checked) if n]
    under = wrapped([_subtitle(data)], width) if title is None else []
    bottom = notes_height(notes, width)
    top = 0.42 + 0.14 * len(under)
    below = [_UNDER + max(names_height(data, panel) for panel in row) for row in rows]
    height = bottom + sum(tall) + len(rows) * _ABOVE + sum(below) + top
    figure = new_figure((width, height), colors)
    y = height - top
    for row, room, names in zip(rows, tall, below, strict=True):
        y -= _ABOVE + room
        for i, panel in enumerate(row):
            x = _LEFT + i * (_CURVES[0] + _BETWEEN)
            box = (x / width, y / height, _CURVES[0] / width, room / height)
            axes = draw_panel(figure, box, panel, data, colors, scale, layer)
            if len(panels) > 1 or title:
                write_panel_title(axes, panel, data, colors)
        y -= names
    write_title(figure, title or _heading(data, panels, width, whole=whole), colors, under)
    write_notes(figure, notes, colors)
    return figure


def _size(panel: Panel) -> tuple[float, float]:
    return _CELLS if panel.square else _CURVES


def _chosen(data: xr.Dataset, variable: str | Sequence[str] | None) -> list[Array]:
    """Return the arrays to draw, in their order."""
    arrays = arrays_of(data)
    metrics = metrics_in(data)
    if variable is None:
        first = {a["metric"]: (a["metric"], a["metric"] + CHANCE) for a in arrays}
        main = [a for a in arrays if a["name"].removeprefix(OTHER) in first[a["metric"]]]
        return main if len(metrics) > FEW else arrays
    names = [variable] if isinstance(variable, str) else list(variable)
    for name in names:
        if name not in metrics and not any(name == a["name"] for a in arrays):
            known = ", ".join(dict.fromkeys([*metrics, *(a["name"] for a in arrays)]))
            raise ResultError(f"There is no '{name}' here; choose one of {known}.")
    return [
        array
        for array in arrays
        if array["metric"] in names
        or array["name"] in names
        or array["name"].removeprefix(OTHER) in names
    ]


def _beside(data: xr.Dataset, array: Array) -> Array:
    """Return an array over two axes of things: the entries of the second, for each of the first."""
    dims = array["dims"]
    things = len(dims) == 2 and all(is_named(data, dim) for dim in dims)
    if array["kind"] != "table" or not things or data.sizes[dims[0]] > MOST_LINES:
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


def _has_values(panel: Panel, data: xr.Dataset) -> bool:
    return any(np.isfinite(data[array["name"]].values).any() for array in panel.arrays)


def _belongs(data: xr.Dataset, arrays: list[Array]) -> Callable[[str], bool]:
    """Whether a check is about what is drawn: one of a metric begins with its name."""
    drawn, every = {array["metric"] for array in arrays}, metrics_in(data)

    def belongs(check: str) -> bool:
        metric, colon, _ = check.partition(": ")
        return not colon or metric not in every or metric in drawn

    return belongs


def _heading(data: xr.Dataset, panels: list[Panel], width: float, *, whole: bool) -> str:
    """Return what is drawn: panels by their names, an analysis as a whole by its question."""
    question = str(data.attrs.get("question", ""))
    if whole and question and not metrics_in(data):
        return question
    words = ", ".join(title_of(panel, data) for panel in panels)
    fits = len(words) * _TITLE_CHARACTER < width
    return words if fits else f"{len(panels)} measures of each layer"


def _subtitle(data: xr.Dataset) -> str:
    attrs = data.attrs
    texts, tokens = int(attrs.get("texts", 0)), attrs.get("tokens_counted")
    parts = [str(attrs.get("model", "")), str(attrs.get("direction", ""))]
    if "other_label" in attrs:
        parts.append(f"dashed: {attrs['other_label']}")
    if texts:
        parts.append(f"{texts:,} text{'s' * (texts != 1)}")
    if tokens is not None and np.isfinite(float(tokens)):
        parts.append(f"{int(tokens):,} tokens")
    return ", ".join(part for part in parts if part)


def _said(data: xr.Dataset, scalars: list[Array]) -> str:
    """Return what has no axis, in words."""
    found = []
    for array in scalars:
        units = "" if array["units"] in ("1", "") else f" {array['units']}"
        found.append(f"{array['long_name']} {float(data[array['name']].values):.4g}{units}")
    return "; ".join(found)
