"""Spearman's correlation, how far it is from that of chance, and between which bounds it lies."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from layerlens.metrics.bootstrap import DRAWS

Floats = NDArray[np.float64]


class Correlation(NamedTuple):
    """Spearman's correlation of two curves, and what chance makes of them.

    Attributes
    ----------
    value
        -1 to 1; NaN where a curve is flat.
    null_low, null_high
        Within which 95 % of the correlations lie when one curve's points are dealt out anew.
    p
        Share of such draws that are at least as far from 0 (the curve as it is counts as one).
    p_shifted
        The same over all turns of one curve by some points and their mirror images, which leave
        neighbours alike as they are.
    """

    value: float
    null_low: float
    null_high: float
    p: float
    p_shifted: float


def spearman(one: Floats, other: Floats) -> Floats:
    """Correlation of the ranks along the last axis; NaN where all are equal.

    Examples
    --------
    >>> float(spearman(np.array([1.0, 2.0, 9.0]), np.array([5.0, 6.0, 7.0])))
    1.0
    """
    ranks = [rankdata(values, axis=-1) for values in (one, other)]
    a, b = (rank - rank.mean(-1, keepdims=True) for rank in ranks)
    size = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    found: Floats = np.where(size > 0, (a * b).sum(-1) / np.where(size > 0, size, 1), np.nan)
    return found


def against_chance(one: Floats, other: Floats, seed: int) -> Correlation:
    """Correlate two curves over depth, ``[n]`` each, and compare with points dealt out anew.

    Examples
    --------
    >>> curve = np.arange(8.0)
    >>> found = against_chance(curve, -curve, seed=0)
    >>> found.value, found.p < 0.01
    (-1.0, True)
    """
    value = float(spearman(one, other))
    if not np.isfinite(value):
        return Correlation(*[float("nan")] * 5)
    random = np.random.default_rng(seed)
    drawn = spearman(one, random.permuted(np.tile(other, (DRAWS, 1)), axis=1))
    low, high = np.percentile(drawn, [2.5, 97.5])
    turned = np.stack([np.roll(way, n) for way in (other, other[::-1]) for n in range(len(other))])
    far = abs(value) - 1e-12
    p = (1 + (abs(drawn) >= far).sum()) / (DRAWS + 1)
    p_shifted = float((abs(spearman(one, turned)) >= far).mean())
    return Correlation(value, float(low), float(high), float(p), p_shifted)


def between(one: Floats, other: Floats) -> tuple[float, float, float]:
    """Correlation over ``n`` pairs and its 95 % interval, by drawing pairs anew."""
    drawn = np.random.default_rng(0).integers(0, len(one), (DRAWS, len(one)))
    found = spearman(one[drawn], other[drawn])
    if not np.isfinite(found).any():
        return float("nan"), float("nan"), float("nan")
    low, high = np.nanpercentile(found, [2.5, 97.5])
    return float(spearman(one, other)), float(low), float(high)
