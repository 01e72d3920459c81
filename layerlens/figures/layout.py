"""Where a table of cells lies in its figure, and what fits into its cells."""

from __future__ import annotations

import textwrap
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from layerlens.errors import ResultError
from layerlens.figures.canvas import CHARACTER, FONT
from layerlens.figures.fonts import families

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from layerlens.figures.palette import Palette

_TEXT_CELL = (0.42, 0.15)
_LABEL_CELL = 0.13
_SMALLEST = 0.02
_SHORTEST_BAR = 0.5
_BAR_TICK = 0.24  # inches from one number to the next
_WIDEST_FIGURE = 600.0  # inches; beyond it the picture would pass 2**16 pixels


@dataclass(frozen=True)
class Layout:
    """Sizes in inches, and what fits into them."""

    cell: tuple[float, float]
    shape: tuple[int, int]
    texts: bool
    flat: bool
    label_step: int
    row_step: int
    left: float = 0.75
    right: float = 1.1
    top: float = 0.5
    bottom: float = 0.8
    aside: float = 0.0
    """What stands between the table and its colour bar."""

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the figure."""
        rows, columns = self.shape
        width = max(self.left + columns * self.cell[0] + self.aside + self.right, 4.5)
        return width, self.bottom + rows * self.cell[1] + self.top

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The table's place in the figure, as fractions."""
        (rows, columns), (width, height) = self.shape, self.size
        table = columns * self.cell[0] / width, rows * self.cell[1] / height
        return self.left / width, self.bottom / height, *table


def layout_of(
    shape: tuple[int, ...],
    cell_width: float | None,
    *,
    widest: float = 0.72,
    together: float = 14.0,
    what: str = "tokens",
) -> Layout:
    """Return the layout of a table: columns at most `widest` inches, `together` in all.

    Raises
    ------
    ResultError
        The figure would be too wide.
    """
    rows, columns = shape
    width = cell_width or max(min(together / columns, widest), _SMALLEST)
    height = max(min(14.0 / rows, 0.21), _SMALLEST)
    flat = width >= _TEXT_CELL[0]
    if columns * width > _WIDEST_FIGURE:
        raise ResultError(
            f"{columns} {what} are too many for one figure; draw some of them with positions=."
        )
    return Layout(
        cell=(width, height),
        shape=(rows, columns),
        texts=flat and height >= _TEXT_CELL[1],
        flat=flat,
        label_step=max(1, int(np.ceil(_LABEL_CELL / width))),
        row_step=max(1, int(np.ceil(_LABEL_CELL / height))),
    )


def color_bar(
    figure: Figure, mappable: Any, label: str, layout: Layout, colors: Palette, **options: Any
) -> Axes:
    """Draw the colour bar to the right of the table; return its axes."""
    width, height = layout.size
    left = layout.left + layout.shape[1] * layout.cell[0] + layout.aside + 0.15
    rows = layout.shape[0] * layout.cell[1]
    tall = max(min(rows, 2.4), _SHORTEST_BAR)
    place = (left / width, (layout.bottom + rows - tall) / height, 0.12 / width, tall / height)
    bar_axes = figure.add_axes(place)
    bar = figure.colorbar(mappable, cax=bar_axes, **options)
    if type(bar.norm) is Normalize:  # a logarithm has ticks of its own
        bar.locator = MaxNLocator(nbins=max(1, int(tall / _BAR_TICK)), steps=[1, 2, 5, 10])
        bar.update_ticks()
    words = textwrap.fill(label, max(int(tall / CHARACTER), 12))
    bar.set_label(words, color=colors.ink, fontsize=FONT, family=list(families()), parse_math=False)
    bar.outline.set_edgecolor(colors.faint)
    bar_axes.tick_params(labelsize=FONT - 1, colors=colors.ink, length=2)
    return bar_axes


def frame(axes: Axes, colors: Palette) -> None:
    """Draw thin sides and no ticks."""
    axes.tick_params(length=0, pad=3)
    for side in axes.spines.values():
        side.set_color(colors.faint)
        side.set_linewidth(0.5)


def outline(axes: Axes, cell: tuple[int, int] | None, colors: Palette) -> None:
    """Outline the cell at a row and a column, so that it is seen on every colour."""
    if cell is None:
        return
    row, column = cell
    for color, width in ((colors.page, 3.0), (colors.base, 1.6)):
        box = Rectangle((column, row), 1, 1, fill=False, edgecolor=color, linewidth=width, zorder=4)
        axes.add_patch(box).set_gid("selected")


def fitted(text: str, limit: int) -> str:
    """Return `text` cut to the width of `limit` characters, wide ones counted twice."""
    widths = [2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text]
    if sum(widths) <= limit:
        return text
    used, kept = 1, 0
    while kept < len(text) and used + widths[kept] <= limit:
        used += widths[kept]
        kept += 1
    return text[:kept] + "…"
