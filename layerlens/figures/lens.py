"""The lens table as a figure: tokens across, points upwards, the model's own output on top."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.errors import ResultError
from layerlens.figures.canvas import (
    CHARACTER,
    FONT,
    checks_line,
    new_figure,
    notes_height,
    write_notes,
    write_title,
)
from layerlens.figures.fonts import drawable, families
from layerlens.figures.layout import Layout, color_bar, fitted, frame, layout_of
from layerlens.figures.lens_beside import laid_beside
from layerlens.figures.lens_choice import against_index, chosen_lens, lens_index
from layerlens.figures.lens_marks import Table, draw_key, draw_marks, key_height, marks_of
from layerlens.figures.lens_scores import ASIDE, Aside, keys_of, score_words, scores_of
from layerlens.figures.palette import Palette, color_map, ink_on, palette
from layerlens.figures.quantity import Quantity, quantity

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_OTHER_CHARACTERS = 60


def lens_figure(
    data: xr.Dataset,
    *,
    color: str | None = None,
    beside: bool = False,
    lens: int | str | None = None,
    tracked: int = 0,
    positions: int | slice | Sequence[int] | None = None,
    points: str | Sequence[str] = "all",
    every: int = 1,
    transposed: bool = False,
    pins: Sequence[Mapping[str, int]] = (),
    selected: tuple[int, int] | None = None,
    theme: str = "light",
    title: str | None = None,
    cell_width: float | None = None,
) -> Figure:
    """Draw the table of a lens.

    Every chosen token gets a column, however many there are: columns become narrow, then the
    texts in the cells go, then labels; a line under the table says what is not shown.

    Parameters
    ----------
    data : xarray.Dataset
        The data of a lens of one text.
    color : {"probability", "entropy", "rank", "kl", "tracked", "change", "kl_between"}, optional
        What the cells' colour shows; of two lenses their difference, by default that of the first
        one's top token (``"change"``), else its probability.
    beside : bool
        Two lenses side by side, each with its own colours.
    lens : int or str, optional
        Which of several lenses, by its place or its name: that one alone, or with `beside` or a
        difference as `color` that one against the one that others were compared with, which is
        the first unless ``against=`` said otherwise. By default the first that this leaves.
    tracked : int
        Which of the tracked tokens, where `color` is ``"tracked"``.
    positions : int, slice or sequence of int, optional
        Which tokens to show; all by default.
    points : {"all", "post", "mid"} or sequence of str
        Which rows to show, by kind or by label; `final` stays with a kind.
    every : int
        Of these rows one in so many, counted from the last: a tall table fits on a page.
    transposed : bool
        Tokens downwards and points to the right, instead of points upwards.
    pins : sequence of mapping
        Tokens to mark where they are on top: ``{"position": int, "id": int}`` each, the position
        negative from the end.
    selected : (int, int), optional
        Indices of the point and the position of a cell to outline, negative from the end.
    theme : {"light", "dark", "auto"}
        ``auto`` is light.
    title : str, optional
        Instead of the model's name and the question.
    cell_width : float, optional
        Width of a column in inches, instead of one that makes the figure at most 14 inches wide.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ResultError
        An option is unknown, no such positions, points, tokens or lens exist, or the figure would
        be too wide.
    """
    scores, compared = scores_of(data), beside or color in ("change", "kl_between")
    read = lens_index(data, lens, compared)
    pair = against_index(data), read
    data = chosen_lens(data, read, compared)
    aside = Aside(scores, pair if beside else () if compared else (read,))
    rows, columns = _chosen(data, positions, points, every)
    if color is None:
        color = "change" if "change" in data.data_vars and not beside else "probability"
    ends = len(columns)
    if beside:
        data = laid_beside(data, columns)
        columns = list(range(data.sizes["position"]))
    chosen = data.isel(point=rows, position=columns)
    colors = palette(theme)
    shown = quantity(chosen, color, tracked)
    points_shown, positions_shown = shown.values.shape
    table = Table(points_shown, positions_shown, transposed)
    marks = marks_of(data, rows, columns, pins, selected, colors)
    marks = replace(marks, pins=[*marks.pins, *keys_of(scores, colors)])
    layout = layout_of(table.shape, cell_width)
    notes = [
        note
        for note in (
            score_words(scores) if scores else "",
            _not_shown(data, chosen, layout),
            checks_line(data, _belongs(color)),
        )
        if note
    ]
    under = notes_height(notes, layout.size[0])
    key = key_height(marks, layout.size[0])
    foot = 0.3 if layout.flat else 1.0
    if transposed:
        layout = replace(layout, left=1.15)
    room = ASIDE if scores and not transposed else 0.0
    layout = replace(layout, bottom=foot + key + under, aside=room)
    figure = new_figure(layout.size, colors)
    axes = figure.add_axes(layout.box, facecolor=colors.page)
    rgba = _cells(axes, shown, table, colors)
    if beside:
        rule = axes.axhline if transposed else axes.axvline
        rule(ends, color=colors.ink, linewidth=1.6, gid="between")
    aside.draw(axes, rgba, rows, layout, table, colors)
    if layout.texts:
        _texts(axes, chosen, rgba, table, layout, colors)
    _labels(axes, chosen, table, layout, colors)
    draw_marks(axes, marks, table, colors)
    draw_key(figure, marks, under, colors)
    bar = axes.collections[0]
    color_bar(figure, bar, shown.label, layout, colors, extend=shown.extend)
    name = str(data.attrs.get("model", "")) or "the model"
    through = f", {data.attrs['lens_shown']} lens" if "lens_shown" in data.attrs else ""
    words = f"Top next token after each point of {name}{through}"
    words += _and_other(data, beside, transposed)
    words = words if title is None else title
    write_title(figure, words, colors)
    write_notes(figure, notes, colors)
    return figure


def _and_other(data: xr.Dataset, beside: bool, transposed: bool) -> str:
    """Name the other run of two."""
    if "other_kind" not in data.attrs:
        return ""
    label = fitted(drawable(str(data.attrs["other_label"])), _OTHER_CHARACTERS)
    if not beside:
        return f", against: {label}"
    return f"; {'below' if transposed else 'right'}: {label}"


def _belongs(color: str) -> Callable[[str], bool]:
    """Whether a check is about the tokens on top or about what colours their cells."""
    others = {"kl": ("KL ", "no gaps"), "rank": ("ranks ",), "": ("settle ",)}
    apart = tuple(name for of, names in others.items() if of != color for name in names)
    return lambda check: not check.startswith(apart)


def _chosen(
    data: xr.Dataset, positions: Any, points: str | Sequence[str], every: int
) -> tuple[list[int], list[int]]:
    """Return the indices of the points and of the positions to draw."""
    if "point" not in data.dims or "position" not in data.dims:
        raise ResultError("This result is no lens: it has no axes 'point' and 'position'.")
    labels = [str(label) for label in data["point"].values]
    if isinstance(points, str):
        kinds = {"all": "", "post": "_post", "mid": "_mid"}
        if points not in kinds:
            raise ResultError(f"There are no points '{points}'; choose all, post, mid or labels.")
        rows = [i for i, x in enumerate(labels) if x == "final" or x.endswith(kinds[points])]
    else:
        unknown = [label for label in points if label not in labels]
        if unknown:
            raise ResultError(f"There is no point '{unknown[0]}'; the points are {labels}.")
        rows = [i for i, label in enumerate(labels) if label in points]
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ResultError(f"every is {every!r}; it is how many rows there are for one, from 1.")
    rows = rows[::-every][::-1]
    columns = np.arange(data.sizes["position"])
    if positions is not None:
        try:
            columns = np.atleast_1d(columns[positions])
        except IndexError as error:
            raise ResultError(
                f"There is no position {positions}; this text has {columns.size} tokens."
            ) from error
    if not rows or not columns.size:
        raise ResultError("Nothing is left to draw; choose at least one point and one position.")
    return rows, columns.tolist()


def _cells(axes: Axes, shown: Quantity, table: Table, colors: Palette) -> np.ndarray:
    """Draw the coloured cells; return their colours."""
    values = np.ma.masked_invalid(table.arranged(shown.values))
    cmap = color_map(shown.colors, colors)
    mesh = axes.pcolormesh(values, cmap=cmap, norm=shown.norm, rasterized=True)
    if table.points > 1:
        rule = axes.axvline if table.transposed else axes.axhline
        rule(table.points - 1, color=colors.ink, linewidth=0.8)
    rows, columns = table.shape
    axes.set_xlim(0, columns)
    axes.set_ylim(0, rows)
    return np.asarray(mesh.to_rgba(values))


def _texts(
    axes: Axes, data: xr.Dataset, rgba: np.ndarray, table: Table, layout: Layout, colors: Palette
) -> None:
    """Write the top token into each cell that has one."""
    if "token_id" not in data.data_vars:
        return
    vocab: dict[str, str] = json.loads(data.attrs.get("vocab", "{}"))
    ids = table.arranged(data["token_id"].isel(k=0).transpose("point", "position").values)
    limit = int((layout.cell[0] - 0.06) / CHARACTER)
    for (row, column), token in np.ndenumerate(ids):
        text = vocab.get(str(int(token)), "" if token < 0 else f"[{token}]")
        if text:
            axes.text(
                column + 0.5,
                row + 0.47,
                fitted(drawable(text), limit),
                color=ink_on(tuple(rgba[row, column, :3]), colors),
                fontsize=FONT,
                family=list(families()),
                ha="center",
                va="center_baseline",
                parse_math=False,
                gid="cell",
            )


def _labels(axes: Axes, data: xr.Dataset, table: Table, layout: Layout, colors: Palette) -> None:
    rows, columns = table.shape
    tokens = [drawable(token) for token in _prompt(data)]
    points = [str(label) for label in data["point"].values]
    style: dict[str, Any] = {"fontsize": FONT, "family": list(families()), "color": colors.ink}
    limit = int((layout.cell[0] - 0.04) / CHARACTER) if layout.flat else 14
    across, down = (points, tokens[::-1]) if table.transposed else (tokens, points)
    at = np.arange(0, columns, layout.label_step)
    axes.set_xticks(
        at + 0.5, [fitted(across[i], limit) for i in at], rotation=0 if layout.flat else 90, **style
    )
    rows_at = np.arange(rows - 1, -1, -layout.row_step)
    axes.set_yticks(rows_at + 0.5, [fitted(down[i], 14) for i in rows_at], **style)
    for label in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
        label.set_parse_math(False)
    frame(axes, colors)


def _prompt(data: xr.Dataset) -> list[str]:
    """Return the prompt's tokens; one that only continues a character says so."""
    if "token" not in data.variables:
        return [str(position) for position in data["position"].values]
    texts = [str(text) for text in data["token"].values]
    if "continues" not in data.variables:
        return texts
    joined = zip(texts, data["continues"].values, strict=True)
    return ["⋯" if goes_on else text for text, goes_on in joined]


def _not_shown(data: xr.Dataset, chosen: xr.Dataset, layout: Layout) -> str:
    notes = []
    for axis, what in (("position", "tokens"), ("point", "points")):
        if chosen.sizes[axis] < data.sizes[axis]:
            notes.append(f"{chosen.sizes[axis]} of {data.sizes[axis]} {what} drawn")
    if not layout.texts:
        notes.append(
            "the cells are too small for their tokens: draw fewer with positions= or points=, or "
            "one row in so many with every="
        )
    if layout.label_step > 1:
        notes.append(f"one token in {layout.label_step} is labelled, all are drawn")
    if layout.row_step > 1:
        notes.append(f"one point in {layout.row_step} is labelled, all are drawn")
    return "; ".join(notes)
