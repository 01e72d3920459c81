"""Values past an end of the colours: a triangle on each of their cells, and words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from layerlens.figures.palette import Palette, ink_on

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.colors import Norm

_SLACK = 0.01  # by so much of the scale a number may pass an end and still look like it


def past_ends(values: np.ndarray, norm: Norm) -> tuple[np.ndarray, np.ndarray]:
    """Return which values lie below the colours and which above, bool in the shape of `values`."""
    low, high = np.asarray([norm.vmin, norm.vmax], dtype=np.float64)
    slack = _SLACK * (high - low)
    with np.errstate(invalid="ignore"):
        return values < low - slack, values > high + slack


def extends(values: np.ndarray, norm: Norm) -> str:
    """Return at which ends values lie past the colours, as matplotlib's colour bars have it."""
    under, over = (bool(cells.any()) for cells in past_ends(values, norm))
    return "both" if under and over else "min" if under else "max" if over else "neither"


def mark_past(axes: Axes, values: np.ndarray, mesh: QuadMesh, colors: Palette) -> None:
    """Draw a small triangle on each cell past an end of the colours, pointing where it lies."""
    norm = mesh.norm
    for cells, end, marker in zip(past_ends(values, norm), (0.0, 1.0), "v^", strict=True):
        if not cells.any():
            continue
        row, column = np.nonzero(cells)
        red, green, blue, _ = mesh.cmap(end)
        axes.plot(
            column + 0.94, row + 0.85, linestyle="", marker=marker, markersize=2.6,
            color=ink_on((red, green, blue), colors), markeredgewidth=0, gid="past",
        )  # fmt: skip


def past_words(values: np.ndarray, norm: Norm) -> str:
    """Say how many values lie past the colours, and how far."""
    under, over = past_ends(values, norm)
    said = []
    if over.any():
        said.append(f"{_lie(over)} above {norm.vmax:g} (to {values[over].max():.3g})")
    if under.any():
        said.append(f"{_lie(under)} below {norm.vmin:g} (to {values[under].min():.3g})")
    return f"{', '.join(said)}, marked by a triangle" if said else ""


def _lie(cells: np.ndarray) -> str:
    count = int(cells.sum())
    return f"{count} cells lie" if count > 1 else "1 cell lies"
