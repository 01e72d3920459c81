"""Quantities by layer as one figure: a small picture for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from layerlens.errors import ResultError
from layerlens.figures.canvas import (
    broken_title,
    checks_line,
    new_figure,
    notes_height,
    title_height,
    wrapped,
    write_notes,
    write_title,
)
from layerlens.figures.palette import palette
from layerlens.figures.panel_rows import (
    COLUMNS,
    draw_rows,
    drawn_as,
    has_values,
    panels_of,
    rows_height,
    rows_width,
    said_of_numbers,
)
from layerlens.figures.panels import Panel, is_list, title_of
from layerlens.result.layers import CHANCE, OTHER, Array, arrays_of, metrics_in

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

FEW = 3
"""Up to so many metrics are drawn with all their arrays, more with their first one each."""

_TITLE_CHARACTER = 0.085  # inches, on average


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
    arrays = [drawn_as(data, a) for a in _chosen(data, variable) if a["name"] not in hidden]
    whole = variable is None and not hidden
    found = panels_of(arrays)
    every = [panel for panel in found if not is_list(data, panel)] or found
    panels = [panel for panel in every if has_values(panel, data)] or every
    empty = [title_of(panel, data) for panel in every if panel not in panels]
    if not panels:
        raise ResultError("There is nothing over layers to draw; look at .data or .to_pandas().")
    across = max(1, min(columns or COLUMNS, len(panels)))
    width = max(rows_width(across), 4.5)
    one = "variables" in data.attrs or not any(a["name"].endswith("_mean") for a in arrays)
    said = f"without any value: {', '.join(empty)}" if empty else ""
    checked = checks_line(data, _belongs(data, arrays))
    notes = [n for n in (said_of_numbers(data, arrays) if one else "", said, checked) if n]
    under = wrapped([_subtitle(data)], width) if title is None else []
    heading = title or _heading(data, panels, width, whole=whole)
    words = broken_title(heading, width)
    top = 0.42 + title_height(words, under)
    height = notes_height(notes, width) + rows_height(data, panels, across) + top
    figure = new_figure((width, height), colors)
    titled = len(panels) > 1 or bool(title)
    draw_rows(figure, data, panels, height - top, across=across, colors=colors, scale=scale,
              layer=layer, titled=titled)  # fmt: skip
    write_title(figure, words, colors, under)
    write_notes(figure, notes, colors)
    return figure


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
