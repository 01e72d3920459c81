"""The run of layers that the states change least across: one block of layers to take out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from layerlens.errors import InputError
from layerlens.model.integers import is_whole


@dataclass(frozen=True)
class Run:
    """Neighbouring layers.

    Attributes
    ----------
    layers
        Their numbers.
    distance
        Angular distance of the states before and after them, 0 to 1.
    """

    layers: range
    distance: float


def best_run(result: Any, n: int) -> Run:
    """The ``n`` neighbouring layers whose removal the angular distance of states speaks for.

    The states before layer ``l`` and after layer ``l + n - 1`` are compared, and the smallest
    distance wins (of equal ones the first): Gromov et al. (2024), The Unreasonable
    Ineffectiveness of the Deeper Layers, with ``{"token": "last"}`` as the metric's option.

    Parameters
    ----------
    result
        Of ``ll.layer_metrics(model, texts, ["angular_distance"])``, or the distances themselves,
        ``[point, point_other]``.
    n
        How many layers, 0 to all.

    Raises
    ------
    InputError
        When there are no such distances, or ``n`` does not fit.

    Examples
    --------
    >>> best_run(np.abs(np.subtract.outer([0, 1, 1.1, 2.0], [0, 1, 1.1, 2.0])), 1).layers
    range(1, 2)
    """
    distances = _distances(result)
    layers = len(distances) - 1
    if not is_whole(n) or not 0 <= n <= layers:
        raise InputError(f"n is {n!r}; expected a whole number of layers from 0 to {layers}.")
    if n == 0:
        return Run(range(0), 0.0)
    apart = np.diagonal(distances, n)
    if not np.isfinite(apart).all():
        raise InputError(f"Some distances of states {n} layers apart were not measured.")
    first = int(apart.argmin())
    return Run(range(first, first + n), float(apart[first]))


def _distances(result: Any) -> np.ndarray:
    """The matrix of distances of a result, or the one given."""
    data = getattr(result, "data", None)
    if not isinstance(result, np.ndarray) and data is not None:
        if "angular_distance" not in data:
            raise InputError(
                "The result has no angular distances: measure them with "
                'll.layer_metrics(model, texts, ["angular_distance"]).'
            )
        result = data["angular_distance"].values
    found = np.asarray(result, dtype=np.float64)
    if found.ndim != 2 or found.shape[0] != found.shape[1] or len(found) < 2:
        raise InputError(f"Distances of states are [point, point], not {list(found.shape)}.")
    return found
