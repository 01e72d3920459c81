"""Least squares of what a part writes on what was written before it: one weight for each writer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from layerlens.metrics.bootstrap import ends, resamples


@dataclass(frozen=True)
class Regression:
    """``output = sum of weight * write + intercept``.

    Attributes
    ----------
    weights
        ``[term]``.
    intercept
        ``[d_model]``.
    mean
        ``[d_model]``, the mean output: what an intercept alone would give.
    condition
        Of the centred writes' products: how much larger the best determined combination of
        writers is than the worst; where it is large, their weights are not known apart.
    """

    weights: np.ndarray
    intercept: np.ndarray
    mean: np.ndarray
    condition: float

    def errors(self, writes: np.ndarray, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Squared errors of this and of the mean output alone, ``[text]`` each."""
        off = outputs - self.intercept - np.einsum("tkd,k->td", writes, self.weights)
        return np.square(off).sum(-1), np.square(outputs - self.mean).sum(-1)


def regress(writes: np.ndarray, outputs: np.ndarray, ridge: float = 0.0) -> Regression:
    """Find the weights with the least squared error over all texts and entries.

    Parameters
    ----------
    writes
        ``[text, term, d_model]`` float64.
    outputs
        ``[text, d_model]`` float64.
    ridge
        Penalty on the squared weights, as a share of the mean square of a centred write.

    Examples
    --------
    >>> random = np.random.default_rng(0)
    >>> writes = random.normal(size=(8, 2, 5))
    >>> regress(writes, 2 * writes[:, 0] - writes[:, 1] + 3).weights.round(6).tolist()
    [2.0, -1.0]
    """
    count = np.ones((1, len(writes)))
    gram, products, means, mean = _centred(writes, outputs, count)
    weights = _solve(gram, products, ridge)[0]
    values = np.linalg.eigvalsh(gram[0])
    condition = float(values[-1] / values[0]) if values[0] > 0 else np.inf
    intercept = mean[0] - np.einsum("k,kd->d", weights, means[0])
    return Regression(weights, intercept, mean[0], condition)


def weight_intervals(
    writes: np.ndarray, outputs: np.ndarray, ridge: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of the 95 % interval of each weight, texts drawn again: ``[term]`` each."""
    draws = resamples(len(writes))
    parts = [
        _solve(*_centred(writes, outputs, some)[:2], ridge)
        for some in np.array_split(draws, max(1, len(draws) // 50))
    ]
    found = np.concatenate(parts)
    return ends(found, np.full(found.shape[1], len(writes) > 1))


def explained(errors: tuple[np.ndarray, np.ndarray]) -> tuple[float, float, float]:
    """Share of the squared error of the mean that a regression does away with, and its interval.

    Parameters
    ----------
    errors
        From :meth:`Regression.errors` on texts that taught nothing.

    Returns
    -------
    share, low, high
        At most 1; 0 for the mean itself, below it for what does worse.
    """
    own, mean = errors
    draws = resamples(len(own))
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = 1 - (draws @ own) / (draws @ mean)
        low, high = ends(drawn[:, None], np.array([len(own) > 1]))
        return float(1 - own.sum() / mean.sum()), float(low[0]), float(high[0])


def mean_of(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of ``[text, n]`` over texts, and both ends of its interval, ``[n]`` each."""
    draws = resamples(len(values))
    low, high = ends(draws @ values / len(values), np.full(values.shape[1], len(values) > 1))
    return values.mean(0), low, high


def _centred(
    writes: np.ndarray, outputs: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Sums of products about the means where texts count as often as ``[draw, text]`` says."""
    n = counts.sum(1)[:, None, None]
    means = np.einsum("rt,tkd->rkd", counts, writes, optimize=True) / n
    mean = counts @ outputs / n[:, 0]
    gram = np.einsum("rt,tkj->rkj", counts, np.einsum("tkd,tjd->tkj", writes, writes))
    products = np.einsum("rt,tk->rk", counts, np.einsum("tkd,td->tk", writes, outputs))
    gram = gram - n * means @ means.transpose(0, 2, 1)
    products = products - n[:, 0] * np.einsum("rkd,rd->rk", means, mean)
    return gram, products, means, mean


def _solve(gram: np.ndarray, products: np.ndarray, ridge: float) -> np.ndarray:
    """``[draw, term]``; where terms cannot be told apart, the shortest of the solutions."""
    size = np.trace(gram, axis1=1, axis2=2)[:, None, None] / gram.shape[-1]
    penalised = gram + ridge * size * np.eye(gram.shape[-1])
    inverse = np.linalg.pinv(penalised, rcond=1e-12, hermitian=True)
    return np.asarray(np.einsum("rkj,rj->rk", inverse, products))
