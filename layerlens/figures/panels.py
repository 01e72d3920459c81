"""One small picture of measured layers: some curves, a matrix with its groups, a grid of heads."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from layerlens.figures.canvas import FONT
from layerlens.figures.fonts import drawable, families
from layerlens.figures.intervals import MARKERS, draw_interval
from layerlens.figures.layout import fitted
from layerlens.figures.legends import name_curves
from layerlens.figures.names import apart, axis_words, behind, capital
from layerlens.figures.palette import Palette, color_map
from layerlens.figures.past import extends, mark_past
from layerlens.figures.places import places_of, spots
from layerlens.figures.scale import range_scale
from layerlens.figures.slices import labels_of
from layerlens.result.axes import is_named, role_of
from layerlens.result.layers import (
    CHANCE,
    OTHER,
    RUN,
    Array,
    along_of,
    ends_of,
    groups_of,
    numbers_of,
)

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_DASHED = (0, (4, 1.5))
_DOTTED = (0, (1, 1.2))
_BAR = (0.07, 0.07)  # inches: between cells and their colour bar, and its width
_AROUND = [withStroke(linewidth=2.2, foreground="black")]
_WIDTH = 40  # characters of a panel's title
_APART = 0.07  # of the axis, between the names of two moments
_TICK = 14  # characters of a line of a name along an axis
_LETTER = 0.055  # inches that a letter takes of an upright name
_SHORT = 3  # of a name that needs not stand upright
_NAMED = 5  # entries of an axis that are all named
_HEAD = 3  # letters before the colon of a name, which then stand for it: "12: cat dog"
_TICKS = 10  # of these are written along an axis
_MOST_NAMED = 12  # more with names of their own are read in a table, not drawn


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
    axes.tick_params(labelsize=FONT - 1, colors=colors.ink, length=2)
    if panel.square:
        _cells(figure, axes, panel.arrays[0], data, colors)
    else:
        _curves(axes, panel, data, colors, scale)
        if layer is not None and panel.arrays[0]["kind"] != "profile":
            axes.axvline(layer, color=colors.base, linewidth=0.8, alpha=0.7, gid="layer")
    return axes


def write_panel_title(axes: Axes, panel: Panel, data: xr.Dataset, colors: Palette) -> None:
    """Write over a panel what it shows."""
    title = textwrap.shorten(title_of(panel, data), 2 * _WIDTH, placeholder=" …")
    axes.set_title(
        textwrap.fill(title, _WIDTH),
        fontsize=FONT + 0.5,
        family=list(families()),
        color=colors.ink,
        parse_math=False,
        loc="left",
        pad=4,
    )


def title_of(panel: Panel, data: xr.Dataset) -> str:
    """Return what a panel shows, with its unit."""
    words, _ = _words(panel)
    first = panel.arrays[0]
    if first["other"]:
        words = f"{words}: {data.attrs.get('other_label', 'other')}"
    units = "" if first["units"] in ("1", "") else f" ({first['units']})"
    return capital(drawable(words).replace("␣", " ").rstrip(" :,")) + units


def _words(panel: Panel) -> tuple[str, dict[str, str]]:
    """Return what the curves of a panel share, and what each is called by its own name."""
    long = {a["name"]: a["long_name"] for a in panel.arrays if not a["other"]}
    long = long or {a["name"]: a["long_name"] for a in panel.arrays}
    main = {name: words for name, words in long.items() if not name.endswith(CHANCE)}
    if len(main) < 2:
        words = next(iter((main or long).values()))
        labels = dict.fromkeys(main, "measured")
    else:
        shared, rest = apart(list(main.values()))
        words = shared or ", ".join(main.values())
        labels = dict(zip(main, rest, strict=True))
    for name in long.keys() - main.keys():
        beside = labels.get(name.removesuffix(CHANCE), "")
        labels[name] = f"{beside}, chance" if len(main) > 1 else "chance"
    for array in panel.arrays:
        name = array["name"]
        # A control that an analysis has said in words of its own; a metric's is its own output.
        if name in long.keys() - main.keys() and array["metric"] == name:
            labels[name] = behind(array["long_name"], words)
    return words, labels


def _curves(axes: Axes, panel: Panel, data: xr.Dataset, colors: Palette, scale: str) -> None:
    hues: dict[str, str] = {}
    _, labels = _words(panel)
    drawn: list[Line2D] = []
    for array in panel.arrays:
        name = array["name"]
        own = name.removeprefix(OTHER)
        along, each = _axes_of(data, array)
        x = _places(data, along)
        values = _columns(data, name, along)
        for i in range(values.shape[1]):
            key = f"{own.removesuffix(CHANCE)} {i}"
            hue = hues.setdefault(key, colors.lines[len(hues) % len(colors.lines)])
            label = labels.get(own) or labels.get(name) or array["long_name"]
            if each:
                label = f"{axis_words(data, each)} {_entry(data, each, i)}"
            if array["other"]:
                label = f"{label}, {data.attrs.get('other_label', 'other')}"
            dash = _DOTTED if own.endswith(CHANCE) else _DASHED if array["other"] else "-"
            band = _band(data, array, along, i)
            named = is_named(data, along)
            drawn.append(_line(axes, x, values[:, i], band, hue, label, dash, joined=not named))
            if named:
                mark = MARKERS[(len(drawn) - 1) % len(MARKERS)]
                drawn[-1].set(linestyle="", marker=mark, markersize=4)
                if dash == _DOTTED:
                    drawn[-1].set_markerfacecolor(colors.page)
    axes.set_yscale(scale)
    along, _ = _axes_of(data, panel.arrays[0])
    axes.set_xlabel(_along(data, along), **_font(colors), labelpad=2)
    if along == RUN or _is_spread(data, along):
        _name_runs(axes, data, along)
    elif _is_named(data, panel.arrays[0]):
        words = [textwrap.fill(word, _TICK) for word in labels_of(data, along)]
        axes.set_xticks(_places(data, along), words)
    elif names := _upright(data, panel.arrays[0]):
        axes.set_xticks(_places(data, along), names, rotation=90 if _long(names) else 0)
    elif heads := _heads(data, panel.arrays[0]):
        step = -(-len(heads) // _TICKS)
        axes.set_xticks(_places(data, along)[::step], heads[::step])
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    axes.grid(axis="y", color=colors.faint, alpha=0.25, linewidth=0.5)
    low, high = axes.get_ylim()
    if scale == "linear" and low < 0 < high:
        axes.axhline(0, color=colors.faint, linewidth=0.6, zorder=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(colors.faint)
    axes.yaxis.get_offset_text().set(fontsize=FONT - 1.5, color=colors.ink)
    if len(drawn) > 1:
        name_curves(axes, drawn, colors)


def names_height(data: xr.Dataset, panel: Panel) -> float:
    """Return the inches that names under a panel take beyond the room of numbers."""
    names = _upright(data, panel.arrays[0])
    return _LETTER * max(map(len, names)) if _long(names) else 0.0


def _upright(data: xr.Dataset, array: Array) -> list[str]:
    """The names along an axis of so many that they do not stand beside each other."""
    if not _has_names(data, array) or _is_named(data, array) or _heads(data, array):
        return []
    return [fitted(word, _TICK) for word in labels_of(data, _axes_of(data, array)[0])]


def _long(names: list[str]) -> bool:
    return any(len(name) > _SHORT for name in names)


def is_list(data: xr.Dataset, panel: Panel) -> bool:
    """Whether a panel is of things with names, more of them than an axis has room for."""
    first = panel.arrays[0]
    many = _has_names(data, first) and data.sizes[_axes_of(data, first)[0]] > _MOST_NAMED
    return many and not _heads(data, first)


def _is_named(data: xr.Dataset, array: Array) -> bool:
    """Whether the entries of the one axis are few, and have names that stand beside each other."""
    return _has_names(data, array) and data.sizes[_axes_of(data, array)[0]] <= _NAMED


def _heads(data: xr.Dataset, array: Array) -> list[str]:
    """What stands before a colon in the names along an axis, where that is short in all of them."""
    if not _has_names(data, array):
        return []
    heads = [name.partition(":") for name in labels_of(data, _axes_of(data, array)[0])]
    short = all(colon and len(head) <= _HEAD for head, colon, _ in heads)
    return [head for head, _, _ in heads] if short else []


def _has_names(data: xr.Dataset, array: Array) -> bool:
    """Whether the axis that it is drawn along is of things with names, in no order."""
    if array["kind"] not in ("profile", "lines"):
        return False
    return is_named(data, _axes_of(data, array)[0].removeprefix(OTHER))


def _entry(data: xr.Dataset, dim: str, i: int) -> str:
    """Return the name of one line of several; ranks are counted from 1, as people do."""
    return str(i + 1) if dim.removeprefix(OTHER) == "k" else labels_of(data, dim)[i]


def _line(
    axes: Axes,
    x: np.ndarray,
    values: np.ndarray,
    band: tuple[np.ndarray, np.ndarray] | None,
    hue: str,
    label: str,
    dash: Any,
    *,
    joined: bool,
) -> Line2D:
    solid = dash == "-"
    if band is not None:
        draw_interval(axes, x, *band, hue, joined=joined, alpha=0.18 if solid else 0.1)
    (drawn,) = axes.plot(
        x,
        values,
        color=hue,
        linestyle=dash,
        linewidth=1.3 if solid else 1.1,
        marker="o" if solid else "",
        markersize=1.8,
        label=drawable(label).replace("␣", " "),
        gid="curve" if solid else "chance" if dash == _DOTTED else "other",
    )
    return drawn


def _axes_of(data: xr.Dataset, array: Array) -> tuple[str, str]:
    """Return the axis that curves run along, and the one of which each entry has one."""
    dims = array["dims"]
    bare = [dim.removeprefix(OTHER) for dim in dims]
    found = along_of(bare, [data.sizes[dim] for dim in dims])
    named = is_named(data, bare[0])  # of things with names the second axis, else the first
    along = dims[bare.index(found)] if found else dims[-1 if named else 0]
    return along, next((dim for dim in dims if dim != along), "")


def _is_spread(data: xr.Dataset, dim: str) -> bool:
    """Whether the entries of an axis are numbers that span decades, and so stand elsewhere."""
    if role_of(data, dim) or dim not in data.coords or data[dim].dtype.kind not in "iuf":
        return False
    found = spots(data[dim].values)
    return found is not None and not np.array_equal(found, data[dim].values)


def _name_runs(axes: Axes, data: xr.Dataset, dim: str) -> None:
    """Write moments of a training, or numbers, under a panel, as many as have room."""
    places, words = _places(data, dim), labels_of(data, dim)
    least = _APART * float(np.ptp(places))
    kept: list[int] = []
    for i, place in enumerate(places):
        if not kept or place - places[kept[-1]] >= least:
            kept.append(i)
    axes.set_xticks(places[kept], [words[i] for i in kept])


def _columns(data: xr.Dataset, name: str, along: str) -> np.ndarray:
    """Return the values of an array, a column for each curve."""
    values = data[name].transpose(along, ...).values.astype(np.float64)
    return np.asarray(values.reshape(data.sizes[along], -1))


def _band(
    data: xr.Dataset, array: Array, along: str, i: int
) -> tuple[np.ndarray, np.ndarray] | None:
    ends = ends_of(data, array["name"])
    if ends is None:
        return None
    low, high = (_columns(data, end, along)[:, i] for end in ends)
    return (low, high) if np.isfinite(low).any() else None


def _places(data: xr.Dataset, dim: str) -> np.ndarray:
    """Where entries of an axis lie: at their layer, a state at the block that it comes after."""
    size = data.sizes[dim]
    if dim == RUN or _is_spread(data, dim):
        return places_of(data, dim)
    for name in ("layer", f"{dim}_layer"):  # some layers only, where not all were asked for
        if name in data.coords and data[name].dims == (dim,) and data[name].dtype.kind in "iu":
            return np.asarray(data[name].values, dtype=np.float64)
    values = data[dim].values.tolist() if dim in data.coords else list(range(size))
    numbers = numbers_of(dim, size, values)
    if numbers is None:
        own = np.asarray(values)
        numbers = own.tolist() if own.dtype.kind in "iuf" else list(range(size))
    return np.asarray(numbers, dtype=np.float64)


def _cells(figure: Figure, axes: Axes, array: Array, data: xr.Dataset, colors: Palette) -> None:
    values = np.asarray(data[array["name"]].values, dtype=np.float64)
    norm, cmap = range_scale(values)
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(values), cmap=color_map(cmap, colors), norm=norm, rasterized=True
    )
    mark_past(axes, values, mesh, colors)
    if array["kind"] == "matrix":
        axes.set_aspect("equal", anchor="W")
        for first, last in groups_of(data, array["name"]):
            size = last - first + 1
            outline = Rectangle(
                (first, first), size, size, fill=False, edgecolor="white", linewidth=1.1,
                path_effects=_AROUND, gid="group",
            )  # fmt: skip
            axes.add_patch(outline)
    _name_axes(axes, array, data, colors)
    bar = figure.colorbar(mesh, cax=_beside(figure, axes), extend=extends(values, norm))
    bar.outline.set_edgecolor(colors.faint)
    bar.ax.tick_params(labelsize=FONT - 1.5, colors=colors.ink, length=2)


def _name_axes(axes: Axes, array: Array, data: xr.Dataset, colors: Palette) -> None:
    for dim, axis in zip(array["dims"], (axes.yaxis, axes.xaxis), strict=True):
        places = _places(data, dim)
        step = max(1, -(-len(places) // 8))
        at = np.arange(0, len(places), step)
        labels = ["embed" if places[i] < 0 else f"{places[i]:g}" for i in at]
        axis.set_ticks(at + 0.5, labels)
        axis.set_label_text(axis_words(data, dim), **_font(colors))
        axis.labelpad = 2
    for spine in axes.spines.values():
        spine.set_color(colors.faint)
        spine.set_linewidth(0.5)


def _beside(figure: Figure, axes: Axes) -> Axes:
    """Return room for a colour bar to the right of some cells, as high as they are."""
    axes.apply_aspect()
    box, width = axes.get_position(), figure.get_size_inches()[0]
    gap, thick = (inches / width for inches in _BAR)
    return figure.add_axes((box.x1 + gap, box.y0, thick, box.height))


def _along(data: xr.Dataset, dim: str) -> str:
    words = axis_words(data, dim)
    return f"{words} (−1: embedding)" if "point" in dim else words


def _font(colors: Palette) -> dict[str, Any]:
    return {"fontsize": FONT - 0.5, "family": list(families()), "color": colors.ink}
