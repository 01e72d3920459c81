"""Means over several texts, with the interval that the choice of texts leaves open."""

from __future__ import annotations

import numpy as np

from layerlens.metrics.bootstrap import ends, resamples


def mean_interval(
    values: np.ndarray,
    over: np.ndarray | None = None,
    *,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over texts and its percentile bootstrap interval (Efron 1979), texts resampled.

    Parameters
    ----------
    values
        [text, ...]; NaN where a text has no such cell, which is then left out.
    over
        [text] denominators: the mean is the ratio of means ``mean(values) / mean(over)``, which
        is not led by texts whose denominator is small.
    level
        Share of resamples inside the interval.
    seed
        Of the resamples, so that the same numbers give the same interval.

    Returns
    -------
    mean, low, high
        [...] float64 each; NaN where no text has the cell, ``low`` and ``high`` NaN where only
        one has.
    """
    values = np.asarray(values, dtype=np.float64)
    shape = values.shape[1:]
    flat = values.reshape(len(values), -1)
    known = np.isfinite(flat)
    base = np.ones(len(flat)) if over is None else np.asarray(over, dtype=np.float64)
    filled = np.where(known, flat, 0.0)
    weights = known * base[:, None]
    draws = resamples(len(flat), seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = filled.sum(0) / weights.sum(0)
        resampled = (draws @ filled) / (draws @ weights)
    resampled[~np.isfinite(resampled)] = np.nan
    low, high = ends(resampled, known.sum(0) > 1, level)
    mean[~np.isfinite(mean)] = np.nan
    return mean.reshape(shape), low.reshape(shape), high.reshape(shape)
