"""Mean-difference directions between two conditions, and how well each separates them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Separation:
    """How well one layer tells two conditions apart.

    Attributes
    ----------
    direction
        ``[width]``: mean of the positive states minus mean of the negative ones.
    norm
        Its length.
    mean_norm
        Mean length of the states.
    auc
        Area under the ROC curve of held-out projections: the chance that a positive prompt
        projects higher than a negative one, on the direction of all *other* pairs. NaN for one
        pair.
    fisher
        Squared distance of the held-out projections' means over the sum of their variances. NaN
        for fewer than three pairs, and where nothing varies or differs.
    jsd
        Mean over pairs of the Jensen-Shannon divergence of the softmax over channels, nats in
        [0, ln 2].
    consistency
        Mean cosine of the pairs' own differences with the direction.
    """

    direction: np.ndarray
    norm: float
    mean_norm: float
    auc: float
    fisher: float
    jsd: float
    consistency: float


def separate(positive: np.ndarray, negative: np.ndarray) -> Separation:
    """Compare states of paired prompts.

    Parameters
    ----------
    positive, negative
        ``[pair, width]`` float64.
    """
    differences = positive - negative
    direction = differences.mean(0)
    norm = float(np.linalg.norm(direction))
    lengths = np.linalg.norm(differences, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosines = differences @ direction / (lengths * norm)
    high, low = held_out(positive, negative)
    return Separation(
        direction,
        norm,
        float(np.linalg.norm(np.concatenate([positive, negative]), axis=1).mean()),
        ranked_higher(high, low),
        _fisher(high, low),
        float(np.mean([channel_jsd(a, b) for a, b in zip(positive, negative, strict=True)])),
        float(cosines.mean()) if np.isfinite(cosines).all() else float("nan"),
    )


def held_out(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Project each pair on the unit direction of all other pairs, from their common middle.

    Returns
    -------
    tuple of np.ndarray
        ``[pair]`` each; empty for a single pair.
    """
    count = len(positive)
    if count < 2:
        return np.empty(0), np.empty(0)
    differences, middles = positive - negative, (positive + negative) / 2
    others = (differences.sum(0) - differences) / (count - 1)
    middle = (middles.sum(0) - middles) / (count - 1)
    length = np.linalg.norm(others, axis=1, keepdims=True)
    unit = np.divide(others, length, out=np.zeros_like(others), where=length > 0)
    return ((positive - middle) * unit).sum(1), ((negative - middle) * unit).sum(1)


def ranked_higher(high: np.ndarray, low: np.ndarray) -> float:
    """Share of (high, low) pairs in which the first is larger; ties count half."""
    if not len(high):
        return float("nan")
    above = (high[:, None] > low).mean() + 0.5 * (high[:, None] == low).mean()
    return float(above)


def _fisher(high: np.ndarray, low: np.ndarray) -> float:
    if len(high) < 3:
        return float("nan")
    within = high.var(ddof=1) + low.var(ddof=1)
    between = (high.mean() - low.mean()) ** 2
    return float(between / within) if within > 0 else float("nan")


def channel_jsd(a: np.ndarray, b: np.ndarray) -> float:
    """Jensen-Shannon divergence in nats of two states' softmax over channels.

    Wang and Shu, Backdoor activation attack (2023), choose their layer by it; their code passes
    probabilities where logarithms belong, this is the divergence itself.
    """
    p, q = _softmax(a), _softmax(b)
    middle = (p + q) / 2
    terms = [
        np.where(x > 0, x * (np.log(np.where(x > 0, x, 1)) - np.log(np.where(x > 0, middle, 1))), 0)
        for x in (p, q)
    ]
    return float(max(0.0, 0.5 * (terms[0].sum() + terms[1].sum())))


def _softmax(x: np.ndarray) -> np.ndarray:
    exponential = np.exp(x - x.max())
    shares: np.ndarray = exponential / exponential.sum()
    return shares
