"""In what share of resamples of texts a rule picks a layer from a curve over layers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from layerlens.metrics.bootstrap import resamples

Rule = Callable[[np.ndarray], np.ndarray]
"""Curves ``[curve, layer]`` to ``[curve, layer]`` bool: which layers are picked."""

SURE = 0.8
"""From which share on a layer is said to be picked."""


def picked(rule: Rule, curves: np.ndarray, seed: int = 0) -> np.ndarray:
    """How often a rule picks each layer of the mean curve, texts drawn again with putting back.

    Parameters
    ----------
    rule
        What is asked of a mean curve.
    curves
        ``[text, layer]``, the curve of each text.
    seed
        Of the draws.

    Returns
    -------
    np.ndarray
        ``[layer]`` float64 from 0 to 1. With a single text every draw is that text: 0 or 1.

    Examples
    --------
    >>> curves = np.array([[1.0, 1.0, 5.0], [1.0, 1.0, 4.0]])
    >>> picked(lambda means: means > 3, curves).tolist()
    [0.0, 0.0, 1.0]
    """
    return np.asarray(rule(resamples(len(curves), seed) @ curves / len(curves)).mean(0))


def far_above(curves: np.ndarray, rounding: float) -> np.ndarray:
    """Which layers of each curve stand more than one standard deviation above its mean.

    Parameters
    ----------
    curves
        ``[curve, layer]``.
    rounding
        Standard deviations below this share of the mean are none.

    Examples
    --------
    >>> far_above(np.array([[1.0, 1.0, 1.0, 5.0], [2.0, 2.0, 2.0, 2.0]]), 1e-6).sum(1).tolist()
    [1, 0]
    """
    mean, spread = curves.mean(-1, keepdims=True), curves.std(-1, keepdims=True)
    found: np.ndarray = (curves > mean + spread) & (spread > rounding * np.abs(mean))
    return found
