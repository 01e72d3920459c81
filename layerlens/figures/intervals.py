"""Intervals around values: a band along a curve, bars of things that nothing lies between."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""Marks of several values at one name, which no dashes tell apart."""


def draw_interval(
    axes: Axes,
    x: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    color: str,
    *,
    joined: bool = True,
    alpha: float = 0.18,
) -> None:
    """Draw the interval of each place, joined where places follow each other.

    Parameters
    ----------
    axes
        Of the panel.
    x, low, high
        ``[n]``: places, and the two ends.
    color
        Of the values.
    joined
        Whether something lies between two places, so that a band runs through.
    alpha
        Of the band.
    """
    if joined:
        axes.fill_between(x, low, high, color=color, alpha=alpha, linewidth=0)
    else:
        axes.vlines(x, low, high, color=color, linewidth=1.2, alpha=0.7, gid="interval")
