"""How well a score tells two sets of texts apart, with intervals over texts."""

from __future__ import annotations

import numpy as np

from layerlens.analyses.lenses.auroc import auroc
from layerlens.metrics.bootstrap import DRAWS, ends, resamples

KEPT = 0.95
"""Share of the texts of the known kind that a threshold keeps (FPR95)."""


def false_positives(scores: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Share of the positives that lie within the threshold that keeps 95 % of the negatives.

    Called FPR95 where the known kind counts as the positive one: Liang, Li and Srikant (2018),
    Enhancing The Reliability of Out-of-distribution Image Detection in Neural Networks, arXiv
    1706.02690. The threshold is the smallest score up to which 95 % of the negatives lie.

    Parameters
    ----------
    scores
        ``[n]``, finite.
    positive, negative
        ``[draw, n]`` how often each counts as one and as the other; each at least once a draw.

    Returns
    -------
    ndarray
        ``[draw]`` float64.

    Examples
    --------
    >>> is_one = np.array([[0, 0, 1, 1]])
    >>> false_positives(np.array([0.1, 0.3, 0.2, 0.9]), is_one, 1 - is_one).tolist()
    [0.5]
    """
    order = np.argsort(scores, kind="stable")
    first = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    ones, zeros = (
        np.add.reduceat(each[:, order], first, axis=1).cumsum(1) for each in (positive, negative)
    )
    enough = zeros >= KEPT * zeros[:, -1:] - 1e-9
    found: np.ndarray = ones[np.arange(len(ones)), enough.argmax(1)] / ones[:, -1]
    return found


def average_precision(scores: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Area under the curve of precision over recall (AUPR), as a sum of steps.

    ``sum_k (R_k - R_(k-1)) P_k`` over thresholds from the largest score down, equal scores at once:
    Davis and Goadrich (2006), The Relationship Between Precision-Recall and ROC Curves. A score
    that knows nothing has the share of the positives.

    Parameters
    ----------
    scores
        ``[n]``, finite; larger for positives.
    positive, negative
        ``[draw, n]`` how often, or with what weight, each counts as one and as the other.

    Returns
    -------
    ndarray
        ``[draw]`` float64; NaN where there are no positives.

    Examples
    --------
    >>> is_one = np.array([[0, 0, 1, 1]])
    >>> average_precision(np.array([0.1, 0.4, 0.35, 0.8]), is_one, 1 - is_one).round(3).tolist()
    [0.833]
    """
    order = np.argsort(-scores, kind="stable")
    first = np.flatnonzero(np.diff(-scores[order], prepend=-np.inf))
    ones, zeros = (np.add.reduceat(each[:, order], first, axis=1) for each in (positive, negative))
    found, every = ones.cumsum(1), (ones + zeros).cumsum(1)
    precision = found / np.where(every > 0, every, 1)
    total = found[:, -1]
    area: np.ndarray = (ones * precision).sum(1) / np.where(total > 0, total, np.nan)
    return area


def separation(
    negative: np.ndarray,
    positive: np.ndarray,
    units: tuple[np.ndarray, np.ndarray],
    seed: int,
) -> dict[str, float]:
    """How well scores tell two kinds apart that should be larger for positives.

    Parameters
    ----------
    negative, positive
        ``[n]`` and ``[m]``, finite: the scores of texts of either kind.
    units
        Of the negatives and of the positives, what is drawn together: the text or its group.
    seed
        Of the draws; each kind is drawn by itself.

    Returns
    -------
    dict of float
        ``auroc``, ``aupr_out`` (of the positives), ``aupr_in`` (of the negatives, by minus the
        score) and ``fpr95``, each with ``_low`` and ``_high`` of its 95 % interval, which is NaN
        where a kind has a single unit.
    """
    members = [np.unique(unit, return_inverse=True)[1] for unit in units]
    counts = [int(member.max()) + 1 for member in members]
    drawn = [
        np.vstack([np.ones(len(member)), resamples(count, seed + side)[:, member]])
        for side, (member, count) in enumerate(zip(members, counts, strict=True))
    ]
    zeros = np.hstack([drawn[0], np.zeros((len(drawn[0]), len(positive)))])
    ones = np.hstack([np.zeros((len(drawn[1]), len(negative))), drawn[1]])
    found = _measured(np.concatenate([negative, positive]), ones, zeros)
    several = np.array([min(counts) > 1])
    return _numbers({name: (values[0], values[1:]) for name, values in found.items()}, several)


def between_halves(
    scores: np.ndarray, unit: np.ndarray, seed: int, odds: float = 1.0
) -> dict[str, float]:
    """The same of one kind, dealt into two halves at random 1000 times: what chance gives.

    Parameters
    ----------
    scores
        ``[score, n]``, finite.
    unit
        ``[n]`` what is dealt together, at least two different ones.
    seed
        Of the halves.
    odds
        Positives for each negative in what this stands beside: precision depends on it, so that
        one half weighs that many times the other.

    Returns
    -------
    dict of float
        As `separation` has them: means over halves and scores; with ``_low`` and ``_high``, what
        95 % of them lie between.
    """
    _, member = np.unique(unit, return_inverse=True)
    half = np.arange(member.max() + 1) % 2.0
    random = np.random.default_rng((seed, 2))
    ones = random.permuted(np.tile(half, (DRAWS, 1)), axis=1)[:, member]
    weight = odds * (1 - ones).sum(1, keepdims=True) / ones.sum(1, keepdims=True)
    each = [_measured(values, weight * ones, 1 - ones) for values in scores]
    every = {name: np.concatenate([found[name] for found in each]) for name in each[0]}
    found = {name: (float(values.mean()), values) for name, values in every.items()}
    return _numbers(found, np.array([True]))


def _measured(scores: np.ndarray, ones: np.ndarray, zeros: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "auroc": auroc(scores, ones, zeros),
        "aupr_out": average_precision(scores, ones, zeros),
        "aupr_in": average_precision(-scores, zeros, ones),
        "fpr95": false_positives(scores, ones, zeros),
    }


def _numbers(found: dict[str, tuple[float, np.ndarray]], several: np.ndarray) -> dict[str, float]:
    """A number of each measure, and the ends of the interval of its draws."""
    numbers: dict[str, float] = {}
    for name, (value, draws) in found.items():
        low, high = ends(draws[:, None], several)
        three = zip(("", "_low", "_high"), (value, low[0], high[0]), strict=True)
        numbers |= {name + end: float(number) for end, number in three}
    return numbers
