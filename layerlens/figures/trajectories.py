"""How the probability of chosen tokens grows from point to point at one position."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.errors import ResultError
from layerlens.figures.canvas import (
    FONT,
    checks_line,
    new_figure,
    notes_height,
    write_notes,
    write_title,
)
from layerlens.figures.fonts import drawable, families
from layerlens.figures.palette import Palette, palette

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))


def trajectories_figure(
    data: xr.Dataset,
    *,
    position: int = -1,
    scale: str = "linear",
    theme: str = "light",
    title: str | None = None,
) -> Figure:
    """Draw the tracked tokens of a lens, a line each, over the points.

    Parameters
    ----------
    data : xarray.Dataset
        The data of a lens of one text, with the axis ``tracked``.
    position : int
        Which position; negative from the end.
    scale : {"linear", "log"}
        Scale of the probability axis.
    theme : {"light", "dark", "auto"}
        ``auto`` is light.
    title : str, optional
        Instead of what is drawn, in words.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ResultError
        No token was tracked, there is no such position, or an option is unknown.
    """
    if not data.sizes.get("tracked", 0) or "tracked_probability" not in data.data_vars:
        raise ResultError(
            "This result tracks no tokens; name some when the analysis runs, then draw it again."
        )
    if scale not in ("linear", "log"):
        raise ResultError(f"There is no scale '{scale}'; choose linear or log.")
    count = data.sizes["position"]
    if not -count <= position < count:
        raise ResultError(f"There is no position {position}; this text has {count} tokens.")
    colors = palette(theme)
    points = [str(label) for label in data["point"].values]
    notes = [note for note in [checks_line(data)] if note]
    width = min(max(4.5, 1.8 + 0.16 * len(points)), 14.0)
    bottom = 0.6 + notes_height(notes, width)
    height = bottom + 2.4
    figure = new_figure((width, height), colors)
    place = (0.6 / width, bottom / height, 1 - 1.8 / width, 1.95 / height)
    axes = figure.add_axes(place, facecolor=colors.page)
    _lines(axes, data.isel(position=position), colors, scale)
    _axes(axes, points, colors)
    at = position % count
    token = str(data["token"].values[at]) if "token" in data.variables else ""
    where = f"position {data['position'].values[at]} ({drawable(token)})"
    words = f"After {where}, {data.attrs.get('model', '')}"
    write_title(figure, words if title is None else title, colors)
    write_notes(figure, notes, colors)
    return figure


def _lines(axes: Axes, data: xr.Dataset, colors: Palette, scale: str) -> None:
    values = data["tracked_probability"].transpose("tracked", "point").values
    texts = [str(text) for text in data["tracked_token"].values]
    for i, (line, text) in enumerate(zip(values, texts, strict=True)):
        axes.plot(
            np.arange(line.size),
            line,
            color=colors.lines[i % len(colors.lines)],
            linestyle=_DASHES[i // len(colors.lines) % len(_DASHES)],
            linewidth=1.6,
            marker="o",
            markersize=2.5,
            label=drawable(text),
        )
    axes.set_yscale(scale)
    if scale == "linear":
        axes.set_ylim(-0.02, 1.02)
    legend = axes.legend(
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        frameon=False,
        labelcolor=colors.ink,
        prop={"family": list(families()), "size": FONT},
    )
    for label in legend.get_texts():
        label.set_parse_math(False)


def _axes(axes: Axes, points: list[str], colors: Palette) -> None:
    step = max(1, -(-len(points) // 60))
    at = np.arange(len(points) - 1, -1, -step)
    axes.set_xticks(at, [points[i] for i in at], rotation=90)
    axes.set_ylabel("probability", fontsize=FONT, color=colors.ink)
    axes.tick_params(labelsize=FONT - 0.5, colors=colors.ink, length=2)
    axes.grid(axis="y", color=colors.faint, alpha=0.25, linewidth=0.5)
    for name, side in axes.spines.items():
        side.set_visible(name in ("left", "bottom"))
        side.set_color(colors.faint)
