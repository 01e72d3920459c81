"""Names of curves inside a picture, where they cover neither a curve nor its interval."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING, Literal

import numpy as np
from matplotlib.legend import Legend

from layerlens.figures.canvas import FONT
from layerlens.figures.fonts import families

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

    from layerlens.figures.palette import Palette

Corner = Literal["upper right", "upper left", "lower right", "lower left"]
_CORNERS: tuple[Corner, ...] = ("upper right", "upper left", "lower right", "lower left")
_MOST_COLUMNS = 3
_LETTERS = 30  # of a line of a name: about the width of a panel
_MOST = 0.6  # of the height, for names
_APART = 3.0  # pixels between names and curves


def name_curves(axes: Axes, curves: list[Line2D], colors: Palette) -> Legend:
    """Write the names of curves into a corner that is free, or else above all curves.

    ``loc="best"`` of matplotlib does not see intervals, and takes a corner that is not free where
    none is; here the upright axis is made longer, so that there is room.
    """
    for corner in _CORNERS:
        legend = _legend(axes, curves, colors, corner, 1)
        if _is_free(axes, curves, legend):
            return legend
    for columns in range(min(_MOST_COLUMNS, len(curves)), 0, -1):
        legend = _legend(axes, curves, colors, "upper left", columns)
        if legend.get_window_extent().width <= axes.get_window_extent().width:
            break
    _make_room(axes, legend)
    return legend


def _legend(axes: Axes, curves: list[Line2D], colors: Palette, loc: Corner, columns: int) -> Legend:
    names = [fill(str(curve.get_label()), _LETTERS) for curve in curves]
    legend: Legend = axes.legend(
        handles=curves, labels=names, loc=loc, ncols=columns, columnspacing=1.0, borderpad=0.2,
        labelspacing=0.25, handlelength=2.2, labelcolor=colors.ink, facecolor=colors.page,
        edgecolor="none", framealpha=0.8, prop={"family": list(families()), "size": FONT - 1.5},
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)
    return legend


def _is_free(axes: Axes, curves: list[Line2D], legend: Legend) -> bool:
    """Whether no curve and no interval passes behind the names."""
    box = legend.get_window_extent().padded(_APART)
    to_page = axes.transData.transform_path
    lines = [curve.get_path() for curve in curves]
    bands = [path for band in axes.collections for path in band.get_paths()]
    return not (
        any(to_page(line).intersects_bbox(box, filled=False) for line in lines)
        or any(to_page(band).intersects_bbox(box, filled=True) for band in bands)
    )


def _make_room(axes: Axes, legend: Legend) -> None:
    """Lengthen the upright axis, on its own scale, so that all curves lie below the names."""
    whole, names = axes.get_window_extent(), legend.get_window_extent().padded(_APART)
    share = min((whole.y1 - names.y0) / whole.height, _MOST)
    scale = axes.yaxis.get_transform()
    start, end = axes.get_ylim()
    low, high = scale.transform(np.asarray([start, end]))
    top = scale.inverted().transform(np.asarray([low + (high - low) / (1 - share)]))
    axes.set_ylim(top=float(top[0]))
    # None among the names.
    axes.set_yticks([tick for tick in axes.get_yticks() if start <= tick <= end])
