"""The resampler of every interval: means over texts, drawn again with texts put back."""

from __future__ import annotations

import numpy as np

DRAWS = 1000
"""Resamples of the bootstrap (Efron 1979)."""


def resamples(n: int, seed: int = 0) -> np.ndarray:
    """How often each of ``n`` texts is drawn: ``[draw, text]`` float64, rows that sum to ``n``."""
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=DRAWS)
    return draws.astype(np.float64)


def ends(
    found: np.ndarray, several: np.ndarray, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of the percentile interval over draws.

    Parameters
    ----------
    found
        ``[draw, cell]``; NaN for a draw that holds no text with the cell.
    several
        ``[cell]`` bool: whether more than one text has it.
    level
        Share of the draws inside the interval.

    Returns
    -------
    low, high
        ``[cell]`` float64; NaN where not several texts have the cell.
    """
    low, high = np.full((2, found.shape[1]), np.nan)
    tail = 50 * (1 - level)
    if several.any():
        low[several], high[several] = np.nanpercentile(
            found[:, several], [tail, 100 - tail], axis=0
        )
    return low, high
