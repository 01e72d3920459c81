"""In what share of resamples of texts a rule picks a layer from a curve over layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from layerlens.metrics.bootstrap import resamples

Rule = Callable[[np.ndarray], np.ndarray]
"""Mean curves ``[draw, ..., layer]`` to ``[draw, layer]`` bool: which layers are picked."""

SURE = 0.8
"""From which share on a layer is said to be picked."""


def picked(rule: Rule, curves: np.ndarray, seed: int = 0) -> np.ndarray:
    """How often a rule picks each layer of the mean curve, texts drawn again with putting back.

    Parameters
    ----------
    rule
        What is asked of a mean curve.
    curves
        ``[text, ..., layer]``, the curve (or curves) of each text.
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
    means = np.tensordot(resamples(len(curves), seed) / len(curves), curves, 1)
    return np.asarray(rule(means).mean(0))


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


def summits(curves: np.ndarray) -> np.ndarray:
    """Which entries of each curve are above both neighbours; the ends have one only and are not.

    Examples
    --------
    >>> summits(np.array([[9.0, 1.0, 3.0, 2.0, 2.0, 8.0]])).nonzero()[1].tolist()
    [2]
    """
    found = np.zeros(curves.shape, dtype=bool)
    inner = curves[:, 1:-1]
    found[:, 1:-1] = (inner > curves[:, :-2]) & (inner > curves[:, 2:])
    return found


def in_words(layers: Sequence[int]) -> str:
    """Layers in a sentence.

    Examples
    --------
    >>> in_words([3, 4])
    'layers 3, 4'
    """
    return f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))}"
