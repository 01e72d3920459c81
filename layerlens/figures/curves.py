"""Quantities over layers as lines, with their intervals as bands."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.errors import ResultError
from layerlens.figures.canvas import (
    FONT,
    broken_title,
    checks_line,
    new_figure,
    notes_height,
    title_height,
    wrapped,
    write_notes,
    write_title,
)
from layerlens.figures.fonts import drawable, families
from layerlens.figures.intervals import MARKERS, draw_interval
from layerlens.figures.names import axis_words, capital
from layerlens.figures.palette import Palette, palette
from layerlens.figures.places import places_of
from layerlens.figures.slices import cut, labels_of, main_variable, words_of
from layerlens.result.axes import is_named

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
_MOST_LINES = 12
_LABEL = 0.13  # inches that a label takes of the axis
_LETTER = 0.045  # inches that a letter takes of an upright one
_SHORT = 4  # letters that always have room
_Y_CHARACTERS = 34
_LEGEND_CHARACTERS = 20
_TALL = 1.95  # inches of the upright axis, where names of lines take no more


@dataclass(frozen=True)
class Line:
    """One line: its values over the x axis, and the interval around them where there is one."""

    label: str
    values: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


def curves_figure(
    data: xr.Dataset,
    *,
    variable: str | None = None,
    variables: str | Sequence[str] | None = None,
    at: Mapping[str, Any] | None = None,
    scale: str = "linear",
    theme: str = "light",
    title: str | None = None,
) -> Figure:
    """Draw variables over the layers (or over their first axis), a line each.

    Lines differ in colour and in dashes. Where a result has ``<name>_low`` and ``<name>_high``,
    the interval is a band. A variable with one more axis gets a line for each entry of it.

    Parameters
    ----------
    data : xarray.Dataset
        The data of one text.
    variable, variables : str or sequence of str, optional
        One, or several of the same unit. By default the first one.
    at : mapping, optional
        Where to cut other axes, by label; by default where the largest number is.
    scale : {"linear", "log"}
        Scale of the upright axis.
    theme : {"light", "dark", "auto"}
        ``auto`` is light.
    title : str, optional
        Instead of the quantity and the model.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ResultError
        An option is unknown, or there is nothing to draw.
    """
    if scale not in ("linear", "log"):
        raise ResultError(f"There is no scale '{scale}'; choose linear or log.")
    colors = palette(theme)
    names = _names(data, variables if variable is None else variable)
    axis = _axis(data[names[0]])
    lines, where = _lines(data, names, axis, at)
    points = labels_of(data, axis)
    model = str(data.attrs.get("model", ""))
    units = {str(data[name].attrs.get("units", "1")) for name in names}
    if len(units) > 1:
        raise ResultError(f"{', '.join(names)} have no common unit; draw them one by one.")
    long = [str(data[name].attrs.get("long_name", name)) for name in names]
    head = capital(" and ".join(dict.fromkeys(long)))
    width = min(max(4.5, 2.0 + 0.16 * len(points)), 14.0)
    under = [str(data.attrs.get("direction", "")), model] if title is None else []
    above = broken_title(head if title is None else title, width)
    below = wrapped([", ".join(word for word in under if word)], width)
    notes = [note for note in (where, checks_line(data)) if note]
    bottom = 0.6 + _upright(points) + notes_height(notes, width)
    tall = max(_TALL, _names_height(lines))
    height = bottom + 0.55 + tall + title_height(above, below)
    figure = new_figure((width, height), colors)
    place = (0.75 / width, bottom / height, 1 - 2.3 / width, tall / height)
    axes = figure.add_axes(place, facecolor=colors.page)
    spread = _spread(data[names[0]], axis, at)
    at_x = places_of(data, axis)
    _draw(axes, lines, at_x, colors, scale, axis_words(data, spread) if spread else None,
          joined=not is_named(data, axis))  # fmt: skip
    words = words_of(data[names[0]]) if len(names) == 1 else ", ".join(units - {"1"})
    _dress(axes, points, at_x, axis_words(data, axis), words, colors)
    write_title(figure, above, colors, below)
    write_notes(figure, notes, colors)
    return figure


def _names(data: xr.Dataset, variables: str | Sequence[str] | None) -> list[str]:
    if variables is not None:
        given = [variables] if isinstance(variables, str) else list(variables)
        if not given:
            raise ResultError("variables= is empty; name at least one.")
        return [main_variable(data, 1, name) for name in given]
    return [main_variable(data, 1)]


def _axis(array: xr.DataArray) -> str:
    depths = [str(dim) for dim in array.dims if dim in ("layer", "point")]
    return depths[0] if depths else str(array.dims[0])


def _lines(
    data: xr.Dataset, names: list[str], axis: str, at: Mapping[str, Any] | None
) -> tuple[list[Line], str]:
    lines: list[Line] = []
    where = ""
    for name in names:
        array = data[name]
        if axis not in array.dims:
            raise ResultError(f"'{name}' has no axis {axis}; it cannot stand beside '{names[0]}'.")
        spread = _spread(array, axis, at)
        axes = (axis,) if spread is None else (spread, axis)
        shown, where = cut(array, axes, at)
        low, high = (_companion(data, name, end, axes, at) for end in ("_low", "_high"))
        label = str(array.attrs.get("long_name", name))
        if spread is None:
            lines.append(Line(label, shown.values, low, high))
            continue
        for i, entry in enumerate(labels_of(data, spread)):
            words = entry if len(names) == 1 else f"{label}, {spread} {entry}"
            parts = [None if band is None else band[i] for band in (low, high)]
            lines.append(Line(words, shown.values[i], *parts))
    return lines, f"drawn at {where}" if where else ""


def _spread(array: xr.DataArray, axis: str, at: Mapping[str, Any] | None) -> str | None:
    """Return the axis whose entries become lines: the last one that is short enough."""
    others = [str(dim) for dim in array.dims if dim != axis and str(dim) not in (at or {})]
    short = [dim for dim in others if array.sizes[dim] <= _MOST_LINES]
    return short[-1] if short else None


def _companion(
    data: xr.Dataset, name: str, end: str, axes: Sequence[str], at: Mapping[str, Any] | None
) -> np.ndarray | None:
    found = name.removesuffix("_mean") + end
    if found not in data.data_vars or set(axes) - set(map(str, data[found].dims)):
        return None
    values: np.ndarray = cut(data[found], axes, at)[0].values
    return values


def _draw(
    axes: Axes,
    lines: list[Line],
    x: np.ndarray,
    colors: Palette,
    scale: str,
    spread: str | None,
    *,
    joined: bool,
) -> None:
    for i, line in enumerate(lines):
        color = colors.lines[i % len(colors.lines)]
        if line.low is not None and line.high is not None:
            draw_interval(axes, x, line.low, line.high, color, joined=joined)
        dash = _DASHES[(i + i // len(colors.lines)) % len(_DASHES)]
        axes.plot(
            x,
            line.values,
            color=color,
            linestyle=dash if joined else "",
            linewidth=1.6,
            marker="o" if joined else MARKERS[i % len(MARKERS)],
            markersize=2.5 if joined else 4.5,
            label=_name(line),
        )
    axes.set_yscale(scale)
    finite = np.concatenate([line.values[np.isfinite(line.values)] for line in lines] or [[0.0]])
    if scale == "linear" and finite.size and finite.min() < 0 < finite.max():
        axes.axhline(0, color=colors.faint, linewidth=0.6, zorder=0)
    if len(lines) > 1:
        font = {"family": list(families()), "size": FONT}
        legend = axes.legend(
            loc="upper left",
            bbox_to_anchor=(1.0, 1.0),
            frameon=False,
            labelcolor=colors.ink,
            prop=font,
            title=spread,
            title_fontproperties=font,
            alignment="left",
        )
        legend.get_title().set_color(colors.faint)
        for label in legend.get_texts():
            label.set_parse_math(False)


def _name(line: Line) -> str:
    return textwrap.fill(drawable(line.label).replace("␣", " "), _LEGEND_CHARACTERS)


def _names_height(lines: Sequence[Line]) -> float:
    """Return the inches that the names of lines take, one below the other under their title."""
    rows = 1 + sum(1 + _name(line).count("\n") for line in lines)
    return FONT / 72 * (1.3 * rows + 0.5 * len(lines) + 1)


def _dress(
    axes: Axes, points: list[str], places: np.ndarray, axis: str, words: str, colors: Palette
) -> None:
    at = _labelled(places, axes.get_window_extent().width / axes.figure.dpi)
    style: dict[str, Any] = {"fontsize": FONT, "family": list(families()), "color": colors.ink}
    rotation = 90 if max(map(len, points), default=0) > 2 else 0
    for label in axes.set_xticks(places[at], [points[i] for i in at], rotation=rotation, **style):
        label.label1.set_parse_math(False)
    axes.set_xlabel(axis, **style)
    axes.set_ylabel(textwrap.fill(words, _Y_CHARACTERS), parse_math=False, **style)
    axes.tick_params(labelsize=FONT - 0.5, colors=colors.ink, length=2)
    axes.grid(axis="y", color=colors.faint, alpha=0.25, linewidth=0.5)
    for name, side in axes.spines.items():
        side.set_visible(name in ("left", "bottom"))
        side.set_color(colors.faint)


def _upright(points: list[str]) -> float:
    """Return the inches that labels need which are longer than the room there is for any."""
    return max(0.0, _LETTER * (max(map(len, points), default=0) - _SHORT))


def _labelled(places: np.ndarray, inches: float) -> list[int]:
    """Return which places are named: the last, and before it those whose labels do not touch."""
    apart = (places[-1] - places[0]) * _LABEL / inches
    named: list[int] = []
    for i in range(len(places) - 1, -1, -1):
        if not named or places[named[-1]] - places[i] >= apart:
            named.append(i)
    return named[::-1]
