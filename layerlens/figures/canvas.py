"""An empty figure, and words on it: what every figure of layerlens begins and ends with."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from layerlens.figures.fonts import drawable, families
from layerlens.figures.images import image_bytes
from layerlens.figures.palette import Palette
from layerlens.result.checks import Checks

if TYPE_CHECKING:
    import xarray as xr

FONT = 7.0
CHARACTER = 0.062
"""Inches that a character takes at `FONT` points, on average."""

_NOTE_CHARACTER = 0.054
_LINE = 0.14  # inches from one line of notes to the next
_TITLE, _TITLE_LINE = 9.0, 0.18  # points, and inches from one line of a title to the next
_SCREEN_DPI = 96  # CSS pixels an inch


class Picture(Figure):
    """A figure that shows itself when it is last in a cell.

    IPython knows how to show a figure only where pyplot has told it; pyplot is never asked here.
    Where it has been (``%matplotlib inline``), the formats that the user chose there hold.
    """

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """Return a PNG file for dense screens, and how large it is shown, in CSS pixels."""
        width, height = self.get_size_inches()
        size = {"width": round(width * _SCREEN_DPI), "height": round(height * _SCREEN_DPI)}
        return image_bytes(self, "png", dpi=2 * _SCREEN_DPI), size


def new_figure(size: tuple[float, float], colors: Palette) -> Figure:
    """Return an empty figure of `size` inches that pyplot does not know."""
    figure = Picture(figsize=size, facecolor=colors.page)
    FigureCanvasAgg(figure)
    return figure


def broken_title(title: str, width: float) -> str:
    """Return the title with a break wherever a line would be wider than a figure of `width`."""
    limit = int((width - 0.3) / (_NOTE_CHARACTER * _TITLE / FONT))
    return "\n".join(textwrap.wrap(title, limit, break_on_hyphens=False))


def title_height(title: str, below: Sequence[str] = ()) -> float:
    """Return the inches that a title and the lines below it take beyond its first line."""
    return _TITLE_LINE * title.count("\n") + _LINE * len(below)


def write_title(figure: Figure, title: str, colors: Palette, below: Sequence[str] = ()) -> None:
    """Write the title into the upper left corner, and smaller lines below it."""
    width, height = figure.get_size_inches()
    lines = title.split("\n")
    for i, line in enumerate(below):
        figure.text(
            0.1 / width,
            1 - (0.43 + _TITLE_LINE * (len(lines) - 1) + i * _LINE) / height,
            drawable_line(line),
            fontsize=FONT,
            family=list(families()),
            color=colors.faint,
            parse_math=False,
            gid="subtitle",
        )
    for i, line in enumerate(lines):
        figure.text(
            0.1 / width,
            1 - (0.28 + i * _TITLE_LINE) / height,
            drawable_line(line),
            fontsize=_TITLE,
            family=list(families()),
            color=colors.ink,
            parse_math=False,
            gid="title",
        )


def write_notes(figure: Figure, notes: list[str], colors: Palette) -> None:
    """Write the notes into the lower left corner, broken where needed, the first on top."""
    width, height = figure.get_size_inches()
    for i, line in enumerate(reversed(wrapped(notes, width))):
        figure.text(
            0.1 / width,
            (0.1 + i * _LINE) / height,
            drawable_line(line),
            fontsize=FONT - 1,
            family=list(families()),
            color=colors.faint,
            parse_math=False,
            gid="note",
        )


def wrapped(notes: list[str], width: float) -> list[str]:
    """Return the notes broken into lines that fit into a figure of `width` inches."""
    limit = int((width - 0.3) / _NOTE_CHARACTER)
    return [line for note in notes for line in textwrap.wrap(note, limit, break_on_hyphens=False)]


def notes_height(notes: list[str], width: float) -> float:
    """Return how much room the notes take in a figure of `width` inches."""
    return 0.15 + _LINE * len(wrapped(notes, width))


def checks_line(data: xr.Dataset, belongs: Callable[[str], bool] = lambda name: True) -> str:
    """Return what was verified of what is drawn, in a line; empty where nothing was.

    Parameters
    ----------
    belongs
        Whether a check, by its name, is about what the figure shows.
    """
    every = Checks.from_json(data.attrs.get("checks", "[]"))
    checks = [check for check in every if belongs(check.name)]
    if not checks:
        return ""
    failed = [check for check in checks if not check.ok]
    head = f"{len(failed)} of {len(checks)} checks not ok" if failed else "checks ok"
    parts = [
        f"{check.name} {check.error:.2g} (limit {check.limit:.2g})" for check in failed or checks
    ]
    return f"{head}: {', '.join(parts)}"


def drawable_line(text: str) -> str:
    """Return `text` with only what can be drawn, its spaces as they are."""
    return " ".join(drawable(word) for word in text.split(" "))
