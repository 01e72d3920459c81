"""Marks in a plane at some layers side by side, and below them the curves of the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D

from layerlens.errors import ResultError
from layerlens.figures.canvas import (
    FONT,
    checks_line,
    new_figure,
    notes_height,
    wrapped,
    write_notes,
    write_title,
)
from layerlens.figures.fonts import drawable, families
from layerlens.figures.palette import Palette, color_map, palette
from layerlens.figures.panels import Panel, draw_panel, write_panel_title
from layerlens.result.layers import arrays_of
from layerlens.result.scatter import LABEL, Scatter, scatter_of

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HUES = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7")
"""Colours that are told apart with any kind of sight (Okabe and Ito 2008)."""
SHAPES = ("o", "s", "^", "D", "v", "P", "*")
NONE = "#8a919a"
_DEPTHS = (0.3, 0.92)  # of the ramp: its ends are lost on a dark and on a light page
_MOST_STEPS = 8
_ACROSS = 4
_SIDE, _GAP = 1.75, 0.42  # inches: of a picture, and between two
_LEFT = 0.5
_CURVES = 1.5
_ROOM = 0.05


def scatter_figure(
    data: xr.Dataset,
    *,
    steps: Sequence[int] | None = None,
    hidden_labels: Sequence[str] = (),
    fitted: bool = True,
    axes: str = "all",
    item: int = -1,
    theme: str = "light",
    title: str | None = None,
) -> Figure:
    """Draw a scatter at several layers, a picture each, and the curves that go with it.

    Parameters
    ----------
    data : xarray.Dataset
        An answer with two arrays over the same axes, see `layerlens.result.scatter`.
    steps : sequence of int, optional
        Entries of the slider to draw; by default up to eight, evenly spaced.
    hidden_labels : sequence of str
        Labels whose marks are left out.
    fitted : bool
        Whether marks that the axes were fitted on are drawn, as outlines.
    axes : {"all", "one"}
        Whether the axes of all pictures are the same.
    item : int
        A mark that is ringed; -1 for none.
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
        The result is no scatter, or there is no such step.
    """
    about = scatter_of(data)
    colors = palette(theme)
    chosen = _steps(data.sizes[about["steps"]], steps)
    drawing = _Drawing(data, about, colors, set(hidden_labels), fitted, axes, item)
    pictures = [(row, step) for row in range(drawing.rows) for step in chosen]
    per_row = -(-len(chosen) // -(-len(chosen) // _ACROSS))
    lines = drawing.rows * -(-len(chosen) // per_row)
    curves = [Panel([one]) for one in arrays_of(data) if about["items"] not in one["dims"]
              and one["kind"] in ("curve", "lines") and one["dtype"] != "token"]  # fmt: skip
    width = max(_LEFT + per_row * (_SIDE + _GAP), 6.2)
    notes = [note for note in (drawing.words(), checks_line(data)) if note]
    bottom = notes_height(notes, width) + 0.15
    below = bottom + (_CURVES + 0.75 if curves else 0.0)
    legend = 0.22 * drawing.legend_rows(width)
    height = below + lines * (_SIDE + _GAP) + legend + 0.62
    figure = new_figure((width, height), colors)
    for number, (row, step) in enumerate(pictures):
        line, column = row * (lines // drawing.rows) + (number % len(chosen)) // per_row, (
            number % len(chosen)) % per_row  # fmt: skip
        left = _LEFT + column * (_SIDE + _GAP)
        low = height - 0.62 - legend - line * (_SIDE + _GAP) - _SIDE
        box = (left / width, low / height, _SIDE / width, _SIDE / height)
        drawing.draw(figure.add_axes(box, facecolor=colors.page), row, step)
    room = (width - _LEFT) / max(1, len(curves))
    for number, panel in enumerate(curves):
        box = ((_LEFT + number * room) / width, (bottom + 0.35) / height,
               (room - 0.35) / width, _CURVES / height)  # fmt: skip
        drawn = draw_panel(figure, box, panel, data, colors, "linear")
        write_panel_title(drawn, panel, data, colors)
    drawing.legend(figure)
    words = title if title is not None else str(data.attrs.get("question", "Scatter"))
    write_title(figure, words, colors, wrapped([str(data.attrs.get("model", ""))], width))
    write_notes(figure, notes, colors)
    return figure


def _steps(count: int, steps: Sequence[int] | None) -> list[int]:
    if steps is None:
        return sorted(set(np.linspace(0, count - 1, min(count, _MOST_STEPS)).round().astype(int)))
    for step in steps:
        if not -count <= step < count:
            raise ResultError(f"There is no step {step}; they count from 0 to {count - 1}.")
    return [step % count for step in steps]


class _Drawing:
    """What all pictures of a figure share."""

    def __init__(
        self,
        data: xr.Dataset,
        about: Scatter,
        colors: Palette,
        hidden: set[str],
        fitted: bool,
        axes: str,
        item: int,
    ) -> None:
        self.data, self.about, self.colors = data, about, colors
        self.axes, self.item = axes, item
        found = [data[about[name]].values for name in ("x", "y")]
        self.x, self.y = (one if one.ndim == 3 else one[None] for one in found)
        self.rows, _, self.size = self.x.shape
        self.hollow = np.array(about["fitted"] or np.zeros(self.size), dtype=bool)
        own = np.arange(self.size) if about["colors"] in ("own", "depth") else np.zeros(self.size)
        label = data[LABEL].values if about["colors"] == "label" else own.astype(int)
        self.label = np.broadcast_to(label, (self.rows, self.size))
        names = about["labels"]
        self.hidden = [names.index(name) for name in hidden if name in names]
        self.kept = ~self.hollow | fitted

    def hue(self, label: int) -> Any:
        if self.about["colors"] == "depth":
            depth = _DEPTHS[0] + (_DEPTHS[1] - _DEPTHS[0]) * label / max(1, self.size - 1)
            return color_map("viridis", self.colors)(depth)
        return HUES[label % len(HUES)] if label >= 0 else NONE

    def draw(self, axes: Axes, row: int, step: int) -> None:
        """Draw one picture."""
        x, y = self.x[row, step], self.y[row, step]
        for label in np.unique(self.label[row]):
            for hollow in (True, False):
                here = (self.label[row] == label) & (self.hollow == hollow) & self.kept
                if label in self.hidden or not here.any():
                    continue
                shape = "o" if self.about["colors"] == "depth" or label < 0 else SHAPES[
                    label % len(SHAPES)]  # fmt: skip
                hue = self.hue(int(label))
                axes.scatter(
                    x[here], y[here], s=self._area(), marker=shape,
                    facecolors="none" if hollow else [hue],
                    edgecolors=[hue] if hollow else self.colors.ink,
                    linewidths=0.6 if hollow else 0.25, gid="marks",
                )  # fmt: skip
        if self.item >= 0:
            axes.scatter(x[self.item], y[self.item], s=60, facecolors="none",
                         edgecolors=self.colors.ink, linewidths=1.2, gid="chosen")  # fmt: skip
        self._dress(axes, row, step)

    def _area(self) -> float:
        return 14.0 if self.size <= 500 else 5.0 if self.size <= 3000 else 2.0

    def _dress(self, axes: Axes, row: int, step: int) -> None:
        place = slice(None) if self.axes == "all" else slice(step, step + 1)
        ends = [_ends(values[:, place]) for values in (self.x, self.y)]
        if self.about["equal"]:  # one scale: both are as long as the longer one
            half = max(high - low for low, high in ends) / 2
            ends = [((low + high) / 2 - half, (low + high) / 2 + half) for low, high in ends]
        axes.set_xlim(*ends[0])
        axes.set_ylim(*ends[1])
        axes.tick_params(labelsize=FONT - 1.5, colors=self.colors.ink, length=2)
        axes.locator_params(nbins=4)
        axes.grid(color=self.colors.faint, alpha=0.2, linewidth=0.4)
        axes.set_axisbelow(True)
        for spine in axes.spines.values():
            spine.set_color(self.colors.faint)
            spine.set_linewidth(0.5)
        axes.set_title(
            _shown(self._name(row, step)), fontsize=FONT, family=list(families()),
            color=self.colors.ink, parse_math=False, loc="left", pad=3,
        )  # fmt: skip

    def _name(self, row: int, step: int) -> str:
        dim = self.about["steps"]
        name = str(self.data[dim].values[step]) if dim in self.data.coords else f"{dim} {step}"
        picture = self.about["pictures"]
        if self.rows == 1 or picture not in self.data.coords:
            return name
        return f"{name}, {picture} {self.data[picture].values[row]}"

    def words(self) -> str:
        """Return what the axes are."""
        long = [str(self.data[name].attrs.get("long_name", name))
                for name in (self.about["x"], self.about["y"])]  # fmt: skip
        units = str(self.data[self.about["x"]].attrs.get("units", "1"))
        unit = "" if units == "1" else f" (in {units})"
        outlines = ". Outlines: axes were fitted on these" if self.hollow.any() else ""
        return f"Across: {long[0]}; up: {long[1]}{unit}{outlines}."

    def legend_rows(self, width: float) -> int:
        """Return the lines that the names of labels take."""
        names = self._named()
        return -(-len(names) // self._columns(names, width)) if names else 0

    def _named(self) -> list[str]:
        if self.about["colors"] == "depth":
            words = self.about["words"]
            return [words[0], words[-1]]
        return [name for i, name in enumerate(self.about["labels"]) if i not in self.hidden]

    def _columns(self, names: Sequence[str], width: float) -> int:
        return max(1, min(len(names), int(width / (0.35 + 0.062 * max(map(len, names))))))

    def legend(self, figure: Figure) -> None:
        """Write the labels under the title."""
        names = self._named()
        if not names:
            return
        width, height = figure.get_size_inches()
        numbers = ([0, self.size - 1] if self.about["colors"] == "depth"
                   else [self.about["labels"].index(name) for name in names])  # fmt: skip
        handles = [
            Line2D([], [], linestyle="", marker="o" if self.about["colors"] == "depth" else
                   SHAPES[number % len(SHAPES)], color=self.hue(number), markersize=4.5,
                   markeredgecolor=self.colors.ink, markeredgewidth=0.3, label=_shown(name))
            for number, name in zip(numbers, names, strict=True)
        ]  # fmt: skip
        legend = figure.legend(
            handles=handles, loc="upper left", bbox_to_anchor=(0.05 / width, 1 - 0.46 / height),
            ncols=self._columns(names, width), frameon=False, labelcolor=self.colors.ink,
            prop={"family": list(families()), "size": FONT}, borderpad=0.1, handletextpad=0.1,
            columnspacing=1.0,
        )  # fmt: skip
        for text in legend.get_texts():
            text.set_parse_math(False)


def _shown(text: str) -> str:
    """Return what can be drawn of a text, its spaces as they are."""
    return drawable(text).replace("␣", " ")


def _ends(values: np.ndarray) -> tuple[float, float]:
    if not np.isfinite(values).any():
        return -1.0, 1.0
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    room = _ROOM * ((high - low) or abs(high) or 1.0)
    return low - room, high + room
