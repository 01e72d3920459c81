"""From which point on the answer of a lens is the model's own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from layerlens.analyses.lenses.points import Point


def settled(points: Sequence[Point], n_layers: int, same: np.ndarray) -> dict[str, np.ndarray]:
    """First point whose answer is the final one, and the one from which it stays so.

    Parameters
    ----------
    points
        Rows of the lens without the final one; those that are no state do not count.
    n_layers
        Of the model; the layer of the final row.
    same
        ``[points + 1, N]`` bool, whether an answer is the final one.

    Returns
    -------
    dict of ndarray
        ``first_point``, ``settle_point`` (indices), ``first_layer``, ``settle_layer``: ``[N]``.
    """
    index = np.array([i for i, point in enumerate(points) if point.is_state] + [len(points)])
    layers = np.array([point.layer for point in points] + [n_layers])
    same = same[index]
    stays = np.flip(np.logical_and.accumulate(np.flip(same, 0), 0), 0)
    first, settle = index[same.argmax(0)], index[stays.argmax(0)]
    return {
        "first_point": first,
        "settle_point": settle,
        "first_layer": layers[first],
        "settle_layer": layers[settle],
    }
