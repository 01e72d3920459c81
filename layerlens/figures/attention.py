"""Attention as a figure: all heads of a layer small, one of them large with its tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.figures.attention_shown import Shown, compared, headline
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
from layerlens.figures.grid import grid_figure
from layerlens.figures.layout import Layout, color_bar, fitted, frame
from layerlens.figures.palette import Palette, color_map, palette
from layerlens.result.attention import WEIGHTINGS

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

_THUMB = 0.86  # inches
_GAP = 0.1
_NAME = 0.17  # above a small head
_LARGE = 5.6  # inches of a large head, at most
_CELL = 0.24
_NARROWEST = 6.4
_LABEL = 0.12  # from one token to the next
_CHARACTERS = 12

WORDS = {
    "pattern": "attention weight",
    "value": "weight times length of the value",
    "norm": "length moved into the stream",
    "scores": "score before the softmax",
}


def attention_figure(
    data: xr.Dataset,
    *,
    variable: str | None = None,
    layer: int | None = None,
    head: int | None = None,
    weighting: str = "pattern",
    part: str | None = None,
    compare: str = "first",
    theme: str = "light",
    title: str | None = None,
    cell_width: float | None = None,
) -> Figure:
    """Draw all heads of a layer, and one of them large.

    Parameters
    ----------
    data : xarray.Dataset
        The data of one text, or of attention that came from elsewhere.
    variable : str, optional
        A name in the data: of a weighting, in place of `weighting`; or of what heads do
        (``"induction"``), which is drawn as a grid of all layers and heads.
    layer : int, optional
        Number of the layer. By default that of the head that says most (an induction head, a
        previous-token head), else the first.
    head : int, optional
        The large one; by default likewise.
    weighting : {"pattern", "value", "norm", "scores"}
        Which of those that were computed.
    part : str, optional
        Which part, where there are several: ``"encoder"``, ``"decoder"``, ``"cross"``.
    compare : {"first", "second", "beside", "difference"}
        Of two texts or models: which one, both side by side, or the second minus the first.
    theme : {"light", "dark", "auto"}
        ``auto`` is light.
    title : str, optional
        Instead of the layer, the head and the model.
    cell_width : float, optional
        Width of a cell of the large head in inches.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ResultError
        There is no such layer, head, weighting or part, or nothing to compare with.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> ll.attention(model, "cat dog owl cat dog").figure(layer=1)
    <Picture size ... with 6 Axes>
    """
    if variable is not None:
        named = {held: name for name, held in WEIGHTINGS.items()}
        if variable not in named:
            return grid_figure(
                data, variable=variable, theme=theme, title=title, cell_width=cell_width
            )
        weighting = named[variable]
    colors = palette(theme)
    shown = compared(data, layer, head, weighting, part, compare)
    rows, keys = shown.values.shape[1:]
    cell = cell_width or min(_CELL, _LARGE / max(rows, keys))
    step = max(1, int(np.ceil(_LABEL / cell)))
    layout = Layout((cell, cell), (rows, keys), False, False, step, step, left=1.2, right=1.3)
    room = int((max(layout.size[0], _NARROWEST) - 0.1) / (_THUMB + _GAP))
    lines = int(np.ceil(len(shown.values) / room))
    across = int(np.ceil(len(shown.values) / lines))
    notes = [note for note in (_not_labelled(layout), checks_line(data)) if note]
    layout = replace(
        layout,
        right=max(layout.right, _NARROWEST - layout.left - keys * cell),
        top=0.55 + lines * (_THUMB * rows / max(rows, keys) + _NAME + _GAP) + 0.15,
        bottom=_label_height(shown) + notes_height(notes, max(layout.size[0], _NARROWEST)),
    )
    figure = new_figure(layout.size, colors)
    for index in range(len(shown.values)):
        _thumbnail(figure, shown, index, across, layout, colors)
    axes = figure.add_axes(layout.box, facecolor=colors.page)
    image = _image(axes, shown, shown.head, colors)
    _labels(axes, shown, layout, colors)
    color_bar(figure, image, f"{WORDS[weighting]}{shown.said}", layout, colors)
    write_title(figure, headline(data, shown, compare) if title is None else title, colors)
    write_notes(figure, notes, colors)
    return figure


def _image(axes: Axes, shown: Shown, head: int, colors: Palette) -> AxesImage:
    """Draw one head, coloured from the page to its own largest weight."""
    values = np.ma.masked_invalid(shown.values[head].astype(np.float64))
    low, high = float(values.min()), float(values.max())
    signed = bool(shown.said) or (low < 0 and shown.weighting != "scores")
    if signed:
        high = max(-low, high)
    elif shown.weighting != "scores":
        low = 0.0
    image = axes.imshow(
        values,
        cmap=color_map("signed" if signed else "base", colors),
        vmin=-high if signed else low,
        vmax=high if high > low else low + 1,
        aspect="auto",
        interpolation="nearest",
    )
    axes.set_xticks([])
    axes.set_yticks([])
    frame(axes, colors)
    return image


def _thumbnail(
    figure: Figure, shown: Shown, head: int, across: int, layout: Layout, colors: Palette
) -> None:
    width, height = layout.size
    rows, keys = layout.shape
    wide, tall = _THUMB * keys / max(rows, keys), _THUMB * rows / max(rows, keys)
    line, column = divmod(head, across)
    left = 0.1 + column * (_THUMB + _GAP)
    bottom = height - 0.5 - (line + 1) * (tall + _NAME + _GAP) + _GAP
    place = (left / width, bottom / height, wide / width, tall / height)
    axes = figure.add_axes(place, facecolor=colors.page)
    axes.set_gid("head")
    _image(axes, shown, head, colors)
    chosen = head == shown.head
    for side in axes.spines.values():
        side.set_color(colors.base if chosen else colors.faint)
        side.set_linewidth(1.4 if chosen else 0.5)
    axes.set_title(
        fitted(drawable(shown.names[head]).replace("␣", " "), 16),
        fontsize=FONT - 1.5,
        family=list(families()),
        color=colors.base if chosen else colors.faint,
        pad=2,
        loc="left",
        parse_math=False,
    )


def _labels(axes: Axes, shown: Shown, layout: Layout, colors: Palette) -> None:
    """Write the tokens: those that look at the left, those that are looked at below."""
    style: dict[str, Any] = {"fontsize": FONT, "family": list(families()), "color": colors.ink}
    keys = np.arange(0, len(shown.keys), layout.label_step)
    queries = np.arange(0, len(shown.queries), layout.row_step)
    axes.set_xticks(keys, [fitted(shown.keys[i], _CHARACTERS) for i in keys], rotation=90, **style)
    axes.set_yticks(queries, [fitted(shown.queries[i], _CHARACTERS) for i in queries], **style)
    for label in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
        label.set_parse_math(False)
    axes.set_ylabel("token that looks", parse_math=False, **style)
    axes.set_xlabel("token that is looked at", parse_math=False, **style)
    frame(axes, colors)


def _label_height(shown: Shown) -> float:
    """Return how much room the tokens below take, and what stands under them."""
    longest = max(len(fitted(key, _CHARACTERS)) for key in shown.keys)
    return 0.35 + CHARACTER * longest


def _not_labelled(layout: Layout) -> str:
    step = layout.label_step
    return f"one token in {step} is labelled, all are drawn" if step > 1 else ""
