"""How well scores tell two kinds of things apart: the area under the ROC curve, with controls."""

from __future__ import annotations

import numpy as np

from layerlens.metrics.bootstrap import DRAWS, ends, resamples


def auroc(scores: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """The chance that a positive has a larger score than a negative, ties counting half.

    The area under the ROC curve, by Mann and Whitney's U (Hanley and McNeil 1982).

    Parameters
    ----------
    scores
        ``[n]``, finite.
    positive, negative
        ``[draw, n]`` how often each counts as one and as the other.

    Returns
    -------
    ndarray
        ``[draw]`` float64; NaN where one kind is missing.

    Examples
    --------
    >>> is_one = np.array([[0, 1, 1]])
    >>> auroc(np.array([0.1, 0.1, 0.9]), is_one, 1 - is_one).tolist()
    [0.75]
    """
    order = np.argsort(scores, kind="stable")
    first = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    ones, zeros = (np.add.reduceat(each[:, order], first, axis=1) for each in (positive, negative))
    below = zeros.cumsum(1) - zeros / 2
    pairs = ones.sum(1) * zeros.sum(1)
    found: np.ndarray = (ones * below).sum(1) / np.where(pairs > 0, pairs, np.nan)
    return found


def with_controls(
    scores: np.ndarray, positive: np.ndarray, group: np.ndarray, seed: int = 0
) -> dict[str, np.ndarray]:
    """The area with its interval, and what shuffled labels give.

    Parameters
    ----------
    scores
        ``[n]``; what has none (NaN) is left out.
    positive
        ``[n]`` bool.
    group
        ``[n]`` what is drawn together: the text of each. With one group each is drawn by itself.
    seed
        Of the draws.

    Returns
    -------
    dict of ndarray
        ``auroc``, ``auroc_low``, ``auroc_high`` (95 % of 1000 bootstrap samples, Efron 1979),
        ``auroc_shuffled``, ``_low``, ``_high``: the mean with labels dealt out at random, and what
        95 % of these lie between.
    """
    kept = np.isfinite(scores)
    scores, one, group = scores[kept], positive[kept].astype(float), group[kept]
    names = ("auroc", "auroc_low", "auroc_high")
    shuffled = ("auroc_shuffled", "auroc_shuffled_low", "auroc_shuffled_high")
    if not 0 < one.sum() < len(one):
        return dict.fromkeys((*names, *shuffled), np.array(np.nan))
    _, member = np.unique(group, return_inverse=True)
    if member.max() == 0:
        member = np.arange(len(one))
    weights = resamples(member.max() + 1, seed)[:, member]
    random = np.random.default_rng((seed, 1))
    dealt = np.stack([random.permutation(one) for _ in range(DRAWS)])
    found: dict[str, np.ndarray] = {}
    for keys, ones, zeros in (
        (names, weights * one, weights * (1 - one)),
        (shuffled, dealt, 1 - dealt),
    ):
        draws = auroc(scores, ones, zeros)
        low, high = ends(draws[:, None], np.array([True]))
        found |= dict(zip(keys, (np.array(draws.mean()), low[0], high[0]), strict=True))
    return found | {"auroc": auroc(scores, one[None], 1 - one[None])[0]}
