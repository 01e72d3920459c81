"""How far an inserted token pulls the similarity of two texts to the mean, in numbers."""

from __future__ import annotations

from dataclasses import dataclass
from math import e

import numpy as np

SCORE_WEIGHTS = np.array([0.35, 0.35, 0.3])
"""Of the places in the score that makes the shortlist."""
SHARE_WEIGHTS = np.array([4, 4, 3]) / 11
"""Of the places in the share of pairs that come nearer to the mean."""
STICKY, REJECTED = 1 - 1 / (3 * e), 1 - 1 / e
"""A token whose share is above the first is sticky, one below the second is not."""
_FALLS, _RISES, _ALONE, _LEAST = 0.1, 0.05, 0.1, 0.01
REACH = 0.8
"""Of the way from the least similar pair to the mean, over which pairs are spread."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of texts that are less similar than the mean.

    Attributes
    ----------
    kept, altered
        ``[pair]``: number of the text that stays as it is, and of the one that is altered.
    similarity
        ``[pair]`` cosine of the two.
    """

    kept: np.ndarray
    altered: np.ndarray
    similarity: np.ndarray

    def __len__(self) -> int:
        return len(self.kept)


def pairs_below(cosines: np.ndarray, texts: list[int], mean: float, count: int) -> Pairs:
    """Pairs below the mean similarity, spread evenly from the least similar one upwards.

    Parameters
    ----------
    cosines
        ``[text, text]``.
    texts
        Numbers of those that pairs are made of.
    count
        How many; fewer where there are no more.

    Examples
    --------
    >>> cosines = np.array([[1, 0.1, 0.9], [0.1, 1, 0.2], [0.9, 0.2, 1]])
    >>> pairs_below(cosines, [0, 1, 2], 0.4, 5).similarity.tolist()
    [0.1, 0.2]
    """
    one, two = (np.array(texts)[places] for places in np.triu_indices(len(texts), 1))
    found = cosines[one, two]
    order = [place for place in np.argsort(found, kind="stable") if found[place] < mean]
    if len(order) > count:
        least = found[order[0]]
        left, order = order, []
        for wanted in np.linspace(least, least + REACH * (mean - least), count):
            nearest = int(np.abs(found[left] - wanted).argmin())
            order.append(left.pop(nearest))
    return Pairs(one[order], two[order], found[order])


def sticky_score(similarity: np.ndarray, alone: np.ndarray) -> float:
    """The score of the shortlist: by how much and how often similarities rise as tokens are added.

    Parameters
    ----------
    similarity
        ``[pair, place, times]``, from 0 times on.
    alone
        ``[pair]`` cosine distance of the token by itself from the text that stays.

    Examples
    --------
    >>> sticky_score(np.array([[[0.0, 0.1, 0.2]] * 3]), np.array([0.0])).__round__(6)
    40.0
    """
    changes = -np.diff(similarity, axis=-1)  # of the distance
    falls, rises = (np.where(x > 0, x, 0).sum(-1) for x in (-changes, changes))
    down, up = ((x > 0).sum(-1) for x in (-changes, changes))
    score = (falls + _FALLS * down + _ALONE * alone[:, None]) / (rises + _RISES * up + _LEAST)
    return float((score @ SCORE_WEIGHTS).mean())


def nearer(similarity: np.ndarray, mean: float) -> np.ndarray:
    """``[pair]``: the weight of the places where a pair comes nearer to the mean.

    Parameters
    ----------
    similarity
        ``[pair, place, times]``, from 0 times on; the mean over all other times is compared.

    Examples
    --------
    >>> rises = [[0.0, 0.2]] * 3
    >>> nearer(np.array([rises, [[0.0, -0.2]] * 3]), 0.5).round(6).tolist()
    [1.0, 0.0]
    """
    after, before = similarity[..., 1:].mean(-1), similarity[..., 0]
    found: np.ndarray = (np.abs(after - mean) < np.abs(before - mean)) @ SHARE_WEIGHTS
    return found


def verdict(share: float) -> str:
    """What a share of pairs that come nearer to the mean says of a token.

    Examples
    --------
    >>> [verdict(share) for share in (0.95, 0.7, 0.5)]
    ['sticky', 'weakly sticky', 'not sticky']
    """
    if share > STICKY:
        return "sticky"
    return "not sticky" if share < REJECTED else "weakly sticky"
