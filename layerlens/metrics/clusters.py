"""Runs of neighbouring layers that are alike."""

from __future__ import annotations

import numpy as np

from layerlens.errors import InputError

LEFT_OVER = 0.1
"""Without a number of clusters, the fewest that leave this share of the scatter within them."""
MOST = 8
"""And no more than this many, which a reader can still tell apart."""


def scatter(similarity: np.ndarray) -> np.ndarray:
    """Scatter within each run of points, ``[first, last]``, from a similarity ``[point, point]``.

    ``sum_a S_aa - sum_ab S_ab / size`` over the points a, b of the run: the sum of squared
    distances from their mean where S holds scalar products. Never below 0.
    """
    similarity = (similarity + similarity.T) / 2
    n = len(similarity)
    total = np.zeros((n + 1, n + 1))
    total[1:, 1:] = similarity.cumsum(0).cumsum(1)
    own = np.concatenate([[0], np.diagonal(similarity).cumsum()])
    found = np.zeros((n, n))
    for first in range(n):
        ends = np.arange(first + 1, n + 1)
        inside = total[ends, ends] - total[first, ends] - total[ends, first] + total[first, first]
        found[first, first:] = own[ends] - own[first] - inside / (ends - first)
    return found.clip(min=0)


def clusters(matrix: np.ndarray, n: int | None = None) -> list[tuple[int, int]]:
    """Runs of neighbours in a matrix of distances or similarities.

    Parameters
    ----------
    matrix
        [n, n]. Distances where the diagonal is below the rest on average, else similarities.
        Where one half is NaN the other is taken for both.
    n
        How many; see :func:`contiguous`.

    Returns
    -------
    list of (int, int)
        First and last entry of each run, in order; empty where numbers are missing.

    Examples
    --------
    >>> clusters(np.kron(np.eye(2), np.ones((3, 3))))
    [(0, 2), (3, 5)]
    """
    both = np.asarray(matrix, dtype=np.float64)
    both = np.where(np.isfinite(both), both, both.T)
    off = ~np.eye(len(both), dtype=bool)
    if off.any() and np.isnan(np.diagonal(both)).all():
        np.fill_diagonal(both, 0.0)  # distances whose zeros were left out
    if off.any() and np.diagonal(both).mean() < both[off].mean():
        both = both[off].max() - both
    label = contiguous(both, n)
    if not len(label) or label[0] < 0:
        return []
    ends = np.flatnonzero(np.diff(label, append=label[-1] + 1))
    starts = [0, *(ends[:-1] + 1).tolist()]
    return list(zip(starts, ends.tolist(), strict=True))


def contiguous(similarity: np.ndarray, n: int | None = None) -> np.ndarray:
    """Cut the points into runs of neighbours so that the scatter within the runs is least.

    Dynamic programming over all cuts finds the best (kernel change points: Harchaoui and Cappé
    2007, "Retrospective multiple change-point estimation with kernels"). Of equally good cuts the
    leftmost is taken.

    Parameters
    ----------
    similarity
        [point, point], 1 on the diagonal; made symmetric by averaging with its transpose.
    n
        How many runs; None for the fewest that leave at most a tenth of the scatter that all
        points have about their one mean, and at most eight.

    Returns
    -------
    np.ndarray
        [point] int32, number of the run from 0; -1 everywhere where a similarity is NaN.

    Raises
    ------
    InputError
        When there are fewer points than runs.
    """
    points = len(similarity)
    if n is not None and not 1 <= n <= points:
        raise InputError(f"{n} clusters were asked for: expected 1 to {points}, or None.")
    if not np.isfinite(similarity).all():
        return np.full(points, -1, dtype=np.int32)
    cost = scatter(similarity)
    rounding = 1e-12 * max(1.0, abs(np.trace(similarity)))
    best, cuts = cost[0], [np.zeros(points, dtype=int)]
    enough = LEFT_OVER * cost[0, -1] + rounding
    for _ in range(1, n if n is not None else min(points, MOST)):
        if n is None and best[-1] <= enough:
            break
        best, cut = _one_more(best, cost, rounding)
        cuts.append(cut)
    return _runs(cuts)


def _one_more(best: np.ndarray, cost: np.ndarray, rounding: float) -> tuple[np.ndarray, np.ndarray]:
    """The least scatter up to each point with one run more, and where the last run begins."""
    points = len(best)
    found, cut = np.full(points, np.inf), np.zeros(points, dtype=int)
    for last in range(1, points):
        ways = best[:last] + cost[1 : last + 1, last]
        cut[last] = 1 + int(np.argmax(ways <= ways.min() + rounding))
        found[last] = ways.min()
    return found, cut


def _runs(cuts: list[np.ndarray]) -> np.ndarray:
    points = len(cuts[0])
    found = np.zeros(points, dtype=np.int32)
    end = points
    for number in range(len(cuts) - 1, -1, -1):
        first = int(cuts[number][end - 1])
        found[first:end] = number
        end = first
    return found
