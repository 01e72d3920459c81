"""Where a lens's cells lie in its figure, and what is marked in them: pins and the chosen cell."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Rectangle

from layerlens.errors import ResultError
from layerlens.figures.canvas import CHARACTER, FONT
from layerlens.figures.fonts import drawable, families
from layerlens.figures.layout import outline
from layerlens.figures.palette import Palette

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

_KEY_LINE = 0.17  # inches
_BAR = 0.14  # height of a pin's bar, of a cell


@dataclass(frozen=True)
class Table:
    """How points and positions lie on the page; row 0 is the lowest."""

    points: int
    positions: int
    transposed: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return (self.positions, self.points) if self.transposed else (self.points, self.positions)

    def arranged(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return ``[point, position]`` values as rows from below; the first token is on top."""
        return values.T[::-1] if self.transposed else values

    def place(self, point: int, position: int) -> tuple[int, int]:
        """Return column and row of a cell."""
        if self.transposed:
            return point, self.positions - 1 - position
        return position, point


@dataclass(frozen=True)
class Pin:
    """A token that is followed: what it is called, its colour, the cells that it is on top of."""

    name: str
    color: str
    cells: list[tuple[int, int]]


@dataclass(frozen=True)
class Marks:
    """What is marked, by indices of point and position among those that are drawn."""

    pins: list[Pin]
    selected: tuple[int, int] | None


def marks_of(
    data: xr.Dataset,
    rows: Sequence[int],
    columns: Sequence[int],
    pins: Sequence[Mapping[str, int]],
    selected: tuple[int, int] | None,
    colors: Palette,
) -> Marks:
    """Find what to mark in the cells of `data` that are drawn.

    Parameters
    ----------
    rows, columns
        Indices of the points and positions that are drawn.
    pins, selected
        As `layerlens.figures.lens.lens_figure` takes them.

    Raises
    ------
    ResultError
        There is no such point or position.
    """
    vocab: dict[str, str] = json.loads(data.attrs.get("vocab", "{}"))
    counts = data.sizes["point"], data.sizes["position"]
    found = []
    for number, pin in enumerate(pins):
        position, token = _index(pin["position"], counts[1], "position"), pin["id"]
        name = drawable(vocab.get(str(token), f"[{token}]"))
        top = data["token_id"].isel(k=0, position=position).values[list(rows)] == token
        column = [list(columns).index(position)] if position in columns else []
        cells = [(int(row), at) for at in column for row in np.flatnonzero(top)]
        color = colors.lines[number % len(colors.lines)]
        found.append(Pin(f"{name} at position {position}", color, cells))
    if selected is None:
        return Marks(found, None)
    point = _index(selected[0], counts[0], "point")
    position = _index(selected[1], counts[1], "position")
    drawn = point in rows and position in columns
    return Marks(found, (rows.index(point), columns.index(position)) if drawn else None)


def _index(index: int, count: int, what: str) -> int:
    if not -count <= index < count:
        raise ResultError(f"There is no {what} {index} to mark; this result has {count}.")
    return index % count


def draw_marks(axes: Axes, marks: Marks, table: Table, colors: Palette) -> None:
    """Draw a bar under the pinned tokens' cells, and the outline of the chosen one."""
    for pin in marks.pins:
        for cell in pin.cells:
            at = table.place(*cell)
            bar = Rectangle(at, 1, _BAR, facecolor=pin.color, edgecolor=colors.page, linewidth=0.6)
            axes.add_patch(bar).set_gid("pin")
    if marks.selected is not None:
        outline(axes, table.place(*marks.selected)[::-1], colors)


def key_height(marks: Marks, width: float) -> float:
    """Return how much room the names of the pins take in a figure of `width` inches."""
    return _KEY_LINE * len(_key_lines(marks, width))


def _key_lines(marks: Marks, width: float) -> list[list[tuple[float, Pin]]]:
    """Return the pins by line, each with how far from the left it begins, in inches."""
    lines: list[list[tuple[float, Pin]]] = []
    x = width
    for pin in marks.pins:
        takes = 0.4 + CHARACTER * len(pin.name)
        if x + takes > width - 0.1:
            lines.append([])
            x = 0.1
        lines[-1].append((x, pin))
        x += takes
    return lines


def draw_key(figure: Figure, marks: Marks, above: float, colors: Palette) -> None:
    """Write the names of the pins beside their colours, `above` inches over the lower edge."""
    width, height = figure.get_size_inches()
    for number, line in enumerate(reversed(_key_lines(marks, width))):
        y = above + number * _KEY_LINE
        for x, pin in line:
            swatch = Rectangle(
                (x / width, (y + 0.01) / height), 0.1 / width, 0.07 / height, facecolor=pin.color
            )
            swatch.set_transform(figure.transFigure)
            figure.add_artist(swatch)
            figure.text(
                (x + 0.15) / width,
                y / height,
                pin.name,
                fontsize=FONT,
                family=list(families()),
                color=colors.ink,
                parse_math=False,
                gid="pin name",
            )
