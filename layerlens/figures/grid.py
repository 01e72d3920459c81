"""A grid of signed numbers as a figure: layers upwards, positions or heads across."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from layerlens.figures.canvas import (
    CHARACTER,
    FONT,
    checks_line,
    new_figure,
    notes_height,
    wrapped,
    write_notes,
    write_title,
)
from layerlens.figures.fonts import families
from layerlens.figures.grid_data import Grid, grid_of
from layerlens.figures.layout import Layout, color_bar, fitted, frame, layout_of, outline
from layerlens.figures.names import between_models, capital
from layerlens.figures.palette import Palette, color_map, ink_on, palette
from layerlens.figures.past import extends, mark_past, past_words
from layerlens.figures.scale import signed_scale
from layerlens.result.beside import CHANGE
from layerlens.result.layers import OTHER

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure

_LABEL_CHARACTERS = 14
_ROW_TITLE = 0.32  # inches: what rows are, upright beside their names
_HATCH = "//////"
_ESTIMATE = "\\" * 4  # the other way than what has no value
_LINES = 0.35  # strength of its lines
_PALE = 0.5  # how much of the page covers an estimate
_NEURONS = 9.6  # the same for neurons, of which each is labelled
_PAGE = 7.2  # inches of all columns: a wider picture is shrunk to a page until no digit can be read


def grid_figure(
    data: xr.Dataset,
    *,
    variable: str | None = None,
    at: Mapping[str, Any] | None = None,
    limit: float | None = None,
    selected: tuple[int, int] | None = None,
    listed: Mapping[int, tuple[int, int]] | None = None,
    theme: str = "light",
    title: str | None = None,
    cell_width: float | None = None,
) -> Figure:
    """Draw two axes of one variable as coloured cells: blue is positive, red negative, 0 the page.

    Cells that were not computed are hatched. Where there is room, each cell holds its number.

    Parameters
    ----------
    data : xarray.Dataset
        The data of one text, or of one pair.
    variable : str, optional
        By default what is recovered in a patching sweep, else the first one; its mean over texts
        where there is one.
    at : mapping, optional
        Where to cut axes, so that two are left: ``{"head": 3}``. By default those before the last
        two where the largest number is; a line under the grid says which.
    limit : float, optional
        The value of the strongest colour. By default 1 for a recovered fraction, else the largest
        absolute value. A small triangle marks what lies past the colours, so also a small value of
        the other sign where almost all have one.
    selected : (int, int), optional
        Indices of the row and the column of a cell to outline.
    listed : mapping, optional
        Cells to number, as a list of patches does: ``{1: (row, column)}``.
    theme : {"light", "dark", "auto"}
        ``auto`` is light.
    title : str, optional
        Instead of the quantity and the direction.
    cell_width : float, optional
        Width of a column in inches.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ResultError
        An option is unknown, or there is nothing with two axes.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> sweep = ll.patch_sweep(model, "cat dog owl cat", "cat fox owl cat")
    >>> sweep.figure(variable="metric", theme="dark")
    <Picture size ... with 2 Axes>
    """
    colors = palette(theme)
    grid, where = grid_of(data, variable, at, limit)
    neurons = grid.axes[1] == "neuron"
    widest, together = (0.15, _NEURONS) if neurons else (0.6, _PAGE)
    layout = layout_of(
        grid.values.shape, cell_width, widest=widest, together=together, what=grid.axes[1]
    )
    notes = [note for note in (where, *_notes(data, grid, layout), checks_line(data)) if note]
    above = _headline(data, grid, title)
    lines = wrapped(above[1:], layout.size[0])
    room = _label_height(grid, layout) + notes_height(notes, layout.size[0])
    names = CHARACTER * max(map(len, grid.rows), default=0)
    left = max(layout.left, _ROW_TITLE + names)
    layout = replace(layout, bottom=room, top=0.42 + 0.14 * len(lines), left=left)
    figure = new_figure(layout.size, colors)
    axes = figure.add_axes(layout.box, facecolor=colors.page)
    mesh = _cells(axes, grid, colors)
    if layout.texts:
        _numbers(axes, grid, mesh, colors)
    outline(axes, selected, colors)
    _number_cells(axes, listed or {}, colors)
    _labels(axes, grid, layout, colors)
    extend = extends(grid.values, mesh.norm)
    words = grid.label if title is not None else f"({grid.units})" if grid.units else ""
    color_bar(figure, mesh, words, layout, colors, extend=extend)
    write_title(figure, above[0], colors, lines)
    write_notes(figure, notes, colors)
    return figure


def _headline(data: xr.Dataset, grid: Grid, title: str | None) -> list[str]:
    """Return the title, and lines for under it."""
    if title is not None:
        return [title]
    attrs = data.attrs
    site = str(attrs.get("site", ""))
    metric, model = _asked(attrs, grid), between_models(data)
    if grid.name.startswith(OTHER):
        model = str(attrs.get("other_model", ""))
    first = " ".join(word for word in (capital(grid.label), f"at {site}" if site else "") if word)
    details = [str(attrs.get("direction", "")), metric, model]
    return [first, ", ".join(word for word in details if word)]


def _asked(attrs: Mapping[str, Any], grid: Grid) -> str:
    """Return which numbers of the output the cells are about, where these are the same in all."""
    if "mean over" in grid.label:  # a mean has no tokens of its own
        return ""
    first, second = str(attrs.get("metric_words", "")), str(attrs.get("other_metric_words", ""))
    if grid.name.startswith(OTHER):
        return second
    return "" if grid.name.startswith(CHANGE) and first != second else first


def _cells(axes: Axes, grid: Grid, colors: Palette) -> QuadMesh:
    values = np.ma.masked_invalid(grid.values)
    norm, cmap = signed_scale(grid.values, grid.limit)
    mesh = axes.pcolormesh(values, cmap=color_map(cmap, colors), norm=norm, rasterized=True)
    rows, columns = grid.values.shape
    style: dict[str, Any] = {"facecolor": colors.missing, "edgecolor": colors.faint, "linewidth": 0}
    for row, column in np.argwhere(~np.isfinite(grid.values)):
        axes.add_patch(Rectangle((column, row), 1, 1, hatch=_HATCH, gid="missing", **style))
    page, faint = np.array(to_rgb(colors.page)), np.array(to_rgb(colors.faint))
    lines = tuple(_LINES * faint + (1 - _LINES) * page)  # numbers stand on them
    pale: dict[str, Any] = {"facecolor": (*page, _PALE), "edgecolor": lines}
    for row, column in np.argwhere(grid.guessed):
        axes.add_patch(
            Rectangle((column, row), 1, 1, hatch=_ESTIMATE, linewidth=0, gid="estimate", **pale)
        )
    mark_past(axes, grid.values, mesh, colors)
    axes.set_xlim(0, columns)
    axes.set_ylim(0, rows)
    return mesh


def _numbers(axes: Axes, grid: Grid, mesh: QuadMesh, colors: Palette) -> None:
    rgba = np.asarray(mesh.to_rgba(np.ma.masked_invalid(grid.values)))
    page = np.array([*to_rgb(colors.page), 1.0])
    rgba[grid.guessed] = _PALE * page + (1 - _PALE) * rgba[grid.guessed]
    finite = grid.values[np.isfinite(grid.values)]
    whole = bool((finite == np.round(finite)).all() and np.abs(finite).max(initial=0) < 1e5)
    for (row, column), value in np.ndenumerate(grid.values):
        if np.isfinite(value):
            axes.text(
                column + 0.5,
                row + 0.47,
                ("≈" if grid.guessed[row, column] else "")
                + (f"{value:.0f}" if whole else short_number(float(value))),
                color=ink_on(tuple(rgba[row, column, :3]), colors),
                fontsize=FONT,
                family=list(families()),
                ha="center",
                va="center_baseline",
                gid="cell",
            )


def _number_cells(axes: Axes, listed: Mapping[int, tuple[int, int]], colors: Palette) -> None:
    for number, (row, column) in listed.items():
        axes.text(
            column + 0.04,
            row + 0.94,
            str(number),
            color=colors.page,
            fontsize=FONT - 2,
            family=list(families()),
            va="top",
            bbox={"facecolor": colors.tracked, "edgecolor": "none", "pad": 0.8},
            gid="listed",
        )


def short_number(value: float) -> str:
    """Return a number in at most about five characters."""
    if abs(value) < 0.005:
        return "0"
    text = f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 100 else ""
    return (text or f"{value:.3g}").replace("-", "−")


def _labels(axes: Axes, grid: Grid, layout: Layout, colors: Palette) -> None:
    rows, columns = layout.shape
    style: dict[str, Any] = {"fontsize": FONT, "family": list(families()), "color": colors.ink}
    at = np.arange(0, columns, layout.label_step)
    limit = int((layout.cell[0] - 0.04) / 0.062) if layout.flat else _LABEL_CHARACTERS
    names = [_column_label(grid, int(i), limit, layout) for i in at]
    rotation = 0 if layout.flat or _short(names) else 90
    for label in axes.set_xticks(at + 0.5, names, rotation=rotation, **style):
        label.label1.set_parse_math(False)
    rows_at = np.arange(0, rows, layout.row_step)
    for label in axes.set_yticks(rows_at + 0.5, [grid.rows[i] for i in rows_at], **style):
        label.label1.set_parse_math(False)
    axes.set_ylabel(grid.words[0], parse_math=False, **style)
    if grid.axes[1] != "position":
        axes.set_xlabel(grid.words[1], parse_math=False, **style)
    frame(axes, colors)


def _column_label(grid: Grid, column: int, limit: int, layout: Layout) -> str:
    """Return what stands under a column: the clean token, and under it the corrupted one."""
    names = [fitted(line[column], limit) for line in grid.columns]
    if layout.flat:
        return "\n".join(names)
    return " | ".join(dict.fromkeys(names))


def _short(names: list[str]) -> bool:
    return max(map(len, names), default=0) <= 2


def _label_height(grid: Grid, layout: Layout) -> float:
    own_title = 0.2 if grid.axes[1] != "position" else 0.0
    if layout.flat:
        return 0.1 + 0.13 * len(grid.columns) + own_title
    pairs = zip(*grid.columns, strict=True)
    longest = max((len(" | ".join({*labels})) for labels in pairs), default=1)
    return 0.25 + own_title + 0.062 * min(longest, 2 * _LABEL_CHARACTERS)


def _of_estimates(data: xr.Dataset, count: int) -> str:
    """Say which cells are estimates, and how far estimates agree with true values."""
    are = f"{count} cells are estimates" if count > 1 else "1 cell is an estimate"
    words = f"{are} by attribution patching, hatched and pale"
    pearson = float(data.attrs.get("estimate_pearson", np.nan))
    if not np.isfinite(pearson):
        return words
    known = int(data.attrs["estimate_cells"])
    words += f"; on {known} true cells estimates correlate with the truth at {pearson:.2f}"
    strongest = float(data.attrs.get("estimate_pearson_strongest", np.nan))
    few = f", on the strongest tenth of them at {strongest:.2f}"
    return words + (few if np.isfinite(strongest) else "")


def _notes(data: xr.Dataset, grid: Grid, layout: Layout) -> list[str]:
    notes = []
    if grid.guessed.any():
        notes.append(_of_estimates(data, int(grid.guessed.sum())))
    if len(grid.columns) == 2:
        notes.append("under each column: the clean token, and the corrupted one")
    if past := past_words(grid.values, signed_scale(grid.values, grid.limit)[0]):
        notes.append(past)
    missing = int((~np.isfinite(grid.values)).sum())
    if missing:
        notes.append(
            f"{missing} cells have no value and are hatched"
            if missing > 1
            else "1 cell has no value and is hatched"
        )
    for step, what in ((layout.label_step, grid.axes[1]), (layout.row_step, grid.axes[0])):
        if step > 1:
            notes.append(f"one {what} in {step} is labelled, all are drawn")
    return ["; ".join(notes)] if notes else []
