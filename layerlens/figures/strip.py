"""Strips of tokens at a few depths: the text as it is read, coloured by a number of each token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from layerlens.errors import ResultError
from layerlens.figures.canvas import (
    CHARACTER,
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
from layerlens.figures.names import axis_words, capital
from layerlens.figures.palette import Palette, color_map, ink_on, palette
from layerlens.figures.scale import signed_scale
from layerlens.result.beside import CHANGE
from layerlens.result.layers import OTHER
from layerlens.result.strip import strip_of, tokens_of_row

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 7.2
_MARGIN = 0.12
_LINE = 0.2  # inches from one line of tokens to the next
_WORDS = 0.16  # the same of a line of words
_GAP = 0.12
_PAD = 0.05  # beside the letters of a token
_LONGEST = 24  # characters of a token
_MOST_DEPTHS = 5
_MOST_TOKENS = 1200  # texts take most of the time: about 0.6 ms each
_TOP, _BAR = 0.46, 1.3


class _Token(NamedTuple):
    """Where a token stands: its line, and its left edge and width in inches."""

    text: str
    line: int
    left: float
    width: float


def strip_figure(
    data: xr.Dataset,
    *,
    steps: Sequence[int] | None = None,
    reach: str = "one",
    position: int = -1,
    theme: str = "light",
    title: str | None = None,
) -> Figure:
    """Draw the text at several depths, each token coloured: blue is positive, red negative.

    Parameters
    ----------
    data : xarray.Dataset
        An answer with a number for each token at each layer, see `layerlens.result.strip`.
    steps : sequence of int, optional
        Entries of the axis of layers to draw; by default up to five, evenly spaced, fewer of a long
        text.
    reach : {"one", "all"}
        Whether colours end at the largest number of each depth, or of all.
    position : int
        A position whose token is framed; -1 for none.
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
        The result has no strips, or there is no such depth or reach.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> ll.relevance(model, "cat dog owl cat", rule="cp").figure(kind="strip")
    <Picture size ... with 1 Axes>
    """
    if reach not in ("one", "all"):
        raise ResultError(f"There is no reach {reach!r} of colours; choose 'one' or 'all'.")
    drawing = _Drawing(data, palette(theme), reach, position)
    chosen = drawing.steps(steps)
    words = broken_title(
        title if title is not None else str(data.attrs.get("question", "Strip")), _WIDTH
    )
    below = wrapped([str(data.attrs.get("model", ""))], _WIDTH)
    notes = [note for note in (drawing.note(len(chosen)), checks_line(data)) if note]
    bottom = notes_height(notes, _WIDTH) + 0.1
    inside = sum(drawing.height(step) for step in chosen)
    height = bottom + inside + _TOP + title_height(words, below)
    figure = new_figure((_WIDTH, height), drawing.colors)
    axes = figure.add_axes((0, bottom / height, 1, inside / height), frameon=False,
                           xlim=(0, _WIDTH), ylim=(0, inside), xticks=[], yticks=[])  # fmt: skip
    top = inside
    for step in chosen:
        drawing.draw(axes, step, top)
        top -= drawing.height(step)
    write_title(figure, words, drawing.colors, below)
    write_notes(figure, notes, drawing.colors)
    return figure


class _Drawing:
    """What all depths of a figure share."""

    def __init__(self, data: xr.Dataset, colors: Palette, reach: str, position: int) -> None:
        self.data, self.colors, self.reach = data, colors, reach
        self.about = strip_of(data)
        axes = self.about["steps"], self.about["items"]
        self.count, _ = (data.sizes[dim] for dim in axes)
        self.values = {name: data[name].transpose(*axes).values for name in self.about["rows"]}
        places = data[axes[1]].values if axes[1] in data.coords else np.arange(data.sizes[axes[1]])
        self.framed = [int(i) for i in np.flatnonzero(places == position)]
        self.tokens = {name: _placed(tokens_of_row(data, self.about, name)) for name in self.values}
        self.lines = {name: row[-1].line + 1 if row else 0 for name, row in self.tokens.items()}

    def steps(self, asked: Sequence[int] | None) -> list[int]:
        """Return the depths to draw."""
        if asked is None:
            room = _MOST_TOKENS // max(1, sum(map(len, self.tokens.values())))
            many = max(1, min(self.count, _MOST_DEPTHS, room))
            begin = self.about["start"] % self.count
            spaced = np.linspace(0, self.count - 1, many) if many > 1 else [begin]
            return sorted({round(float(step)) for step in spaced})
        for step in asked:
            if not -self.count <= step < self.count:
                raise ResultError(
                    f"There is no depth {step}; they count from 0 to {self.count - 1}."
                )
        return [step % self.count for step in asked]

    def height(self, step: int) -> float:
        """Return the inches that a depth takes."""
        words = len(self._beside(step)) + 1 + len(self.values)
        return words * _WORDS + sum(self.lines.values()) * _LINE + _GAP

    def draw(self, axes: Axes, step: int, top: float) -> None:
        """Draw one depth, downwards from the top."""
        y = top - _WORDS
        self._write(axes, y, self._name(step), self.colors.ink, weight="bold")
        for line in self._beside(step):
            y -= _WORDS
            self._write(axes, y, line, self.colors.ink)
        for name, values in self.values.items():
            y -= _WORDS
            norm, kind = self.scale(name, step)
            self._write(axes, y, self._legend(name, norm), self.colors.faint)
            self._bar(axes, y, norm, kind)
            for i, token in enumerate(self.tokens[name]):
                self._token(axes, y - (token.line + 1) * _LINE, token, float(values[step, i]),
                            (norm, kind), framed=i in self.framed)  # fmt: skip
            y -= self.lines[name] * _LINE

    def scale(self, name: str, step: int) -> tuple[Normalize, str]:
        """Return norm and colours: the same for all rows of one unit, so that they compare."""
        unit = self.data[name].attrs.get("units", "1")
        alike = [values if self.reach == "all" else values[step]
                 for other, values in self.values.items()
                 if self.data[other].attrs.get("units", "1") == unit]  # fmt: skip
        every = np.concatenate([values.ravel() for values in alike])
        finite = every[np.isfinite(every)]
        limit = float(np.abs(finite).max(initial=0.0)) or 1.0
        # Tokens have no marks for what lies past the colours: any sign gets some.
        return signed_scale(np.array([-limit, limit]) if (finite < 0).any() else every, limit)

    def _token(
        self,
        axes: Axes,
        y: float,
        token: _Token,
        value: float,
        scale: tuple[Normalize, str],
        *,
        framed: bool,
    ) -> None:
        norm, kind = scale
        known = np.isfinite(value)
        fill: Any = color_map(kind, self.colors)(norm(value)) if known else self.colors.missing
        edge = self.colors.ink if framed else "none"
        corner, size = (token.left, y + 0.01), (token.width - 0.01, _LINE - 0.03)
        axes.add_patch(
            Rectangle(corner, *size, facecolor=fill, edgecolor=edge, linewidth=1.0, gid="token")
        )
        ink = ink_on(fill[:3], self.colors) if known else self.colors.ink
        self._write(axes, y + 0.03, token.text, ink, left=token.left + _PAD)

    def _bar(self, axes: Axes, y: float, norm: Normalize, kind: str) -> None:
        """Draw the colours from one end to the other, to the right of what they are called."""
        left = _WIDTH - _MARGIN - _BAR
        axes.imshow(np.linspace(0, 1, 128)[None], cmap=color_map(kind, self.colors), vmin=0, vmax=1,
                    extent=(left, left + _BAR, y, y + 0.08), aspect="auto", zorder=0)  # fmt: skip
        axes.set_xlim(0, _WIDTH)

    def _legend(self, name: str, norm: Normalize) -> str:
        array = self.data[name]
        unit = str(array.attrs.get("units", "1"))
        ends = f"{norm.vmin:.3g} to {norm.vmax:.3g}" + ("" if unit == "1" else f" {unit}")
        words = capital(str(array.attrs.get("long_name", name)))
        return f"{' · '.join([words, *self._whose(name)])} (colours: {ends})"

    def _whose(self, name: str) -> list[str]:
        """Return what the second side is called, of an array of its own."""
        label = str(self.data.attrs.get("other_label", "other"))
        return [label] if name.startswith(OTHER) else []

    def _name(self, step: int) -> str:
        dim = self.about["steps"]
        label = str(self.data[dim].values[step]) if dim in self.data.coords else str(step)
        # "7_post" is the state after layer 7; other states have names of their own.
        number = label.removesuffix("_post")
        words = f"{axis_words(self.data, dim)} {number}" if number.isdigit() else label
        return capital(words.replace("_", " "))

    def _beside(self, step: int) -> list[str]:
        """Return what is known of a depth as a whole, in lines: of each side its own."""
        sides: dict[str, list[str]] = {}
        for name in self.about["beside"]:
            array, value = self.data[name], self.data[name].values[step]
            unit = str(array.attrs.get("units", "1"))
            number = f"{value:.3g}" + ("" if unit == "1" else f" {unit}")
            side = next((side for side in (OTHER, CHANGE) if name.startswith(side)), "")
            said = sides.setdefault(side, [": ".join([*self._whose(name), ""])])
            said.append(f"{array.attrs.get('long_name', name)} {number}")
        lines = [capital(whose + "; ".join(said)) for whose, *said in sides.values()]
        return wrapped(lines, _WIDTH)

    def note(self, drawn: int) -> str:
        """Return how many of the depths are drawn."""
        return f"{drawn} of {self.count} depths." if drawn < self.count else ""

    def _write(
        self,
        axes: Axes,
        y: float,
        words: str,
        color: str,
        *,
        left: float = _MARGIN,
        weight: str = "normal",
    ) -> None:
        axes.text(left, y, words, fontsize=FONT, family=list(families()), color=color,
                  va="bottom", parse_math=False, weight=weight)  # fmt: skip


def _placed(texts: Sequence[str]) -> list[_Token]:
    """Set tokens in lines as a text is set; a line end among them ends a line."""
    placed: list[_Token] = []
    line, left = 0, _MARGIN
    for text in texts:
        shown = fitted(drawable(text), _LONGEST)
        width = CHARACTER * len(shown) + 2 * _PAD
        if left > _MARGIN and left + width > _WIDTH - _MARGIN:
            line, left = line + 1, _MARGIN
        placed.append(_Token(shown, line, left, width))
        left += width
        if "\n" in text:
            line, left = line + 1, _MARGIN
    return placed
