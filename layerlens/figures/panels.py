"""One small picture of measured layers: some curves, a matrix with its groups, a grid of heads."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from layerlens.figures.canvas import FONT
from layerlens.figures.fonts import drawable, families
from layerlens.figures.palette import Palette, color_map
from layerlens.figures.slices import labels_of
from layerlens.result.layers import OTHER, Array, ends_of, groups_of, numbers_of

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DASHED = (0, (4, 1.5))
SLIGHT = 0.1
"""Negative numbers below this share of the largest one get no colour of their own."""
_WIDTH = 40  # characters of a panel's title


@dataclass(frozen=True)
class Panel:
    """What one panel shows: arrays over the same axis, or one with two axes."""

    arrays: list[Array]

    @property
    def square(self) -> bool:
        """Whether it is drawn as cells."""
        return self.arrays[0]["kind"] in ("matrix", "heads")


def draw_panel(
    figure: Figure,
    box: tuple[float, float, float, float],
    panel: Panel,
    data: xr.Dataset,
    colors: Palette,
    scale: str,
    layer: int | None = None,
) -> Axes:
    """Draw a panel into a box of the figure (left, bottom, width, height, as fractions).

    A `layer` is marked by an upright line in curves over layers.
    """
    axes = figure.add_axes(box, facecolor=colors.page)
    if panel.square:
        _cells(figure, axes, panel.arrays[0], data, colors)
    else:
        _curves(axes, panel.arrays, data, colors, scale)
        if layer is not None and panel.arrays[0]["kind"] != "profile":
            axes.axvline(layer, color=colors.base, linewidth=0.8, alpha=0.7, gid="layer")
    title = textwrap.shorten(_title(panel, data), 2 * _WIDTH, placeholder=" …")
    axes.set_title(
        textwrap.fill(title, _WIDTH),
        fontsize=FONT + 0.5,
        family=list(families()),
        color=colors.ink,
        parse_math=False,
        loc="left",
        pad=4,
    )
    axes.tick_params(labelsize=FONT - 1, colors=colors.ink, length=2)
    return axes


def _title(panel: Panel, data: xr.Dataset) -> str:
    first = panel.arrays[0]
    words = first["long_name"]
    names = {array["name"].removeprefix(OTHER) for array in panel.arrays}
    if len(names) > 1:
        words = ", ".join(dict.fromkeys(n for n in _names(panel) if n))
    if first["other"]:
        words = f"{words}: {data.attrs.get('other_label', 'other')}"
    units = "" if first["units"] in ("1", "") else f" ({first['units']})"
    return drawable(words).replace("␣", " ") + units


def _names(panel: Panel) -> list[str]:
    return [array["name"].removeprefix(OTHER) for array in panel.arrays]


def _curves(axes: Axes, arrays: list[Array], data: xr.Dataset, colors: Palette, scale: str) -> None:
    hues: dict[str, str] = {}
    drawn = 0
    for array in arrays:
        name, dims = array["name"], array["dims"]
        x = _places(data, dims[0])
        values = np.asarray(data[name].values, dtype=np.float64).reshape(len(x), -1)
        for i in range(values.shape[1]):
            key = f"{name.removeprefix(OTHER)} {i}"
            hue = hues.setdefault(key, colors.lines[len(hues) % len(colors.lines)])
            label = name.removeprefix(OTHER)
            if len(dims) > 1:
                label = f"{dims[1].removeprefix(OTHER)} {labels_of(data, dims[1])[i]}"
            if array["other"]:
                label = f"{label}, {data.attrs.get('other_label', 'other')}"
            _line(axes, x, values[:, i], _band(data, array, i), hue, label, other=array["other"])
            drawn += 1
    axes.set_yscale(scale)
    axes.set_xlabel(_axis_name(arrays[0]["dims"][0]), **_font(colors), labelpad=2)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    axes.grid(axis="y", color=colors.faint, alpha=0.25, linewidth=0.5)
    low, high = axes.get_ylim()
    if scale == "linear" and low < 0 < high:
        axes.axhline(0, color=colors.faint, linewidth=0.6, zorder=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(colors.faint)
    if drawn > 1:
        legend = axes.legend(
            loc="best", frameon=False, labelcolor=colors.ink, handlelength=2.2,
            borderpad=0.2, labelspacing=0.25,
            prop={"family": list(families()), "size": FONT - 1.5},
        )  # fmt: skip
        for text in legend.get_texts():
            text.set_parse_math(False)


def _line(
    axes: Axes,
    x: np.ndarray,
    values: np.ndarray,
    band: tuple[np.ndarray, np.ndarray] | None,
    hue: str,
    label: str,
    *,
    other: bool,
) -> None:
    if band is not None:
        axes.fill_between(x, *band, color=hue, alpha=0.1 if other else 0.18, linewidth=0)
    axes.plot(
        x,
        values,
        color=hue,
        linestyle=_DASHED if other else "-",
        linewidth=1.1 if other else 1.3,
        marker="" if other else "o",
        markersize=1.8,
        label=drawable(label).replace("␣", " "),
        gid="other" if other else "curve",
    )


def _band(data: xr.Dataset, array: Array, i: int) -> tuple[np.ndarray, np.ndarray] | None:
    ends = ends_of(data, array["name"])
    if ends is None:
        return None
    low, high = (np.asarray(data[end].values, dtype=np.float64) for end in ends)
    low, high = low.reshape(len(low), -1)[:, i], high.reshape(len(high), -1)[:, i]
    return (low, high) if np.isfinite(low).any() else None


def _places(data: xr.Dataset, dim: str) -> np.ndarray:
    """Where entries of an axis lie: at their layer, a state at the block that it comes after."""
    size = data.sizes[dim]
    values = data[dim].values.tolist() if dim in data.coords else list(range(size))
    numbers = numbers_of(dim, size, values)
    if numbers is None:
        own = np.asarray(values)
        numbers = own.tolist() if own.dtype.kind in "iuf" else list(range(size))
    return np.asarray(numbers, dtype=np.float64)


def _cells(figure: Figure, axes: Axes, array: Array, data: xr.Dataset, colors: Palette) -> None:
    values = np.asarray(data[array["name"]].values, dtype=np.float64)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    signed = -low > SLIGHT * high  # an estimate of something positive may lie a little below 0
    limit = max(abs(low), abs(high)) or 1.0
    norm = Normalize(-limit, limit) if signed else Normalize(0.0, high or 1.0)
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(values),
        cmap=color_map("signed" if signed else "base", colors),
        norm=norm,
        rasterized=True,
    )
    if array["kind"] == "matrix":
        axes.set_aspect("equal", anchor="W")
        for first, last in groups_of(data, array["name"]):
            size = last - first + 1
            outline = Rectangle(
                (first, first), size, size, fill=False, edgecolor=colors.tracked, linewidth=1.0,
                gid="group",
            )  # fmt: skip
            axes.add_patch(outline)
    _name_axes(axes, array, data, colors)
    bar = figure.colorbar(mesh, ax=axes, fraction=0.05, pad=0.03, aspect=25)
    bar.outline.set_edgecolor(colors.faint)
    bar.ax.tick_params(labelsize=FONT - 1.5, colors=colors.ink, length=2)


def _name_axes(axes: Axes, array: Array, data: xr.Dataset, colors: Palette) -> None:
    for dim, axis in zip(array["dims"], (axes.yaxis, axes.xaxis), strict=True):
        places = _places(data, dim)
        step = max(1, -(-len(places) // 8))
        at = np.arange(0, len(places), step)
        labels = ["embed" if places[i] < 0 else f"{places[i]:g}" for i in at]
        axis.set_ticks(at + 0.5, labels)
        words = "after layer" if "point" in dim else _axis_name(dim)
        axis.set_label_text(words, **_font(colors))
        axis.labelpad = 2
    for spine in axes.spines.values():
        spine.set_color(colors.faint)
        spine.set_linewidth(0.5)


def _axis_name(dim: str) -> str:
    own = dim.removeprefix(OTHER).removesuffix("_other")
    return {"point": "after layer (−1: embedding)"}.get(own, own.replace("_", " "))


def _font(colors: Palette) -> dict[str, Any]:
    return {"fontsize": FONT - 0.5, "family": list(families()), "color": colors.ink}
