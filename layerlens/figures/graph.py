"""A graph of nodes and links: layers upwards, tokens across, strong links on top of weak ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.collections import PathCollection
from matplotlib.path import Path

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
from layerlens.figures.layout import fitted
from layerlens.figures.palette import Palette, color_map, palette
from layerlens.figures.panel_rows import (
    draw_rows,
    drawn_as,
    has_values,
    panels_of,
    rows_height,
    rows_width,
    said_of_numbers,
)
from layerlens.figures.panels import Panel
from layerlens.result.layers import arrays_of

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_IN_LINE = 6
_MOST_LINKS = 1200
_STEP = 0.13  # inches from one node of a cell to the next
_ROW = 0.13
_GAP = 0.16
_COLUMN = 0.5
_OUTPUT = 1.0
_PART, _PART_ROW = 0.95, 0.24  # parts of a model are words
_LEFT = 0.75
_STRONG = 4.0  # so many times the root of its influence is a node's colour

Place = tuple[float, float]


def graph_figure(
    data: xr.Dataset,
    *,
    share: float = 1.0,
    errors: bool = True,
    node: str | None = None,
    theme: str = "light",
    title: str | None = None,
) -> Figure:
    """Draw a graph: circles are features (or coordinates), diamonds errors; all else is words.

    Parameters
    ----------
    data : xarray.Dataset
        A graph, as `layerlens.analyses.circuits.graph` describes it.
    share : float
        How much of the influence the nodes that are drawn have together, 0 to 1.
    errors : bool
        Whether nodes of what the features do not explain are drawn.
    node : str, optional
        The name of a node whose links stand out.
    theme : {"light", "dark", "auto"}
        ``auto`` is light.
    title : str, optional
        Instead of the question.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ResultError
        The result is no graph, or has no such node.
    """
    if not {"node", "link"} <= set(data.dims):
        raise ResultError("This result is no graph of nodes and links.")
    colors = palette(theme)
    drawn = _drawn(data, share, errors)
    places, columns, rows, size = _places(data, drawn)
    links = _links(data, drawn)
    panels = _beside(data)
    across = max(1, min(2, len(panels)))
    width = max(size[0] + 0.15, 6.2, rows_width(across))
    notes = _said(data, len(drawn), links)
    below = wrapped([f"{_texts(data)}  {data.attrs.get('model', '')}"], width)[:2]
    words = title if title is not None else str(data.attrs.get("question", "Graph"))
    words = broken_title(words, width)
    bottom = notes_height(notes, width) + 0.1 + rows_height(data, panels, across)
    height = bottom + size[1] + 0.5 + title_height(words, below)
    figure = new_figure((width, height), colors)
    box = (0, bottom / height, 1, size[1] / height)
    axes = figure.add_axes(box, frameon=False, xlim=(0, width), ylim=(0, size[1]), xticks=[],
                           yticks=[])  # fmt: skip
    first = "embed" if "coordinate" in _kinds(data) else "tokens"
    _draw_rows(axes, rows, (first, int(data.attrs.get("n_layers", 0))), width, colors)
    _draw_links(axes, data, links, places, _number(data, node), colors)
    _draw_nodes(axes, data, drawn, places, columns, node, colors)
    draw_rows(figure, data, panels, bottom, across=across, colors=colors)
    write_title(figure, words, colors, below)
    write_notes(figure, notes, colors)
    return figure


def _beside(data: xr.Dataset) -> list[Panel]:
    """Return what is known of the graph as a whole: curves that are not over nodes or links."""
    arrays = [drawn_as(data, array) for array in arrays_of(data)]
    own = [array for array in arrays if not {"node", "link"} & set(array["dims"])]
    return [panel for panel in panels_of(own) if has_values(panel, data)]


def _said(data: xr.Dataset, nodes: int, links: Sequence[int]) -> list[str]:
    """Return the notes under a graph."""
    counted = f"{nodes} of {data.sizes['node']} nodes, {len(links)} of {data.sizes['link']} links."
    if (data["weight"].values[list(links)] < 0).any():
        counted += " Solid links add to their target, dashed ones take away."
    notes = [counted, *json.loads(data.attrs.get("notes", "[]")),
             said_of_numbers(data, arrays_of(data)), checks_line(data)]  # fmt: skip
    return [note for note in notes if note]


def _texts(data: xr.Dataset) -> str:
    """Return the text, or how many there are."""
    text = str(data.attrs.get("text", ""))
    several = "text" in json.loads(data.attrs.get("several", "[]"))
    return f"{len(json.loads(text)):,} texts" if several else text


def _kinds(data: xr.Dataset) -> np.ndarray:
    """Return what each node is, in words."""
    names = data["kind"].attrs["long_name"].split(": ")[-1].split(", ")
    found: np.ndarray = np.array(names)[data["kind"].values]
    return found


def _drawn(data: xr.Dataset, share: float, errors: bool) -> list[int]:
    """Return the nodes to draw: the ends, and the strongest that together have the share."""
    kinds, influence = _kinds(data), data["influence"].values
    # The node that crosses the share still belongs to it.
    before = data["cumulative_influence"].values - influence / (influence.sum() or 1.0)
    ends = np.isin(kinds, ("token", "output"))
    strong = (before < share) | (share >= 1)
    kept: list[int] = np.flatnonzero(ends | (strong & (errors | (kinds != "error")))).tolist()
    return kept


def _number(data: xr.Dataset, node: str | None) -> int:
    if node is None:
        return -1
    names = data["node"].values.tolist()
    if node not in names:
        raise ResultError(f"This graph has no node '{node}'; its names are data['node'].")
    return int(names.index(node))


def _places(
    data: xr.Dataset, drawn: Sequence[int]
) -> tuple[dict[int, Place], dict[int, float], list[tuple[int, float]], Place]:
    """Return where nodes stand (inches), the width of columns, the rows, and the size."""
    layer, position = data["node_layer"].values, data["node_position"].values
    influence, kinds = data["influence"].values, _kinds(data)
    cells: dict[tuple[int, int], list[int]] = {}
    for i in sorted(drawn, key=lambda i: -float(influence[i])):
        cells.setdefault((int(layer[i]), int(position[i])), []).append(i)
    across = sorted({place for _, place in cells})
    steps = {at: _step(kinds[cell[0]]) for at, cell in cells.items()}
    width = {
        place: max(
            _COLUMN,
            0.15 + max(steps[at][0] * min(_MOST_IN_LINE, len(cell))
                       for at, cell in cells.items() if at[1] == place),
        )
        for place in across
    }  # fmt: skip
    outputs = int((kinds[list(drawn)] == "output").sum())
    short = outputs * _OUTPUT - sum(width.values())
    if short > 0:  # the words of the answers reach over the columns before theirs
        width = {place: wide + short / len(width) for place, wide in width.items()}
    edges = np.cumsum([_LEFT, *width.values()])
    middle = dict(zip(across, (edges[:-1] + edges[1:]) / 2, strict=True))
    places: dict[int, Place] = {}
    rows, y = [], 0.1
    for number in sorted({floor for floor, _ in cells}):
        high = max(-(-len(cell) // _MOST_IN_LINE) * steps[at][1] for at, cell in cells.items()
                   if at[0] == number)  # fmt: skip
        for (at, place), cell in cells.items():
            if at == number:
                places |= _cell(cell, kinds, middle[place], float(edges[across.index(place) + 1]),
                                y + high)  # fmt: skip
        rows.append((number, y + high / 2))
        y += high + _GAP
    return places, width, rows, (float(edges[-1]), y)


def _cell(
    cell: Sequence[int], kinds: np.ndarray, middle: float, right: float, top: float
) -> dict[int, Place]:
    if kinds[cell[0]] == "output":
        return {i: (right - (k + 0.5) * _OUTPUT, top - _ROW / 2) for k, i in enumerate(cell)}
    found = {}
    across, up = _step(kinds[cell[0]])
    for k, i in enumerate(cell):
        line, at = divmod(k, _MOST_IN_LINE)
        in_line = min(_MOST_IN_LINE, len(cell) - line * _MOST_IN_LINE)
        found[i] = (middle + (at - (in_line - 1) / 2) * across, top - (line + 0.5) * up)
    return found


def _step(kind: str) -> tuple[float, float]:
    """From one node of a cell to the next: across, and up to the next line."""
    return (_PART, _PART_ROW) if kind == "part" else (_STEP, _ROW)


def _links(data: xr.Dataset, drawn: Sequence[int]) -> list[int]:
    """Return the links among the nodes that are drawn, the strongest last."""
    ends = (np.isin(data[name].values, drawn) for name in ("source", "target"))
    among = np.flatnonzero(np.logical_and(*ends))
    order = among[np.argsort(data["link_influence"].values[among], kind="stable")]
    kept: list[int] = order[-_MOST_LINKS:].tolist()
    return kept


def _draw_rows(
    axes: Axes,
    rows: Sequence[tuple[int, float]],
    ends: tuple[str, int],
    width: float,
    colors: Palette,
) -> None:
    first, n_layers = ends
    for layer, y in rows:
        words = first if layer < 0 else "answers" if layer >= n_layers else f"layer {layer}"
        axes.text(0.1, y, words, fontsize=FONT, family=list(families()), color=colors.faint,
                  va="center")  # fmt: skip
        axes.axhline(y, xmin=_LEFT / width, color=colors.faint, alpha=0.15, linewidth=0.5, zorder=0)


def _draw_links(
    axes: Axes,
    data: xr.Dataset,
    links: Sequence[int],
    places: Mapping[int, Place],
    chosen: int,
    colors: Palette,
) -> None:
    if not links:
        return
    source, target, weight, carried = (
        data[name].values[list(links)] for name in ("source", "target", "weight", "link_influence")
    )
    part = np.sqrt(carried / (carried.max() or 1.0))
    paths = [_bow(places[int(a)], places[int(b)]) for a, b in zip(source, target, strict=True)]
    own = (source == chosen) | (target == chosen)
    alpha = np.where(own, 1.0, (0.25 + 0.6 * part) * (0.22 if own.any() else 1.0))
    drawn = PathCollection(
        paths,
        facecolors="none",
        edgecolors=[colors.base if w >= 0 else colors.negative for w in weight],
        linewidths=0.4 + 2.0 * part,
        linestyles=["-" if w >= 0 else (0, (3, 1.5)) for w in weight],
        alpha=alpha,
        zorder=1,
    )
    drawn.set_gid("links")
    axes.add_collection(drawn, autolim=False)


def _bow(start: Place, end: Place) -> Path:
    middle = (start[1] + end[1]) / 2
    points = [start, (start[0], middle), (end[0], middle), end]
    return Path(points, [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4])


def _draw_nodes(
    axes: Axes,
    data: xr.Dataset,
    drawn: Sequence[int],
    places: Mapping[int, Place],
    columns: Mapping[int, float],
    node: str | None,
    colors: Palette,
) -> None:
    kinds, names = _kinds(data), data["node"].values
    strength = np.minimum(1.0, np.sqrt(_STRONG * data["influence"].values))
    ramp = color_map("base", colors)
    for marker, kind in (("o", "feature"), ("o", "coordinate"), ("D", "error")):
        these = [i for i in drawn if kinds[i] == kind]
        if these:
            x, y = zip(*(places[i] for i in these), strict=True)
            fill = [ramp(strength[i]) for i in these] if marker == "o" else colors.missing
            edge = [colors.ink if names[i] == node else colors.base if marker == "o"
                    else colors.faint for i in these]  # fmt: skip
            axes.scatter(x, y, s=26 if marker == "o" else 18, marker=marker, c=fill,
                         edgecolors=edge, linewidths=0.8, zorder=2, gid=f"{kind}s")  # fmt: skip
    for i in drawn:
        if kinds[i] in ("token", "output", "part"):
            _word(axes, data, i, str(kinds[i]), places[i], columns, colors)


def _word(
    axes: Axes,
    data: xr.Dataset,
    i: int,
    kind: str,
    place: Place,
    columns: Mapping[int, float],
    colors: Palette,
) -> None:
    word = str(data["words"].values[i]) or str(data["node"].values[i])
    own = {"output": _OUTPUT - 0.4, "part": _PART}
    room = own.get(kind) or columns[int(data["node_position"].values[i])]
    text = fitted(word if kind == "part" else drawable(word), max(2, int(room / 0.065)))
    if kind == "output":
        text += f" {data['probability'].values[i]:.2g}"
    axes.text(*place, text, fontsize=FONT, family=list(families()), color=colors.ink, ha="center",
              va="center", parse_math=False, zorder=3, gid=kind,
              bbox={"boxstyle": "round,pad=0.25", "facecolor": colors.page,
                    "edgecolor": colors.faint, "linewidth": 0.6})  # fmt: skip
