"""How well each lens does at each depth, as curves beside the rows of the table."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from layerlens.figures.canvas import FONT
from layerlens.figures.fonts import families
from layerlens.figures.layout import frame
from layerlens.figures.lens_marks import Pin
from layerlens.figures.palette import Palette

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from layerlens.figures.layout import Layout
    from layerlens.figures.lens_marks import Table

ASIDE = 0.85
"""Inches that the curves take beside the table."""
_GAP = 0.08
BEYOND = 2
"""Of a uniform guess: worse values stand at the edge. A lens that is a hundred nats off would
flatten the curves that are worth a look."""
FADED = 0.55
"""How much of the page covers what is not to be believed."""


@dataclass(frozen=True)
class Score:
    """KL of one lens from the final answer, nats, at every point; whether on texts set apart.

    ``uniform`` is that of a uniform guess on the same texts; NaN where it is not known.
    """

    name: str
    values: NDArray[np.float64]
    heldout: bool
    uniform: float

    def worse(self) -> NDArray[np.bool_]:
        """Return at which points it does worse than a uniform guess."""
        found: NDArray[np.bool_] = self.values > self.uniform  # False for NaN
        return found


def scores_of(data: xr.Dataset) -> list[Score]:
    """Return how each lens does; nothing for the logit lens alone.

    What was measured on texts that were set apart when a lens was fitted counts; where nothing
    was, it is the mean over the positions of this text.
    """
    found = []
    for i, told in enumerate(json.loads(data.attrs.get("lenses", "[]"))):
        each = data.isel(lens=i) if "lens" in data.dims else data
        known = each["heldout_kl"].values if "heldout_kl" in each.coords else np.array([np.nan])
        heldout = bool(np.isfinite(known).any())
        here = known if heldout else each["kl_to_final"].mean("position").values
        uniform = each.coords.get("heldout_uniform", np.nan) if heldout else _uniform_here(each)
        found.append(Score(str(told["name"]), here.astype(np.float64), heldout, float(uniform)))
    return found


def _uniform_here(data: xr.Dataset) -> float:
    """KL of a uniform guess from the final answer on this text: ln V less the mean entropy."""
    final = float(data["entropy"].isel(point=-1).mean())
    return float(np.log(data.attrs["d_vocab"]) - final)


def guesses_of(scores: list[Score]) -> list[float]:
    """Return where a uniform guess lies, once for all lenses that were read on the same texts."""
    return sorted({score.uniform for score in scores if np.isfinite(score.uniform)})


def score_words(scores: list[Score]) -> str:
    """Return what the curves show, in a line."""
    own = [score.name for score in scores if not score.heldout]
    where = "on texts set apart when it was fitted" if len(own) < len(scores) else "on this text"
    if own and len(own) < len(scores):
        where += f" ({', '.join(own)}: on this text)"
    words = f"beside the rows: KL of each lens from the final answer {where}"
    guesses = " and ".join(f"{guess:.2f}" for guess in guesses_of(scores))
    if not guesses:
        return words
    return (
        f"{words}; dotted: that of a uniform guess, {guesses} nats; rows beyond are hatched, and "
        f"what is beyond {BEYOND} times as much stands at the edge"
    )


def _end_of(scores: list[Score]) -> float:
    """Return where the axis of the curves ends, in nats."""
    known = np.concatenate([score.values[np.isfinite(score.values)] for score in scores])
    guesses = guesses_of(scores)
    most = 1.1 * max(1e-9, *guesses, *(float(value) for value in known))
    return min(most, BEYOND * max(guesses)) if guesses else most


def score_color(colors: Palette, number: int) -> str:
    """Return the colour of a lens; pins count from the other end."""
    return colors.lines[-1 - number % len(colors.lines)]


def draw_scores(
    figure: Figure,
    scores: list[Score],
    rows: list[int],
    layout: Layout,
    colors: Palette,
) -> Axes:
    """Draw a curve for each lens to the right of the table, its points in line with the rows."""
    width, height = layout.size
    count, columns = layout.shape
    left = layout.left + columns * layout.cell[0] + _GAP
    place = (left, layout.bottom, ASIDE - 2 * _GAP, count * layout.cell[1])
    axes = figure.add_axes(
        (place[0] / width, place[1] / height, place[2] / width, place[3] / height),
        facecolor=colors.page,
    )
    most = _end_of(scores)
    for number, score in enumerate(scores):
        axes.plot(
            np.minimum(score.values[rows], most), np.arange(count) + 0.5,
            color=score_color(colors, number), linewidth=1.2, gid="score",
        )  # fmt: skip
    for guess in guesses_of(scores):
        axes.axvline(guess, color=colors.ink, linewidth=0.8, linestyle=":", gid="uniform")
    axes.set_ylim(0, count)
    axes.set_xlim(0, most)
    axes.set_yticks([])
    axes.set_xlabel("KL (nats)", fontsize=FONT, color=colors.ink, family=list(families()))
    axes.tick_params(axis="x", labelsize=FONT - 1, colors=colors.ink, length=2)
    frame(axes, colors)
    return axes


def hatch_rows(
    axes: Axes, points: NDArray[np.bool_], table: Table, colors: Palette, columns: range
) -> None:
    """Dim and hatch the cells of points that are not to be believed."""
    style: dict[str, Any] = {"linewidth": 0, "edgecolor": colors.faint, "alpha": FADED}
    for point in np.flatnonzero(points):
        first, last = (table.place(int(point), at) for at in (columns[0], columns[-1]))
        corner = (min(first[0], last[0]), min(first[1], last[1]))
        wide, high = abs(last[0] - first[0]) + 1, abs(last[1] - first[1]) + 1
        box = Rectangle(corner, wide, high, hatch="////", facecolor=colors.page, **style)
        axes.add_patch(box).set_gid("worse")


def keys_of(scores: list[Score], colors: Palette) -> list[Pin]:
    """Return the names of the lenses beside their colours, as the key of the figure has them."""
    return [
        Pin(f"{score.name} lens", score_color(colors, number), [])
        for number, score in enumerate(scores)
    ]


@dataclass(frozen=True)
class Aside:
    """The curves beside a table, and which lenses the table itself shows.

    Parameters
    ----------
    scores
        Of all lenses; empty where there is nothing to say.
    shown
        Which of them the columns show, in equal parts from the left.
    """

    scores: list[Score]
    shown: tuple[int, ...]

    def draw(
        self,
        axes: Axes,
        rgba: NDArray[np.float64],
        rows: list[int],
        layout: Layout,
        table: Table,
        colors: Palette,
    ) -> None:
        """Draw the curves, and hatch the rows in which a lens does worse than a uniform guess.

        The colours of their cells, `rgba`, become those that are seen through the hatching.
        """
        if not self.scores:
            return
        figure = axes.figure
        if layout.aside:
            draw_scores(figure, self.scores, rows, layout, colors)  # type: ignore[arg-type]
        each = table.positions // max(len(self.shown), 1)
        for part, lens in enumerate(self.shown):
            worse = self.scores[lens].worse()[rows]
            columns = range(part * each, (part + 1) * each)
            hatch_rows(axes, worse, table, colors, columns)
            places = [table.place(int(p), at) for p in np.flatnonzero(worse) for at in columns]
            for column, row in places:
                seen = rgba[row, column, :3]
                seen += FADED * (np.array(to_rgb(colors.page)) - seen)
