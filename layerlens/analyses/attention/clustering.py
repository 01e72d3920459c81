"""Groups of things that are alike: average linkage, and how well a number of groups fits."""

from __future__ import annotations

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform


def trees_cut(distance: np.ndarray, most: int) -> dict[int, np.ndarray]:
    """Labels ``[n]`` of average linkage for each number of groups from 2 on.

    Parameters
    ----------
    distance
        ``[n, n]``, symmetric with zeros on its diagonal.
    most
        The largest number of groups.

    Returns
    -------
    dict
        Number to labels from 0, in the order in which groups first occur; numbers that distances
        which are equal do not allow are left out.
    """
    tree = linkage(squareform(distance, checks=False), method="average")
    found = {}
    for number in range(2, min(most, len(distance) - 1) + 1):
        labels = ordered(fcluster(tree, number, criterion="maxclust"))
        if labels.max() + 1 == number:
            found[number] = labels
    return found


def ordered(labels: np.ndarray) -> np.ndarray:
    """The same groups, numbered from 0 in the order in which they first occur."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank: np.ndarray = first.argsort().argsort()[inverse]
    return rank


def silhouettes(distance: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How much nearer each is to its own group than to the next one: ``[n]``, -1 to 1.

    Rousseeuw (1987), Silhouettes; 0 for one that is alone in its group.
    """
    member = labels[:, None] == np.arange(labels.max() + 1)
    size = member.sum(0)
    total = distance @ member
    own = size[labels] - 1
    index = np.arange(len(labels))
    with np.errstate(divide="ignore", invalid="ignore"):
        within = total[index, labels] / own
        to_others = total / size
        to_others[index, labels] = np.inf
        beyond = to_others.min(1)
        found = (beyond - within) / np.maximum(within, beyond)
    return np.where((own > 0) & np.isfinite(found), found, 0.0)
